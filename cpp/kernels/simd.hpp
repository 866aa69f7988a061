// The SIMD layer: one cache line of T as a value, over Eigen's packets. This is the only place that includes Eigen.
//
// Vec<T> has the same number of lanes for every instruction set (16 floats, 8 doubles; one register with AVX-512, two with AVX2, four with
// NEON), so tails, reductions and their order, hence the bits, are the same everywhere. No operation here is approximate beyond what its
// comment says, and none is contracted by the compiler (-ffp-contract=off): what is fused is written as fma.
#pragma once

// Without this Eigen takes square roots from approximate reciprocals, which differ between instruction sets.
#define EIGEN_FAST_MATH 0
#include <Eigen/Core>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/types.hpp"
#include "kernels/processor.hpp"

// What runs for every packet is never a call: one costs more than its arithmetic, because arguments and constants go through memory. The
// compiler's own choice depends on how much it has inlined before. FASTOPT_INLINE_LAMBDA follows the parameters of a lambda.
#define FASTOPT_INLINE EIGEN_ALWAYS_INLINE
#if defined(__GNUC__)
#define FASTOPT_INLINE_LAMBDA __attribute__((always_inline))
#else
#define FASTOPT_INLINE_LAMBDA
#endif

namespace fastopt::simd {

namespace ei = Eigen::internal;

template <class T>
struct Vec {
    using Packet = typename ei::packet_traits<T>::type;
    static constexpr int packet_lanes = ei::unpacket_traits<Packet>::size;
    static constexpr int lanes = static_cast<int>(line_elements<T>);
    static constexpr int packets = lanes / packet_lanes;

    Packet p[packets];
};

template <class T, class F>
FASTOPT_INLINE Vec<T> map(F&& f) {
    Vec<T> out;
#pragma GCC unroll 4
    for (int i = 0; i < Vec<T>::packets; ++i) {
        out.p[i] = f(i);
    }
    return out;
}

// ---- memory -------------------------------------------------------------------------------------------------------------------------

template <class T>
FASTOPT_INLINE Vec<T> load(const T* from) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::ploadu<typename Vec<T>::Packet>(from + i * Vec<T>::packet_lanes); });
}
template <class T>
FASTOPT_INLINE void store(T* to, const Vec<T>& v) {
#pragma GCC unroll 4
    for (int i = 0; i < Vec<T>::packets; ++i) {
        ei::pstoreu(to + i * Vec<T>::packet_lanes, v.p[i]);
    }
}
// To a whole line, and past the cache where the processor can: the line is not fetched before it is written. Whoever streams calls
// `streamed` before another thread may look.
template <class T>
FASTOPT_INLINE void stream(T* to, const Vec<T>& v) {
#if defined(__AVX__)
#pragma GCC unroll 4
    for (int i = 0; i < Vec<T>::packets; ++i) {
        T* part = to + i * Vec<T>::packet_lanes;
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<T, float>) {
            _mm512_stream_ps(part, v.p[i]);
        } else {
            _mm512_stream_pd(part, v.p[i]);
        }
#else
        if constexpr (std::is_same_v<T, float>) {
            _mm256_stream_ps(part, v.p[i]);
        } else {
            _mm256_stream_pd(part, v.p[i]);
        }
#endif
    }
#else
    store(to, v);
#endif
}
inline void streamed() {
#if defined(__AVX__)
    _mm_sfence();
#endif
}
template <class T>
FASTOPT_INLINE Vec<T> set1(T value) {
    return map<T>([&](int) FASTOPT_INLINE_LAMBDA { return ei::pset1<typename Vec<T>::Packet>(value); });
}
template <class T>
FASTOPT_INLINE Vec<T> zero() {
    return set1(T(0));
}
#if defined(__AVX512F__)
FASTOPT_INLINE __mmask16 first_mask(Index count) { return static_cast<__mmask16>((1u << count) - 1u); }
#endif
// The first `count` elements, zeros behind them.
template <class T>
FASTOPT_INLINE Vec<T> load_partial(const T* from, Index count) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        return {{_mm512_maskz_loadu_ps(first_mask(count), from)}};
    } else {
        return {{_mm512_maskz_loadu_pd(static_cast<__mmask8>(first_mask(count)), from)}};
    }
