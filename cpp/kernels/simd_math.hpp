// Elementary functions of a Vec, with the same bits for every packet width. Any argument: Eigen's generic polynomials (its AVX-512 pexp
// gives other bits), with relative errors of 1.2e-7 (exp), 7.6e-8 (log), 2.7e-7 (tanh) in float and about 3e-16 in double. What activations
// and losses need of arguments at most 0 or small is here, shorter and closer: 8.3e-8 and 1.5e-16 (exp), 8.9e-8 and 2.2e-16 (expm1), 1.7e-7
// and 3.2e-16 (log1p).
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

namespace detail {

// The coefficients of x^0, x^1, ...
template <class T, int N>
FASTOPT_INLINE Vec<T> polynomial(const T (&coefficients)[N], const Vec<T>& x) {
    Vec<T> out = set1(coefficients[N - 1]);
#pragma GCC unroll 32
    for (int i = N - 2; i >= 0; --i) {
        out = fma(out, x, set1(coefficients[i]));
    }
    return out;
}

// exp(x) = 2^m (1 + rest) for x that is at most 0, or NaN: nothing overflows, and 2^m is one factor. x = m ln 2 + r with ln 2 in two parts;
// float: the steps of pexp_float, from S. Moshier's Cephes library; double: Taylor's series, which leaves less than 2e-17 of the rest.
template <class T>
struct SplitExponential {
    static constexpr bool single = sizeof(T) == 4;
    static constexpr T shifter = single ? T(12582912) : T(6755399441055744);  // 3/2 of 2^23, 2^52: a sum ends in the bits of a whole number
    static constexpr T bias = single ? T(127) : T(1023);
    static constexpr double inverse_factorials[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                                    1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                                    1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};

    Mask<T> below;  // of the smallest normal number
    Vec<T> power;
    Vec<T> r;
    Vec<T> r2;
    Vec<T> factor;  // rest = r + r2 factor

    explicit FASTOPT_INLINE SplitExponential(const Vec<T>& x) {
        below = less(x, set1(lowest_exponent<T>));
        const Vec<T> inside = clear(below, x);
        const Vec<T> m = floor(fma(inside, set1(T(1.4426950408889634074)), set1(T(0.5))));
        r = fma(m, set1(single ? T(-0.693359375) : T(-0.693145751953125)), inside);
        r = fma(m, set1(single ? T(2.12194440e-4) : T(-1.42860682030941723212e-6)), r);
        r2 = r * r;
        if constexpr (single) {
            const Vec<T> high = fma(fma(set1(1.9875691500e-4f), r, set1(1.3981999507e-3f)), r, set1(8.3334519073e-3f));
            const Vec<T> low = fma(fma(set1(4.1665795894e-2f), r, set1(1.6666665459e-1f)), r, set1(5.0000001201e-1f));
            factor = fma(high, r2 * r, low);
        } else {
            factor = polynomial(inverse_factorials, r);
        }
        power = shift_into_exponent(m + (shifter + bias));
    }
};

}  // namespace detail

