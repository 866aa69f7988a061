// The module `_cpu`: which instruction sets this processor and operating system support. Compiled for the oldest processor of the platform.
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

py::list supported() {
    py::list names;
#if defined(__x86_64__)
    __builtin_cpu_init();
    // These ask the operating system too (XGETBV), so a kernel without AVX-512 state does not get AVX-512 code.
    const bool v3 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (v4) {
        names.append("v4");
    }
    if (v3) {
        names.append("v3");
    }
#elif defined(__aarch64__)
    names.append("neon");
#endif
    return names;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.def("supported", &supported, "Instruction sets that this processor and operating system support, best first.");
}
