// Elementary functions of a Vec. Eigen's generic polynomials give the same bits for every packet width (its AVX-512 pexp does not),
// with relative errors of 1.2e-7 (exp), 7.6e-8 (log), 2.7e-7 (tanh) in float and about 3e-16 in double; the rest is built on them.
#pragma once

#include "kernels/simd.hpp"

namespace fastopt::simd {

// Whose exponential is the smallest normal number; below it is 0.
template <class T>
constexpr T lowest_exponent = sizeof(T) == 4 ? T(-87.33654) : T(-708.3964185322641);

template <class T>
FASTOPT_INLINE Vec<T> exp(const Vec<T>& x) {
    // Eigen clamps its argument; beyond the range that the type can hold the answer is 0 or infinity, and NaN stays NaN.
    constexpr T high = sizeof(T) == 4 ? T(88.72283) : T(709.782712893384);
    const Mask<T> below = less(x, set1(lowest_exponent<T>));
    // What ends as 0 must not pass through denormal numbers, which cost a hundred cycles each.
    const Vec<T> inside = select(below, zero<T>(), x);
    Vec<T> e = map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
        if constexpr (sizeof(T) == 4) {
            return ei::pexp_float(inside.p[i]);
        } else {
            return ei::pexp_double(inside.p[i]);
        }
    });
    e = select(less(set1(high), x), set1(std::numeric_limits<T>::infinity()), e);
    e = select(below, zero<T>(), e);
    return select(equal(x, x), e, x);
}

// The same bits for x that is at most 0, or NaN: nothing overflows, and 2^m is one factor (with AVX2 a column of a softmax takes 62
// instructions instead of 109). The scheme of pexp_float: x = m ln 2 + r with ln 2 in two parts, and the polynomial for exp(r) of S.
// Moshier's Cephes library.
template <class T>
FASTOPT_INLINE Vec<T> exp_of_nonpositive(const Vec<T>& x) {
    if constexpr (sizeof(T) == 4) {
        using Packet = typename Vec<T>::Packet;
        using Bits = typename ei::unpacket_traits<Packet>::integer_packet;
        const Mask<T> below = less(x, set1(lowest_exponent<T>));
        const Vec<T> inside = clear(below, x);
        const Vec<T> m = map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
            return ei::pfloor(ei::pmadd(inside.p[i], ei::pset1<Packet>(T(1.44269504088896341)), ei::pset1<Packet>(T(0.5))));
        });
        const Vec<T> r = fma(m, set1(T(2.12194440e-4)), fma(m, set1(T(-0.693359375)), inside));
        const Vec<T> r2 = r * r;
        const Vec<T> high = fma(fma(set1(T(1.9875691500e-4)), r, set1(T(1.3981999507e-3))), r, set1(T(8.3334519073e-3)));
        const Vec<T> low = fma(fma(set1(T(4.1665795894e-2)), r, set1(T(1.6666665459e-1))), r, set1(T(5.0000001201e-1)));
        const Vec<T> y = fma(fma(high, r2 * r, low), r2, r + T(1));
        const Vec<T> power = map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
            const Bits exponent = ei::padd(ei::pcast<Packet, Bits>(m.p[i]), ei::pset1<Bits>(127));
            return ei::preinterpret<Packet>(ei::plogical_shift_left<23>(exponent));
        });
        return clear(below, y * power);
    } else {
        return exp(x);
    }
}

template <class T>
FASTOPT_INLINE Vec<T> log(const Vec<T>& x) {
    return map<T>([&](int i) FASTOPT_INLINE_LAMBDA {
        if constexpr (sizeof(T) == 4) {
            return ei::plog_float(x.p[i]);
        } else {
            return ei::plog_double(x.p[i]);
        }
    });
}

// log(1 + x) for x > -1: the logarithm of the rounded sum, corrected by what the rounding lost.
template <class T>
FASTOPT_INLINE Vec<T> log1p(const Vec<T>& x) {
    const Vec<T> sum = x + T(1);
    const Vec<T> lost = x - (sum - set1(T(1)));
    return log(sum) + lost / sum;
}