// For x that is at most 0, or NaN, with fewer instructions (AVX2: a column of a softmax takes 62 instead of 109).
template <class T>
FASTOPT_INLINE Vec<T> exp_of_nonpositive(const Vec<T>& x) {
    const detail::SplitExponential<T> e(x);
    return clear(e.below, (fma(e.factor, e.r2, e.r) + T(1)) * e.power);
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

// log(1 + x) for -1/2 <= x <= 1, or NaN: 2 artanh(s) with s = x / (2 + x), whose series ends when s^2 <= 1/9 leaves less than 2e-9 of it
// (float) or 2e-18 (double).
template <class T>
FASTOPT_INLINE Vec<T> log1p_small(const Vec<T>& x) {
    constexpr int last = sizeof(T) == 4 ? 7 : 16;
    const Vec<T> s = x / (x + T(2));
    const Vec<T> s2 = s * s;
    Vec<T> series = set1(T(2) / T(2 * last + 1));
#pragma GCC unroll 16
    for (int n = last - 1; n > 0; --n) {
        series = fma(series, s2, set1(T(2) / T(2 * n + 1)));
    }
    return fma(series * s2, s, s + s);
}

// exp(x) - 1 for x that is at most 0, or NaN, without cancellation: 2^m rest + (2^m - 1), whose second part is exact.
template <class T>
FASTOPT_INLINE Vec<T> expm1_of_nonpositive(const Vec<T>& x) {
    const detail::SplitExponential<T> e(x);
    return select(e.below, set1(T(-1)), fma(fma(e.factor, e.r2, e.r), e.power, e.power - set1(T(1))));
}

// log(1 + exp(x)) for any x.
template <class T>
FASTOPT_INLINE Vec<T> softplus(const Vec<T>& x) {
    return max(x, zero<T>()) + log1p_small(exp_of_nonpositive(-abs(x)));
}

// 1 / (1 + exp(-x)), from the exponential that is at most 1.
template <class T>
FASTOPT_INLINE Vec<T> sigmoid(const Vec<T>& x) {
    const Vec<T> e = exp_of_nonpositive(-abs(x));
    return select(less(x, zero<T>()), e, set1(T(1))) / (e + T(1));
}

template <class T>
FASTOPT_INLINE Vec<T> tanh(const Vec<T>& x) {
    if constexpr (sizeof(T) == 4) {
        const Vec<T> t = map<T>([&](int i) FASTOPT_INLINE_LAMBDA { return ei::generic_fast_tanh_float(x.p[i]); });
        return select(equal(x, x), t, x);
    } else {
        const Vec<T> e = expm1_of_nonpositive(T(-2) * abs(x));
        const Vec<T> t = abs(e) / (e + T(2));
        return select(less(x, zero<T>()), -t, t);
    }
}

namespace detail {

// (x + c) exp(x^2/2) Phi(-x) as a polynomial in (x - c) / (x + c), lowest power first; fitted in 50 digits at Chebyshev points. Largest
// relative error over 0 <= x <= 40 before rounding: 2.3e-8 (float, c = 4), 4.0e-17 (double, c = 5).
inline constexpr float normal_tail_float[] = {0.75528514f,   -0.60789645f,   0.3871378f,    -0.18652563f,   0.060393795f,
                                              -0.007516755f, -0.0034733098f, 0.0015706829f, 0.00012768287f, -0.00016076276f};
inline constexpr double normal_tail_double[] = {
    0.769193049750063,      -0.6653825028900567,    0.49530561596997386,    -0.31353315667129955,   0.16502036617051113,
    -0.06911863870640436,   0.020795066797416595,   -0.0029933767701593532, -0.0007978693739469138, 0.0005448990707733159,
    -5.937586780212169e-05, -4.976288868029808e-05, 1.6681694446690882e-05, 3.981274923141603e-06,  -2.770264894685992e-06,
    -3.376318795644607e-07, 4.343124300104718e-07,  4.385236079192329e-08,  -6.65400740125251e-08,  -1.0623937439932971e-08,
    7.573702456952603e-09,  2.2061860857956886e-09};

}  // namespace detail

// exp(-x^2 / 2).
template <class T>
FASTOPT_INLINE Vec<T> gauss(const Vec<T>& x) {
    return exp_of_nonpositive(T(-0.5) * (x * x));
}

// Phi(x) = (1 + erf(x / sqrt 2)) / 2 with full relative accuracy in the left tail; `bell` is gauss(x).
template <class T>
FASTOPT_INLINE Vec<T> normal_cdf(const Vec<T>& x, const Vec<T>& bell) {
    constexpr T c = sizeof(T) == 4 ? T(4) : T(5);
    const Vec<T> part = set1(T(1)) / (abs(x) + c);
    const Vec<T> t = fma(set1(T(-2) * c), part, set1(T(1)));
    Vec<T> tail;
    if constexpr (sizeof(T) == 4) {
        tail = detail::polynomial(detail::normal_tail_float, t);
    } else {
        tail = detail::polynomial(detail::normal_tail_double, t);
    }
    tail = bell * (tail * part);
    return select(less(x, zero<T>()), tail, T(1) - tail);
}

}  // namespace fastopt::simd
