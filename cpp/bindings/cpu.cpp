// The module `_cpu`: which instruction sets this processor and operating system support. Compiled for the oldest processor of the platform.
#include <Python.h>

namespace {

bool append(PyObject* names, const char* name) {
    PyObject* text = PyUnicode_FromString(name);
    const bool done = text != nullptr && PyList_Append(names, text) == 0;
    Py_XDECREF(text);
    return done;
}

PyObject* supported(PyObject*, PyObject*) {
    PyObject* names = PyList_New(0);
    bool done = names != nullptr;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // These ask the operating system too (XGETBV), so a kernel without AVX-512 state does not get AVX-512 code.
    const bool v3 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    done = done && (!v4 || append(names, "v4")) && (!v3 || append(names, "v3"));
#elif defined(__aarch64__)
    done = done && append(names, "neon");
#endif
    if (!done) {
        Py_CLEAR(names);
    }
    return names;
}

PyMethodDef functions[] = {{"supported", supported, METH_NOARGS,
                            "supported() -> list[str]\n\nInstruction sets that this processor and operating system support, best first."},
                           {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, 0, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cpu() { return PyModuleDef_Init(&module); }
