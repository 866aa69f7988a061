// Numbers below the smallest normal one (1.2e-38 in float32) as 0, while training steps run.
//
// Where a gradient stays 0 (a unit that no longer fires) Adam's moments shrink until 0.9 times the smallest of these numbers is rounded to
// itself, and remain there; late in training gradients of a loss near 0 are such numbers too. Some processors work them out slowly: on an
// Emerald Rapids steps of 30-64-64-2 took twice as long. Kernels, losses, optimizers and networks that are called alone keep them.
#pragma once

#include <cstdint>

namespace fastopt {

// How this thread rounds, and what it does with such numbers.
using FloatControl = std::uint64_t;

#if defined(__x86_64__)
constexpr FloatControl flushes = 0x8040;  // results (FTZ) and operands (DAZ)
inline FloatControl float_control() { return __builtin_ia32_stmxcsr(); }
inline void set_float_control(FloatControl control) { __builtin_ia32_ldmxcsr(static_cast<unsigned>(control)); }
#elif defined(__aarch64__)
constexpr FloatControl flushes = FloatControl{1} << 24;  // FZ
inline FloatControl float_control() {
    FloatControl control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}
inline void set_float_control(FloatControl control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
#endif

// Another control for this thread, until the end of a scope.
class WithFloatControl {
   public:
    explicit WithFloatControl(FloatControl control) : before_(float_control()) { set_float_control(control); }
    ~WithFloatControl() { set_float_control(before_); }
    WithFloatControl(const WithFloatControl&) = delete;
    WithFloatControl& operator=(const WithFloatControl&) = delete;

   private:
    const FloatControl before_;
};

// On this thread, and on those of the regions that it begins meanwhile (threads.cpp).
class FlushDenormals : WithFloatControl {
   public:
    FlushDenormals() : WithFloatControl(float_control() | flushes) {}
};

}  // namespace fastopt
