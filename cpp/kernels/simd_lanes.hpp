// Sums and maxima across the lanes of a Vec: a fixed tree, halves added to halves.
#pragma once

#include "kernels/simd.hpp"

namespace fastopt::simd {

template <class T, class F>
FASTOPT_INLINE T fold_lanes(const Vec<T>& v, F&& f) {
    alignas(cache_line) T line[Vec<T>::lanes];
    store(line, v);
#pragma GCC unroll 4
    for (int half = Vec<T>::lanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) {
            line[i] = f(line[i], line[i + half]);
        }
    }
    return line[0];
}
template <class T>
FASTOPT_INLINE T sum_lanes(const Vec<T>& v) {
    return fold_lanes(v, [](T a, T b) FASTOPT_INLINE_LAMBDA { return a + b; });
}
template <class T>
FASTOPT_INLINE T max_lanes(const Vec<T>& v) {
    return fold_lanes(v, [](T a, T b) FASTOPT_INLINE_LAMBDA { return a < b ? b : a; });
}
// The same sums for up to `packet_lanes` Vecs at once, a power of two, as the first lanes of one packet: same tree, same bits. In float
// each step adds the halves of two registers side by side; a transposition first, then the tree, takes more than twice the shuffles. Fewer
// Vecs are repeated, and the compiler sees which operations are.
template <int Count, class T>
FASTOPT_INLINE typename Vec<T>::Packet sum_lanes_together(const Vec<T> (&v)[Count]) {
    using Packet = typename Vec<T>::Packet;
    constexpr int count = Vec<T>::packet_lanes;
    Packet folded[count];
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
        Vec<T> all = v[i % Count];
#pragma GCC unroll 4
        for (int half = Vec<T>::packets / 2; half > 0; half /= 2) {
            for (int j = 0; j < half; ++j) {
                all.p[j] = ei::padd(all.p[j], all.p[j + half]);
            }
        }
        folded[i] = all.p[0];
    }
#if defined(__AVX__)
    if constexpr (std::is_same_v<T, float>) {
        int left = count;
        const auto pairs = [&](auto&& first, auto&& second) FASTOPT_INLINE_LAMBDA {
#pragma GCC unroll 8
            for (int i = 0; i < left / 2; ++i) {
                const Packet a = folded[2 * i];
                const Packet b = folded[2 * i + 1];
                folded[i] = ei::padd(first(a, b), second(a, b));
            }
            left /= 2;
        };
#define FASTOPT_HALVES(first, second)                                                   \
    pairs([](const Packet& a, const Packet& b) FASTOPT_INLINE_LAMBDA { return first; }, \
          [](const Packet& a, const Packet& b) FASTOPT_INLINE_LAMBDA { return second; })
#if defined(__AVX512F__)
        FASTOPT_HALVES(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
        FASTOPT_HALVES(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
        FASTOPT_HALVES(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
        FASTOPT_HALVES(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
        return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), folded[0]);
#else
        FASTOPT_HALVES(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
        FASTOPT_HALVES(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))),
                       _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))));
        FASTOPT_HALVES(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
        return _mm256_permutevar8x32_ps(folded[0], _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#endif
#undef FASTOPT_HALVES
    }
#endif
    ei::PacketBlock<Packet, count> square;
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
        square.packet[i] = folded[i];
    }
    ei::ptranspose(square);
#pragma GCC unroll 4
    for (int half = count / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) {
            square.packet[i] = ei::padd(square.packet[i], square.packet[i + half]);
        }
    }
    return square.packet[0];
}

}  // namespace fastopt::simd