#else
    alignas(cache_line) T line[Vec<T>::lanes] = {};
    std::memcpy(line, from, static_cast<std::size_t>(count) * sizeof(T));
    return load(line);
#endif
}
template <class T>
FASTOPT_INLINE void store_partial(T* to, const Vec<T>& v, Index count) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        _mm512_mask_storeu_ps(to, first_mask(count), v.p[0]);
    } else {
        _mm512_mask_storeu_pd(to, static_cast<__mmask8>(first_mask(count)), v.p[0]);
    }
#else
    alignas(cache_line) T line[Vec<T>::lanes];
    store(line, v);
    std::memcpy(to, line, static_cast<std::size_t>(count) * sizeof(T));
#endif
}
// An element of each of the first `count` rows, zeros behind them.
template <class T>
FASTOPT_INLINE Vec<T> load_column(const T* from, Index ld, Index count) {
    using V = Vec<T>;
    if (ld == 1) {
        return count == V::lanes ? load(from) : load_partial(from, count);
    }
    if (count == V::lanes) {
        return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pgather<T, typename V::Packet>(from + i * V::packet_lanes * ld, ld); });
    }
    alignas(cache_line) T line[V::lanes] = {};
    for (Index i = 0; i < count; ++i) {
        line[i] = from[i * ld];
    }
    return load(line);
}
template <class T>
FASTOPT_INLINE void store_column(T* to, Index ld, const Vec<T>& v, Index count) {
    if (ld == 1) {
        count == Vec<T>::lanes ? store(to, v) : store_partial(to, v, count);
        return;
    }
    alignas(cache_line) T line[Vec<T>::lanes];
    store(line, v);
    for (Index i = 0; i < count; ++i) {
        to[i * ld] = line[i];
    }
}
#if defined(__AVX512F__)
// Four columns of eight rows, turned: to[i * stride + r] = row(r)[i].
template <class Row>
FASTOPT_INLINE void turn_eight(const Row& row, float* to, Index stride) {
    __m256 v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        v[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(j))), _mm_loadu_ps(row(j + 4)), 1);
    }
    const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
    const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
    const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
    _mm256_storeu_ps(to + stride, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
    _mm256_storeu_ps(to + 2 * stride, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
    _mm256_storeu_ps(to + 3 * stride, _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)));
}
// The same of sixteen rows.
template <class Row>
FASTOPT_INLINE void turn_sixteen(const Row& row, float* to, Index stride) {
    __m512 v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        v[j] = _mm512_castps128_ps512(_mm_loadu_ps(row(j)));
        v[j] = _mm512_insertf32x4(v[j], _mm_loadu_ps(row(j + 4)), 1);
        v[j] = _mm512_insertf32x4(v[j], _mm_loadu_ps(row(j + 8)), 2);
        v[j] = _mm512_insertf32x4(v[j], _mm_loadu_ps(row(j + 12)), 3);
    }
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1]));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
    _mm512_storeu_ps(to, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
    _mm512_storeu_ps(to + stride, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
    _mm512_storeu_ps(to + 2 * stride, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
    _mm512_storeu_ps(to + 3 * stride, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
}
#endif
// A square of packet_lanes rows and columns, turned: to[i * stride + r] = row(r)[i].
template <class T, class Row>
FASTOPT_INLINE void turn(const Row& row, T* to, Index stride) {
    using Packet = typename Vec<T>::Packet;
    constexpr int count = Vec<T>::packet_lanes;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        // Four columns at a time: ptranspose of sixteen is a call with everything through memory.
        if (executes_512_bits()) {
#pragma GCC unroll 1
            for (int i = 0; i < count; i += 4) {
                turn_sixteen([&](Index q) FASTOPT_INLINE_LAMBDA { return row(q) + i; }, to + i * stride, stride);
            }
            return;
        }
#pragma GCC unroll 2
        for (int r = 0; r < count; r += 8) {
#pragma GCC unroll 1
            for (int i = 0; i < count; i += 4) {
                turn_eight([&](Index q) FASTOPT_INLINE_LAMBDA { return row(r + q) + i; }, to + i * stride + r, stride);
            }
        }
        return;
    }
#endif
    ei::PacketBlock<Packet, count> square;
#pragma GCC unroll 16
    for (int r = 0; r < count; ++r) {
        square.packet[r] = ei::ploadu<Packet>(row(r));
    }
    ei::ptranspose(square);
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
        ei::pstoreu(to + i * stride, square.packet[i]);
    }
}
// The same for rows that lie `ld` apart: four from each pointer, or the compiler would keep more of them than it has registers for.
template <class T>
FASTOPT_INLINE void turn(const T* from, Index ld, T* to, Index stride) {
    constexpr int count = Vec<T>::packet_lanes;
    constexpr int group = count < 4 ? count : 4;
    const T* first[count / group];
#pragma GCC unroll 4
    for (int g = 0; g < count / group; ++g) {
        first[g] = from + g * group * ld;
        asm("" : "+r"(first[g]));
    }
    turn<T>([&](Index r) FASTOPT_INLINE_LAMBDA { return first[r / group] + r % group * ld; }, to, stride);
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------------------------

#define FASTOPT_UNARY(name, packet_function)                                                     \
    template <class T>                                                                           \
    FASTOPT_INLINE Vec<T> name(const Vec<T>& a) {                                                \
        return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::packet_function(a.p[i]); }); \
    }
