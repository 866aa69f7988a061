// Gradient descent with momentum (Polyak 1964) and Nesterov's look-ahead (as in Sutskever et al. 2013).
#pragma once

#include "optimizers/elementwise.hpp"

namespace fastopt {

// v = mu v + g; d = v, or g + mu v; w -= eta d
template <bool Momentum>
class SGD : public WeightDecay<true> {
   public:
    static constexpr int slots = Momentum ? 1 : 0;

    explicit SGD(const Config& config) : WeightDecay(config), momentum_(config.number("momentum")), nesterov_(config.flag("nesterov")) {}

    std::vector<std::string> slot_names() const { return Momentum ? std::vector<std::string>{"velocity"} : std::vector<std::string>{}; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate, momentum, look_ahead, look_at;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool) const {
        // d = look_ahead g + look_at v covers both forms.
        return {simd::set1(static_cast<T>(-learning_rate)), simd::set1(static_cast<T>(momentum_)), simd::set1(T(nesterov_ ? 1 : 0)),
                simd::set1(static_cast<T>(nesterov_ ? momentum_ : 1))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        if constexpr (Momentum) {
            s[0] = fma(c.momentum, s[0], g);
            w = fma(c.rate, fma(c.look_ahead, g, c.look_at * s[0]), w);
        } else {
            w = fma(c.rate, g, w);
        }
    }

   private:
    double momentum_;
    bool nesterov_;
};

}  // namespace fastopt
