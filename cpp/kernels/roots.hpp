// Square roots of several Vecs at once, some of them from multiply-adds, which leaves the divider to the others and to quotients. Correctly
// rounded, as the processor's own are, so the bits do not depend on who takes which.
#pragma once

#include "kernels/processor.hpp"
#include "kernels/simd.hpp"

namespace fastopt::simd {

// How many of four are best taken so: it takes as many multiply-adds again as the rest of an update, of which a Zen 4 does one of 512 bits
// a cycle. Where nothing was measured, the processor's own roots.
constexpr int root_group = 4;
inline int roots_from_products() {
    switch (processor) {
        case Processor::intel:
            return root_group;
        case Processor::zen4:
            return 1;
        default:
            return 0;
    }
}
#if defined(__AVX512F__)
constexpr bool takes_roots_from_products = true;

// From any y within 2^-14 of 1/sqrt(v): one Newton step on g = v y and h = y/2, then the remainder v - g g, which is exact, times h. For
// every float v in [1, 4) and every float y so near the result was seen to be the correctly rounded root (2.4e10 pairs). Powers of four
// change nothing as long as no remainder of half an ulp falls below the normal numbers, and no product beyond the largest; 0 gives 0.
template <int Count, int All>
FASTOPT_INLINE void roots_together(const Vec<float> (&square)[All], Vec<float> (&root)[All]) {
#pragma GCC unroll 8
    for (int i = Count; i < All; ++i) {
        root[i] = sqrt(square[i]);
    }
    constexpr int smallest = 0x0D800000;  // 2^-100
    constexpr int infinity = 0x7F800000;
    const __m512 half = _mm512_set1_ps(0.5f);
    const __m512 least = _mm512_castsi512_ps(_mm512_set1_epi32(smallest));
    __mmask16 others = 0;  // neither 0 nor from `smallest` up to the largest number
    __m512 g[Count];
    __m512 h[Count];
    __m512 rest[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        const __m512i bits = _mm512_castps_si512(square[i].p[0]);
        const __m512i above = _mm512_sub_epi32(bits, _mm512_set1_epi32(smallest));
        const __mmask16 outside = _mm512_cmpge_epu32_mask(above, _mm512_set1_epi32(infinity - smallest));
        others = static_cast<__mmask16>(others | _mm512_mask_test_epi32_mask(outside, bits, bits));
        h[i] = _mm512_rsqrt14_ps(_mm512_max_ps(square[i].p[0], least));
    }
    if (__builtin_expect(others != 0, 0)) {
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            root[i] = sqrt(square[i]);
        }
        return;
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        g[i] = _mm512_mul_ps(square[i].p[0], h[i]);
        h[i] = _mm512_mul_ps(h[i], half);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        rest[i] = _mm512_fnmadd_ps(g[i], h[i], half);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        g[i] = _mm512_fmadd_ps(g[i], rest[i], g[i]);
        h[i] = _mm512_fmadd_ps(h[i], rest[i], h[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        rest[i] = _mm512_fnmadd_ps(g[i], g[i], square[i].p[0]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        root[i].p[0] = _mm512_fmadd_ps(rest[i], h[i], g[i]);
    }
}
#else
constexpr bool takes_roots_from_products = false;
template <int Count, int All>
void roots_together(const Vec<float> (&square)[All], Vec<float> (&root)[All]);  // nobody calls it
#endif

}  // namespace fastopt::simd