// exp(x) - 1 without cancellation (W. Kahan): the error of u = exp(x) cancels in (u - 1) x / log(u).
template <class T>
FASTOPT_INLINE Vec<T> expm1(const Vec<T>& x) {
    const Vec<T> one = set1(T(1));
    const Vec<T> u = exp(x);
    const Vec<T> difference = u - one;
    Vec<T> out = difference * (x / log(u));
    out = select(less(set1(T(30)), abs(x)), difference, out);
    return select(equal(u, one), x, out);
}

// log(1 + exp(x)) for any x.
template <class T>
FASTOPT_INLINE Vec<T> softplus(const Vec<T>& x) {
    return max(x, zero<T>()) + log1p(exp(-abs(x)));
}

template <class T>
FASTOPT_INLINE Vec<T> sigmoid(const Vec<T>& x) {
    return set1(T(1)) / (exp(-x) + T(1));
}

template <class T>
FASTOPT_INLINE Vec<T> tanh(const Vec<T>& x) {
    if constexpr (sizeof(T) == 4) {
        const Vec<T> t = map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::generic_fast_tanh_float(x.p[i]); });
        return select(equal(x, x), t, x);
    } else {
        const Vec<T> e = expm1(T(-2) * abs(x));
        const Vec<T> t = -e / (e + T(2));
        return select(less(x, zero<T>()), -t, t);
    }
}

namespace detail {

// (1 + 2x) exp(x^2/2) Phi(-x) as a polynomial in (x - 5) / (x + 5), lowest power first; fitted in 50 digits at Chebyshev points.
// Largest relative error over 0 <= x <= 40 before rounding: 2.9e-8 (float), 8.7e-17 (double).
inline constexpr float normal_tail_float[] = {0.84611237f,    -0.039647046f,   -0.05400892f,   0.10088966f,
                                              -0.10064756f,   0.072479025f,    -0.03937465f,   0.015453931f,
                                              -0.0034889164f, -0.00017310394f, 0.00034996757f, -6.0186016e-05f};
inline constexpr double normal_tail_double[] = {
    0.8461123547250693,     -0.039647008404006104,   -0.054008075034077646,   0.10088858203458646,    -0.10065743821670113,
    0.07248782697504487,    -0.03933220135723897,    0.015422845692258385,    -0.003571695410866178,  -0.00011869364792237798,
    0.000425095681244515,   -0.00010817647552731757, -2.6436280418391418e-05, 1.938976515437013e-05,  5.335776903911937e-07,
    -2.858373675797681e-06, 1.7993079695073456e-07,  4.3198286106023726e-07,  -4.288995693144017e-08, -6.790682766208344e-08,
    6.240858434634684e-09,  9.584765169702876e-09,   -5.902399604784826e-10,  -8.252783905171468e-10, 2.527234142008368e-11};

template <class T, int N>
FASTOPT_INLINE Vec<T> polynomial(const T (&coefficients)[N], const Vec<T>& x) {
    Vec<T> out = set1(coefficients[N - 1]);
#pragma GCC unroll 32
    for (int i = N - 2; i >= 0; --i) {
        out = fma(out, x, set1(coefficients[i]));
    }
    return out;
}

}  // namespace detail

// exp(-x^2 / 2).
template <class T>
FASTOPT_INLINE Vec<T> gauss(const Vec<T>& x) {
    return exp(T(-0.5) * (x * x));
}

// Phi(x) = (1 + erf(x / sqrt 2)) / 2 with full relative accuracy in the left tail; `bell` is gauss(x).
template <class T>
FASTOPT_INLINE Vec<T> normal_cdf(const Vec<T>& x, const Vec<T>& bell) {
    const Vec<T> a = abs(x);
    const Vec<T> t = (a - set1(T(5))) / (a + T(5));
    Vec<T> ratio;
    if constexpr (sizeof(T) == 4) {
        ratio = detail::polynomial(detail::normal_tail_float, t);
    } else {
        ratio = detail::polynomial(detail::normal_tail_double, t);
    }
    const Vec<T> tail = bell * (ratio / fma(set1(T(2)), a, set1(T(1))));
    return select(less(x, zero<T>()), tail, T(1) - tail);
}

}  // namespace fastopt::simd