#define FASTOPT_BINARY(name, packet_function)                                                            \
    template <class T>                                                                                   \
    FASTOPT_INLINE Vec<T> name(const Vec<T>& a, const Vec<T>& b) {                                       \
        return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::packet_function(a.p[i], b.p[i]); }); \
    }

FASTOPT_UNARY(operator-, pnegate)
FASTOPT_UNARY(abs, pabs)
FASTOPT_UNARY(sqrt, psqrt)
FASTOPT_BINARY(operator+, padd)
FASTOPT_BINARY(operator-, psub)
FASTOPT_BINARY(operator*, pmul)
FASTOPT_BINARY(operator/, pdiv)

#undef FASTOPT_UNARY
#undef FASTOPT_BINARY

template <class T>
FASTOPT_INLINE Vec<T> fma(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pmadd(a.p[i], b.p[i], c.p[i]); });
}
// sum = fma(a, b, sum), in the register of the sum. Left to itself, GCC lets the result of a loop that is unrolled take the place of a
// factor and moves it back.
template <class T>
FASTOPT_INLINE void accumulate(const Vec<T>& a, const Vec<T>& b, Vec<T>& sum) {
#if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 4
    for (int i = 0; i < Vec<T>::packets; ++i) {
        if constexpr (std::is_same_v<T, float>) {
            asm("vfmadd231ps %2, %1, %0" : "+v"(sum.p[i]) : "v"(a.p[i]), "v"(b.p[i]));
        } else {
            asm("vfmadd231pd %2, %1, %0" : "+v"(sum.p[i]) : "v"(a.p[i]), "v"(b.p[i]));
        }
    }
#else
    sum = fma(a, b, sum);
#endif
}
// sum = fma(*a, b, sum) in one instruction that reads the factor itself, where there is one: a broadcast of its own takes an issue slot
// more.
template <class T>
FASTOPT_INLINE void accumulate_broadcast(const T* a, const Vec<T>& b, Vec<T>& sum) {
#if defined(__AVX512F__) && defined(__GNUC__)
    static_assert(Vec<T>::packets == 1);
    if constexpr (std::is_same_v<T, float>) {
        asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum.p[0]) : "v"(b.p[0]), "m"(*a));
    } else {
        asm("vfmadd231pd %2%{1to8%}, %1, %0" : "+v"(sum.p[0]) : "v"(b.p[0]), "m"(*a));
    }
#else
    sum = fma(set1(*a), b, sum);
#endif
}

