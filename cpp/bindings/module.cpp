// The name by which Python imports the core of one instruction set: `_core_v3`. Python's own header is enough for it; pybind11's takes as
// long to compile as all kernels of activations.
#include <Python.h>

#define FASTOPT_JOIN_(a, b) a##b
#define FASTOPT_JOIN(a, b) FASTOPT_JOIN_(a, b)

extern "C" PyObject* PyInit__core();  // bind_module.cpp

PyMODINIT_FUNC FASTOPT_JOIN(PyInit__core_, FASTOPT_ISA)() { return PyInit__core(); }
