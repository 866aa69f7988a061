// Which processor this is, where that decides what is fast. It never decides what comes out.
#pragma once

#if defined(__AVX512F__)
#include <cpuid.h>
#endif

namespace fastopt {

// Of those with AVX-512: a Zen 4 executes 512 bits as two halves. The others do it at once, a Zen 5 by its maker's word: none was at hand.
enum class Processor { without_avx512, intel, zen4, other };

inline const Processor processor = [] {
#if defined(__AVX512F__)
    if (__builtin_cpu_is("intel")) {
        return Processor::intel;
    }
    unsigned signature = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    __get_cpuid(1, &signature, &b, &c, &d);
    constexpr unsigned zen4_family = 25;
    const bool zen4 = __builtin_cpu_is("amd") && ((signature >> 8) & 15) + ((signature >> 20) & 255) == zen4_family;
    return zen4 ? Processor::zen4 : Processor::other;
#else
    return Processor::without_avx512;
#endif
}();

inline bool executes_512_bits() { return processor == Processor::intel || processor == Processor::other; }

}  // namespace fastopt
