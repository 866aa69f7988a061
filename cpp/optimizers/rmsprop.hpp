// RMSProp (Tieleman and Hinton 2012; centered: Graves 2013) and AdaDelta (Zeiler 2012).
#pragma once

#include "optimizers/elementwise.hpp"

namespace fastopt {

// rho old + (1 - rho) fresh in one multiply-add: old - (1 - rho) (old - fresh), or fresh + rho (old - fresh) when rho is below 1/2, so that
// nothing cancels.
template <class T>
struct MovingAverage {
    simd::Vec<T> share;
    simd::Mask<T> from_old;

    explicit MovingAverage(double rho)
        : share(simd::set1(static_cast<T>(rho < 0.5 ? rho : rho - 1))),
          from_old(simd::equal(simd::zero<T>(), simd::set1(T(rho < 0.5 ? 1 : 0)))) {}

    FASTOPT_INLINE simd::Vec<T> operator()(const simd::Vec<T>& old, const simd::Vec<T>& fresh) const {
        return simd::fma(share, old - fresh, simd::select(from_old, old, fresh));
    }
};

// r = rho r + (1 - rho) g^2; w -= eta g / (sqrt(r) + eps); centered: sqrt(r - mean^2); momentum: v = mu v + g/(...), w -= eta v
template <bool Momentum, bool Centered>
class RMSProp : public WeightDecay<true> {
   public:
    static constexpr int slots = 1 + (Centered ? 1 : 0) + (Momentum ? 1 : 0);
    static constexpr bool squares_gradient = true;

    explicit RMSProp(const Config& config)
        : WeightDecay(config), rho_(config.number("rho")), eps_(config.number("eps")), momentum_(config.number("momentum")) {}

    std::vector<std::string> slot_names() const {
        std::vector<std::string> names{"mean_square"};
        if (Centered) {
            names.emplace_back("mean");
        }
        if (Momentum) {
            names.emplace_back("velocity");
        }
        return names;
    }

    template <class T>
    struct Constants {
        MovingAverage<T> average;
        simd::Vec<T> rate, eps, momentum;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool) const {
        return {MovingAverage<T>(rho_), simd::set1(static_cast<T>(learning_rate)), simd::set1(static_cast<T>(eps_)),
                simd::set1(static_cast<T>(momentum_))};
    }
    static constexpr bool takes_root = !Momentum;  // the velocity is a slot that needs the root first
    template <class T>
    static FASTOPT_INLINE simd::Vec<T> advance(const Constants<T>& c, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        s[0] = c.average(s[0], g * g);
        if constexpr (Centered) {
            s[1] = c.average(s[1], g);
            // Rounding may leave a variance just below 0.
            return max(fma(-s[1], s[1], s[0]), zero<T>());
        }
        return s[0];
    }
    template <class T>
    static FASTOPT_INLINE void finish(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, const simd::Vec<T>*,
                                      const simd::Vec<T>& root) {
        w = w - (c.rate * g) / (root + c.eps);
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        const Vec<T> root = sqrt(advance(c, g, s));
        Vec<T>& velocity = s[slots - 1];
        velocity = fma(c.momentum, velocity, g / (root + c.eps));
        w = fma(-c.rate, velocity, w);
    }

   private:
    double rho_;
    double eps_;
    double momentum_;
};

// r = rho r + (1 - rho) g^2; d = sqrt(h + eps)/sqrt(r + eps) g; h = rho h + (1 - rho) d^2; w -= eta d
class AdaDelta : public RuleBase {
   public:
    static constexpr int slots = 2;
    static constexpr bool squares_gradient = true;

    explicit AdaDelta(const Config& config) : rho_(config.number("rho")), eps_(config.number("eps")) {}

    std::vector<std::string> slot_names() const { return {"mean_square", "mean_square_step"}; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate, rho, rest, eps;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool) const {
        return {simd::set1(static_cast<T>(-learning_rate)), simd::set1(static_cast<T>(rho_)), simd::set1(static_cast<T>(1 - rho_)),
                simd::set1(static_cast<T>(eps_))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        s[0] = fma(c.rho, s[0], c.rest * (g * g));
        const Vec<T> d = sqrt((s[1] + c.eps) / (s[0] + c.eps)) * g;
        s[1] = fma(c.rho, s[1], c.rest * (d * d));
        w = fma(c.rate, d, w);
    }

   private:
    double rho_;
    double eps_;
};

}  // namespace fastopt