// The last bits of each number, as many as an exponent and a sign have, in their place, zeros behind them.
template <class T>
FASTOPT_INLINE Vec<T> shift_into_exponent(const Vec<T>& v) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
        using Packet = typename Vec<T>::Packet;
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<T, float>) {
            return Packet(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v.p[i]), 23)));
        } else {
            return Packet(_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(v.p[i]), 52)));
        }
#elif defined(__AVX2__)
        if constexpr (std::is_same_v<T, float>) {
            return Packet(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v.p[i]), 23)));
        } else {
            return Packet(_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(v.p[i]), 52)));
        }
#else
        using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
        Bits bits[Vec<T>::packet_lanes];
        std::memcpy(bits, &v.p[i], sizeof bits);
        for (Bits& lane : bits) {
            lane <<= sizeof(T) == 4 ? 23 : 52;
        }
        Packet out;
        std::memcpy(&out, bits, sizeof out);
        return out;
#endif
    });
}

// ---- masks --------------------------------------------------------------------------------------------------------------------------

// What a comparison says of each lane. With AVX-512 a bit of a mask register, which Eigen would turn into lanes of a Packet and back;
// elsewhere all bits of the lane or none.
template <class T>
struct Mask {
#if defined(__AVX512F__)
    static_assert(Vec<T>::packets == 1);
    using Packet = std::conditional_t<std::is_same_v<T, float>, __mmask16, __mmask8>;
#else
    using Packet = typename Vec<T>::Packet;
#endif
    Packet p[Vec<T>::packets];
};

#if defined(__AVX512F__)
#define FASTOPT_COMPARE(name, packet_function, predicate)             \
    template <class T>                                                \
    FASTOPT_INLINE Mask<T> name(const Vec<T>& a, const Vec<T>& b) {   \
        if constexpr (std::is_same_v<T, float>) {                     \
            return {{_mm512_cmp_ps_mask(a.p[0], b.p[0], predicate)}}; \
        } else {                                                      \
            return {{_mm512_cmp_pd_mask(a.p[0], b.p[0], predicate)}}; \
        }                                                             \
    }
#else
#define FASTOPT_COMPARE(name, packet_function, predicate)           \
    template <class T>                                              \
    FASTOPT_INLINE Mask<T> name(const Vec<T>& a, const Vec<T>& b) { \
        Mask<T> out;                                                \
        for (int i = 0; i < Vec<T>::packets; ++i) {                 \
            out.p[i] = ei::packet_function(a.p[i], b.p[i]);         \
        }                                                           \
        return out;                                                 \
    }
#endif
// False where either side is NaN.
FASTOPT_COMPARE(less, pcmp_lt, _CMP_LT_OQ)
FASTOPT_COMPARE(less_equal, pcmp_le, _CMP_LE_OQ)
FASTOPT_COMPARE(equal, pcmp_eq, _CMP_EQ_OQ)
#undef FASTOPT_COMPARE

template <class T>
FASTOPT_INLINE Vec<T> select(const Mask<T>& mask, const Vec<T>& yes, const Vec<T>& no) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        return {{_mm512_mask_blend_ps(mask.p[0], no.p[0], yes.p[0])}};
    } else {
        return {{_mm512_mask_blend_pd(mask.p[0], no.p[0], yes.p[0])}};
    }
#else
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pselect(mask.p[i], yes.p[i], no.p[i]); });
#endif
}
// value where the mask is set, 0 elsewhere.
template <class T>
FASTOPT_INLINE Vec<T> keep(const Mask<T>& mask, const Vec<T>& value) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        return {{_mm512_maskz_mov_ps(mask.p[0], value.p[0])}};
    } else {
        return {{_mm512_maskz_mov_pd(mask.p[0], value.p[0])}};
    }
