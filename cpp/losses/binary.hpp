// Losses with one output per yes-or-no target: cross-entropy on logits, hinge, squared hinge.
#pragma once

#include "losses/elementwise.hpp"

namespace fastopt {

// l = pos_weight y softplus(-p) + (1 - y) softplus(p), which is softplus(p) - y p for pos_weight 1; y <- (1 - s) y + s/2.
class BinaryCrossEntropy {
   public:
    explicit BinaryCrossEntropy(const Config& config)
        : smoothing_(config.number("label_smoothing")), positive_(config.number("pos_weight")) {}
    template <class T>
    FASTOPT_INLINE void operator()(const simd::Vec<T>& p, const simd::Vec<T>& target, simd::Vec<T>& value, simd::Vec<T>& slope) const {
        using namespace simd;
        const Vec<T> y = fma(set1(static_cast<T>(1 - smoothing_)), target, set1(static_cast<T>(0.5 * smoothing_)));
        const Vec<T> positive = set1(static_cast<T>(positive_)) * y;
        const Vec<T> negative = T(1) - y;
        // One exponential e = exp(-|p|) for all: softplus(+-p) = max(+-p, 0) + log1p(e), sigmoid(+-p) = 1/(1 + e) or e/(1 + e).
        const Vec<T> one = set1(T(1));
        const Vec<T> e = exp_of_nonpositive(-abs(p));
        const Vec<T> rest = log1p_small(e);
        const Vec<T> large = one / (one + e);
        const Vec<T> small = e / (one + e);
        const Mask<T> below = less(p, zero<T>());
        value = positive * (max(-p, zero<T>()) + rest) + negative * (max(p, zero<T>()) + rest);
        slope = negative * select(below, small, large) - positive * select(below, large, small);
    }
    // (positive + negative) sigmoid(p) sigmoid(-p)
    template <class T>
    FASTOPT_INLINE simd::Vec<T> curvature(const simd::Vec<T>& p, const simd::Vec<T>& target) const {
        using namespace simd;
        const Vec<T> y = fma(set1(static_cast<T>(1 - smoothing_)), target, set1(static_cast<T>(0.5 * smoothing_)));
        const Vec<T> e = exp_of_nonpositive(-abs(p));
        const Vec<T> sum = e + T(1);
        return fma(set1(static_cast<T>(positive_ - 1)), y, set1(T(1))) * (e / (sum * sum));
    }

   private:
    double smoothing_;
    double positive_;
};

// -1 for targets of 0 and -1, else 1.
template <class T>
FASTOPT_INLINE simd::Vec<T> target_sign(const simd::Vec<T>& y) {
    return simd::select(simd::less(simd::zero<T>(), y), simd::set1(T(1)), simd::set1(T(-1)));
}

// l = max(0, 1 - y p)
struct Hinge {
    explicit Hinge(const Config&) {}
    template <class T>
    FASTOPT_INLINE void operator()(const simd::Vec<T>& p, const simd::Vec<T>& target, simd::Vec<T>& value, simd::Vec<T>& slope) const {
        using namespace simd;
        const Vec<T> y = target_sign(target);
        value = max(T(1) - y * p, zero<T>());
        slope = keep(less(zero<T>(), value), -y);
    }
};

// l = max(0, 1 - y p)^2
struct SquaredHinge {
    explicit SquaredHinge(const Config&) {}
    template <class T>
    FASTOPT_INLINE void operator()(const simd::Vec<T>& p, const simd::Vec<T>& target, simd::Vec<T>& value, simd::Vec<T>& slope) const {
        using namespace simd;
        const Vec<T> y = target_sign(target);
        const Vec<T> margin = max(T(1) - y * p, zero<T>());
        value = margin * margin;
        slope = T(-2) * (y * margin);
    }
    template <class T>
    FASTOPT_INLINE simd::Vec<T> curvature(const simd::Vec<T>& p, const simd::Vec<T>& target) const {
        using namespace simd;
        return keep(less(target_sign(target) * p, set1(T(1))), set1(T(2)));
    }
};

}  // namespace fastopt
