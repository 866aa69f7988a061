// Losses of regression with one output per target: squared, absolute, Huber, log-cosh, Poisson.
#pragma once

#include "losses/elementwise.hpp"

namespace fastopt {

// l = (p - y)^2
struct SquaredError {
    explicit SquaredError(const Config&) {}
    template <class V>
    FASTOPT_INLINE void operator()(const V& p, const V& y, V& value, V& slope) const {
        const V r = p - y;
        value = r * r;
        slope = r + r;
    }
    template <class T>
    FASTOPT_INLINE simd::Vec<T> curvature(const simd::Vec<T>&, const simd::Vec<T>&) const {
        return simd::set1(T(2));
    }
};

// l = |p - y|
struct AbsoluteError {
    explicit AbsoluteError(const Config&) {}
    template <class V>
    FASTOPT_INLINE void operator()(const V& p, const V& y, V& value, V& slope) const {
        const V r = p - y;
        value = simd::abs(r);
        slope = simd::sign(r);
    }
};

// l = r^2/2 inside delta, delta (|r| - delta/2) outside (P. J. Huber 1964)
class Huber {
   public:
    explicit Huber(const Config& config) : delta_(config.number("delta")) {}
    template <class T>
    FASTOPT_INLINE void operator()(const simd::Vec<T>& p, const simd::Vec<T>& y, simd::Vec<T>& value, simd::Vec<T>& slope) const {
        using namespace simd;
        const Vec<T> delta = set1(static_cast<T>(delta_));
        const Vec<T> r = p - y;
        const Vec<T> size = abs(r);
        const Mask<T> inside = less_equal(size, delta);
        value = select(inside, T(0.5) * (r * r), delta * (size - T(0.5) * delta));
        slope = select(inside, r, delta * sign(r));
    }
    template <class T>
    FASTOPT_INLINE simd::Vec<T> curvature(const simd::Vec<T>& p, const simd::Vec<T>& y) const {
        using namespace simd;
        return keep(less_equal(abs(p - y), set1(static_cast<T>(delta_))), set1(T(1)));
    }

   private:
    double delta_;
};

// l = log cosh r. Near 0 as -log(1 - tanh^2 r)/2, which keeps small values exact.
struct LogCosh {
    explicit LogCosh(const Config&) {}
    template <class T>
    FASTOPT_INLINE void operator()(const simd::Vec<T>& p, const simd::Vec<T>& y, simd::Vec<T>& value, simd::Vec<T>& slope) const {
        using namespace simd;
        const Vec<T> r = p - y;
        const Vec<T> size = abs(r);
        slope = tanh(r);
        const Vec<T> near_zero = T(-0.5) * log1p_small(-(slope * slope));
        const Vec<T> far = size + log1p_small(exp_of_nonpositive(T(-2) * size)) - set1(T(0.69314718055994530942));
        value = select(less(size, set1(T(0.5))), near_zero, far);
    }
    // 1 / cosh^2 r without cancellation
    template <class T>
    FASTOPT_INLINE simd::Vec<T> curvature(const simd::Vec<T>& p, const simd::Vec<T>& y) const {
        using namespace simd;
        const Vec<T> e = exp_of_nonpositive(T(-2) * abs(p - y));
        const Vec<T> sum = e + T(1);
        return T(4) * e / (sum * sum);
    }
};

// l = exp(p) - y p, with `full` also log(y!)
class Poisson {
   public:
    explicit Poisson(const Config& config) : full_(config.flag("full")) {}
    template <class T>
    FASTOPT_INLINE void operator()(const simd::Vec<T>& p, const simd::Vec<T>& y, simd::Vec<T>& value, simd::Vec<T>& slope) const {
        using namespace simd;
        const Vec<T> rate = exp(p);
        value = rate - y * p;
        slope = rate - y;
        if (full_) {
            alignas(cache_line) T line[Vec<T>::lanes];
            store(line, y);
            for (T& element : line) {
                element = static_cast<T>(log_factorial(static_cast<double>(element)));
            }
            value = value + load(line);
        }
    }
    template <class T>
    FASTOPT_INLINE simd::Vec<T> curvature(const simd::Vec<T>& p, const simd::Vec<T>&) const {
        return simd::exp(p);
    }

   private:
    static double log_factorial(double y) {
#if defined(__GLIBC__) || defined(__APPLE__)
        int sign = 0;
        return lgamma_r(y + 1, &sign);  // lgamma writes a global
#else
        return std::lgamma(y + 1);
#endif
    }
    bool full_;
};

}  // namespace fastopt