#else
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pand(mask.p[i], value.p[i]); });
#endif
}
// 0 where the mask is set, value elsewhere.
template <class T>
FASTOPT_INLINE Vec<T> clear(const Mask<T>& mask, const Vec<T>& value) {
#if defined(__AVX512F__)
    return keep(Mask<T>{{static_cast<typename Mask<T>::Packet>(~mask.p[0])}}, value);
#else
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pandnot(value.p[i], mask.p[i]); });
#endif
}
// The first `count` lanes.
template <class T>
FASTOPT_INLINE Mask<T> first_lanes(Index count) {
#if defined(__AVX512F__)
    return {{static_cast<typename Mask<T>::Packet>(count < Vec<T>::lanes ? first_mask(count) : first_mask(Vec<T>::lanes))}};
#else
    alignas(cache_line) static const T ramp[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return less(load(ramp), set1(static_cast<T>(count)));
#endif
}

// ---- what is built of them -----------------------------------------------------------------------------------------------------------

// Maximum and minimum that hand a NaN in either operand on.
template <class T>
FASTOPT_INLINE Vec<T> max(const Vec<T>& a, const Vec<T>& b) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pmax<Eigen::PropagateNaN>(a.p[i], b.p[i]); });
}
template <class T>
FASTOPT_INLINE Vec<T> min(const Vec<T>& a, const Vec<T>& b) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pmin<Eigen::PropagateNaN>(a.p[i], b.p[i]); });
}
// value between low and high, neither NaN; a NaN value becomes one of the two.
template <class T>
FASTOPT_INLINE Vec<T> clamp(const Vec<T>& value, const Vec<T>& low, const Vec<T>& high) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::pmin(ei::pmax(value.p[i], low.p[i]), high.p[i]); });
}
// size >= 0 with the sign of `direction`, 0 where that is 0.
template <class T>
FASTOPT_INLINE Vec<T> along(const Vec<T>& direction, const Vec<T>& size) {
    const Vec<T> sign_bit = set1(T(-0.0));
    const Vec<T> signed_size =
        map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::por(size.p[i], ei::pand(direction.p[i], sign_bit.p[i])); });
    return clear(equal(direction, zero<T>()), signed_size);
}

template <class T>
FASTOPT_INLINE Vec<T> operator*(T a, const Vec<T>& b) {
    return set1(a) * b;
}
template <class T>
FASTOPT_INLINE Vec<T> operator+(const Vec<T>& a, T b) {
    return a + set1(b);
}
template <class T>
FASTOPT_INLINE Vec<T> operator-(T a, const Vec<T>& b) {
    return set1(a) - b;
}

// A sum of squares that overflowed becomes the largest number; NaN stays, without what min() pays for a NaN on either side.
template <class T>
FASTOPT_INLINE Vec<T> bounded(const Vec<T>& square) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
        return ei::pmin(square.p[i], ei::pset1<typename Vec<T>::Packet>(std::numeric_limits<T>::max()));
    });
}
// The nearest number whose square, and sums of two shares of such squares, do not overflow; NaN stays.
template <class T>
FASTOPT_INLINE Vec<T> squarable(const Vec<T>& value) {
    constexpr T most = std::is_same_v<T, float> ? T(0x1p63) : T(0x1p511);
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
        using Packet = typename Vec<T>::Packet;
        return ei::pmax(ei::pmin(value.p[i], ei::pset1<Packet>(most)), ei::pset1<Packet>(-most));
    });
}

// 0 where v is negative, else v, NaN and -0 too: of two zeros, and beside a NaN, x86 returns the second operand of a maximum. (With AVX2
// a comparison: a maximum there makes GCC move the sums of a full tile about in its loop. Where denormals count as 0, only the maximum
// makes them 0, and whoever reads them next does.)
template <class T>
FASTOPT_INLINE Vec<T> relu(const Vec<T>& v) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        return {{_mm512_max_ps(zero<T>().p[0], v.p[0])}};
    } else {
        return {{_mm512_max_pd(zero<T>().p[0], v.p[0])}};
    }
#else
    return select(less(v, zero<T>()), zero<T>(), v);
#endif
}
// -1, 0 or 1; 0 for NaN.
template <class T>
FASTOPT_INLINE Vec<T> sign(const Vec<T>& v) {
    return keep(less(zero<T>(), v), set1(T(1))) - keep(less(v, zero<T>()), set1(T(1)));
}

}  // namespace fastopt::simd
