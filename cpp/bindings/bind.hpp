// What the binding files offer to bind_module.cpp, and what they share.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

#include "core/config.hpp"
#include "core/profile.hpp"

namespace fastopt {

namespace py = pybind11;

void bind_runtime(py::module_& m);
void bind_turn(py::module_& m);
void bind_copies(py::module_& m);
void bind_checks(py::module_& m);
void bind_kernels(py::module_& m);
void bind_profile(py::module_& m);
void bind_losses(py::module_& m);
void bind_optimizers(py::module_& m);
void bind_network(py::module_& m);
void bind_train_step(py::module_& m);
void bind_second_order(py::module_& m);

// A mapping of options as the core reads it.
Config config_from(const py::handle& mapping);
// Ctrl-C during a long call.
void raise_interrupt();

// Python's other threads go on while it lives. A daemon thread that is through when the interpreter is ending does not come back: before
// Python 3.14 its stack is unwound from here, which pybind11's own class answers with std::terminate.
class Release {
   public:
    Release() : state_(PyEval_SaveThread()) {}
    Release(const Release&) = delete;
    Release& operator=(const Release&) = delete;
    ~Release() noexcept(false) { PyEval_RestoreThread(state_); }

   private:
    PyThreadState* state_;
};
// A phase of a profile that has no layers, by its name.
Phase phase_from(const std::string& name);

// "Loss_float32" and "Loss_float64".
template <class T>
std::string class_name(const char* kind) {
    return std::string(kind) + (std::is_same_v<T, float> ? "_float32" : "_float64");
}

}  // namespace fastopt
