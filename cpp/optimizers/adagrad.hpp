// AdaGrad (Duchi, Hazan, Singer 2011) and its form with one scalar (Ward, Wu, Bottou 2019).
#pragma once

#include <cmath>

#include "optimizers/elementwise.hpp"

namespace fastopt {

// s += g^2; w -= eta g / (sqrt(s) + eps)
class AdaGrad : public WeightDecay<true> {
   public:
    static constexpr int slots = 1;
    static constexpr bool squares_gradient = true;

    explicit AdaGrad(const Config& config)
        : WeightDecay(config), eps_(config.number("eps")), initial_(config.number("initial_accumulator")) {}

    std::vector<std::string> slot_names() const { return {"sum_of_squares"}; }
    double initial_slot(int) const { return initial_; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate, eps;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool) const {
        return {simd::set1(static_cast<T>(learning_rate)), simd::set1(static_cast<T>(eps_))};
    }
    static constexpr bool takes_root = true;
    template <class T>
    static FASTOPT_INLINE simd::Vec<T> advance(const Constants<T>&, const simd::Vec<T>& g, simd::Vec<T>* s) {
        s[0] = simd::bounded(fma(g, g, s[0]));
        return s[0];
    }
    template <class T>
    static FASTOPT_INLINE void finish(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, const simd::Vec<T>*,
                                      const simd::Vec<T>& root) {
        w = w - (c.rate * g) / (root + c.eps);
    }

   private:
    double eps_;
    double initial_;
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
    void begin(StepInfo& info) const { info.scalars[0] += info.norm_squared; }

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
