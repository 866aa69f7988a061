// What the binding files offer to bind_module.cpp, and what they share.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <string>
#include <type_traits>

#include "core/check.hpp"
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

// A rate that is finite in float64 may not be one in float32.
template <class T>
void check_rate(double learning_rate) {
    check(std::isfinite(learning_rate) && learning_rate >= 0, "learning_rate must be a finite number of at least 0; got ", learning_rate);
    check(std::isfinite(static_cast<T>(learning_rate)), "learning_rate must be a finite number of at least 0 in ",
          std::is_same_v<T, float> ? "float32" : "float64", "; got ", learning_rate);
}

}  // namespace fastopt
