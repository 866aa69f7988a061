// RMSProp (Tieleman and Hinton 2012; centered: Graves 2013) and AdaDelta (Zeiler 2012).
#pragma once

#include "optimizers/elementwise.hpp"

namespace fastopt {

// r = rho r + (1 - rho) g^2; w -= eta g / (sqrt(r) + eps); centered: sqrt(r - mean^2); momentum: v = mu v + g/(...), w -= eta v
template <bool Momentum, bool Centered>
class RMSProp : public RuleBase {
   public:
    static constexpr int slots = 1 + (Centered ? 1 : 0) + (Momentum ? 1 : 0);

    explicit RMSProp(const Config& config)
        : rho_(config.number("rho")),
          eps_(config.number("eps")),
          momentum_(config.number("momentum")),
          weight_decay_(config.number("weight_decay")),
          decay_all_(config.flag("decay_all")) {}

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
    bool decays_all() const { return decay_all_; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate, rho, rest, eps, momentum, decay;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool decay) const {
        return {simd::set1(static_cast<T>(learning_rate)), simd::set1(static_cast<T>(rho_)),
                simd::set1(static_cast<T>(1 - rho_)),      simd::set1(static_cast<T>(eps_)),
                simd::set1(static_cast<T>(momentum_)),     simd::set1(static_cast<T>(decay ? weight_decay_ : 0))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& gradient, simd::Vec<T>* s) {
        using namespace simd;
        const Vec<T> g = fma(c.decay, w, gradient);
        s[0] = fma(c.rho, s[0], c.rest * (g * g));
        Vec<T> square = s[0];
        if constexpr (Centered) {
            s[1] = fma(c.rho, s[1], c.rest * g);
            // Rounding may leave a variance just below 0.
            square = max(fma(-s[1], s[1], square), zero<T>());
        }
        const Vec<T> root = sqrt(square) + c.eps;
        if constexpr (Momentum) {
            Vec<T>& velocity = s[slots - 1];
            velocity = fma(c.momentum, velocity, g / root);
            w = fma(-c.rate, velocity, w);
        } else {
            w = w - (c.rate * g) / root;
        }
    }

   private:
    double rho_;
    double eps_;
    double momentum_;
    double weight_decay_;
    bool decay_all_;
};

// r = rho r + (1 - rho) g^2; d = sqrt(h + eps)/sqrt(r + eps) g; h = rho h + (1 - rho) d^2; w -= eta d
class AdaDelta : public RuleBase {
   public:
    static constexpr int slots = 2;

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
