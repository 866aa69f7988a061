// Elementary functions of a Vec, with the same bits for every packet width. Any argument: Eigen's generic polynomials (its AVX-512 pexp
// gives other bits), with relative errors of 1.2e-7 (exp), 7.6e-8 (log), 2.7e-7 (tanh) in float and about 3e-16 in double. What activations
// and losses need of arguments at most 0 or small is here, shorter and closer: 8.9e-8 and 1.6e-16 (exp), 9.5e-8 and 2.2e-16 (expm1), 1.7e-7
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

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2 as a polynomial, lowest power first; fitted in 50 digits at Chebyshev points. What they leave
// of exp(r) and of exp(r) - 1 is at most 1.1e-8 and 2.6e-8 (float), 1.6e-17 and 4.1e-17 (double).
inline constexpr float exponential_float[] = {0.5f, 0.16666576f, 0.041666556f, 0.008363203f, 0.0013926213f};
inline constexpr double exponential_double[] = {
    0.5000000000000001,     0.16666666666666669,   0.04166666666662399,    0.008333333333330051,   0.0013888888917281794,
    0.00019841269863105968, 2.480152119021773e-05, 2.7557268378684192e-06, 2.7620138719733994e-07, 2.5100424157005067e-08};

// exp(x) = 2^m (1 + rest) for x that is at most 0, or NaN: nothing overflows, and 2^m is one factor. x = m ln 2 + r with ln 2 in two parts
// (S. Moshier's, Cephes library).
template <class T>
struct SplitExponential {
    static constexpr bool single = sizeof(T) == 4;
    // 3/2 of 2^23 or 2^52, and the bias of an exponent: a sum with them is a whole number whose last bits are the exponent of 2^m.
    static constexpr T shifter = single ? T(12582912 + 127) : T(6755399441055744 + 1023);

    Mask<T> below;  // of the smallest normal number; the others are of no use there
    Vec<T> power;
    Vec<T> r;
    Vec<T> r2;
    Vec<T> factor;  // rest = r + r2 factor

    explicit FASTOPT_INLINE SplitExponential(const Vec<T>& x) {
        below = less(x, set1(lowest_exponent<T>));
        const Vec<T> shifted = fma(x, set1(T(1.4426950408889634074)), set1(shifter));
        const Vec<T> m = shifted - set1(shifter);
        r = fma(m, set1(single ? T(-0.693359375) : T(-0.693145751953125)), x);
        r = fma(m, set1(single ? T(2.12194440e-4) : T(-1.42860682030941723212e-6)), r);
        r2 = r * r;
        if constexpr (single) {
            const auto& c = exponential_float;
            const Vec<T> low = fma(set1(c[1]), r, set1(c[0]));
            const Vec<T> high = fma(set1(c[4]), r2, fma(set1(c[3]), r, set1(c[2])));
            factor = fma(high, r2, low);
        } else {
            factor = polynomial(exponential_double, r);
        }
        power = shift_into_exponent(shifted);
    }
};

}  // namespace detail

// For x that is at most 0, or NaN.
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

// exp(x) - 1 for x that is at most 0, or NaN, without cancellation: 2^m rest + (2^m - 1), whose second part is exact until it rounds to -1.
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

// exp(x^2 / 2) Phi(-x) for x that is at least 0, with Phi the normal distribution's function: Mills' ratio over sqrt(2 pi).
template <class T>
FASTOPT_INLINE Vec<T> normal_tail(const Vec<T>& x) {
    constexpr T c = sizeof(T) == 4 ? T(4) : T(5);
    const Vec<T> part = set1(T(1)) / (x + c);
    const Vec<T> t = fma(set1(T(-2) * c), part, set1(T(1)));
    if constexpr (sizeof(T) == 4) {
        return detail::polynomial(detail::normal_tail_float, t) * part;
    } else {
        return detail::polynomial(detail::normal_tail_double, t) * part;
    }
}

}  // namespace fastopt::simd
