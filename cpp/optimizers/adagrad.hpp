// AdaGrad (Duchi, Hazan, Singer 2011) and its form with one scalar (Ward, Wu, Bottou 2019).
#pragma once

#include <cmath>

#include "optimizers/elementwise.hpp"

namespace fastopt {

// s += g^2; w -= eta g / (sqrt(s) + eps)
class AdaGrad : public RuleBase {
   public:
    static constexpr int slots = 1;

    explicit AdaGrad(const Config& config)
        : eps_(config.number("eps")),
          initial_(config.number("initial_accumulator")),
          weight_decay_(config.number("weight_decay")),
          decay_all_(config.flag("decay_all")) {}

    std::vector<std::string> slot_names() const { return {"sum_of_squares"}; }
    double initial_slot(int) const { return initial_; }
    bool decays_all() const { return decay_all_; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate, eps, decay;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool decay) const {
        return {simd::set1(static_cast<T>(learning_rate)), simd::set1(static_cast<T>(eps_)),
                simd::set1(static_cast<T>(decay ? weight_decay_ : 0))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& gradient, simd::Vec<T>* s) {
        using namespace simd;
        const Vec<T> g = fma(c.decay, w, gradient);
        s[0] = fma(g, g, s[0]);
        w = w - (c.rate * g) / (sqrt(s[0]) + c.eps);
    }

   private:
    double eps_;
    double initial_;
    double weight_decay_;
    bool decay_all_;
};

// One scalar s += |g|^2 over all parameters; w -= eta g / sqrt(eps + s)
class AdaGradNorm : public RuleBase {
   public:
    static constexpr int slots = 0;

    explicit AdaGradNorm(const Config& config) : eps_(config.number("eps")) {}

    std::vector<std::string> slot_names() const { return {}; }
    std::vector<std::string> scalar_names() const { return {"sum_of_squares"}; }
    std::vector<double> initial_scalars() const { return {0.0}; }
    bool needs_norm() const { return true; }
    void begin(const StepInfo& info) const { info.scalars[0] += info.norm_squared; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate;
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool) const {
        return {simd::set1(static_cast<T>(-learning_rate / std::sqrt(eps_ + info.scalars[0])))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>*) {
        w = simd::fma(c.rate, g, w);
    }

   private:
    double eps_;
};

}  // namespace fastopt
