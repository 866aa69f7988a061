// Methods that Python calls without pybind11's dispatcher: to find an overload, the instance's type and casters for the arguments takes as
// long as a small layer.
#pragma once

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

#include <new>
#include <stdexcept>

#include "bindings/bind.hpp"

namespace fastopt {

// The exception in flight as Python's, by the rules of pybind11.
inline void raise_in_python() noexcept {
    try {
        throw;
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::bad_alloc& error) {
        PyErr_SetString(PyExc_MemoryError, error.what());
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
}

// method(self, x, y) as a function of x and, or it is None, y; both by position. It keeps `self`, an instance of the class of T, alive.
template <class T, py::object (*method)(T&, const py::object&, const py::object&)>
py::object direct_method(const py::object& self, const char* name) {
    static const auto call = [](PyObject* of, PyObject* const* arguments, Py_ssize_t count) -> PyObject* {
        if (count < 1 || count > 2) {
            PyErr_Format(PyExc_TypeError, "one or two arguments are needed; got %zd", count);
            return nullptr;
        }
        try {
            T& instance = *static_cast<T*>(PyCapsule_GetPointer(of, nullptr));
            const auto x = py::reinterpret_borrow<py::object>(arguments[0]);
            const auto y = py::reinterpret_borrow<py::object>(count == 2 ? arguments[1] : Py_None);
            return method(instance, x, y).release().ptr();
#if defined(__GLIBCXX__)
        } catch (const abi::__forced_unwind&) {  // the thread ends, see Release
            throw;
#endif
        } catch (...) {
            raise_in_python();
            return nullptr;
        }
    };
    using Call = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
    static PyMethodDef definition{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(static_cast<Call>(call))), METH_FASTCALL,
                                  nullptr};
    const auto holder = py::reinterpret_steal<py::object>(PyCapsule_New(
        py::cast<T*>(self), nullptr, [](PyObject* capsule) { Py_XDECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule))); }));
    if (!holder || PyCapsule_SetContext(holder.ptr(), self.ptr()) != 0) {
        throw py::error_already_set();
    }
    self.inc_ref();
    const auto function = py::reinterpret_steal<py::object>(PyCFunction_New(&definition, holder.ptr()));
    if (!function) {
        throw py::error_already_set();
    }
    return function;
}

}  // namespace fastopt
