// Rules that use only the sign of a direction: Lion (Chen et al. 2023) and Rprop (Riedmiller and Braun 1993).
#pragma once

#include "optimizers/elementwise.hpp"

namespace fastopt {

// w = (1 - eta wd) w - eta sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g. The sign of NaN is NaN: m keeps it.
class Lion : public WeightDecay<false> {
   public:
    static constexpr int slots = 1;

    explicit Lion(const Config& config) : WeightDecay(config), beta1_(config.number("beta1")), beta2_(config.number("beta2")) {}

    std::vector<std::string> slot_names() const { return {"m"}; }

    template <class T>
    struct Constants {
        simd::Vec<T> rate, keep, beta1, rest1, beta2, rest2;
    };
    template <class T>
    Constants<T> constants(const StepInfo&, double learning_rate, bool decay) const {
        return {simd::set1(static_cast<T>(-learning_rate)), simd::set1(static_cast<T>(1 - learning_rate * decay_where(decay))),
                simd::set1(static_cast<T>(beta1_)),         simd::set1(static_cast<T>(1 - beta1_)),
                simd::set1(static_cast<T>(beta2_)),         simd::set1(static_cast<T>(1 - beta2_))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        const Vec<T> direction = fma(c.beta1, s[0], c.rest1 * g);
        w = fma(c.rate, select(equal(direction, direction), sign(direction), direction), w * c.keep);
        s[0] = fma(c.beta2, s[0], c.rest2 * g);
    }

   private:
    double beta1_;
    double beta2_;
};

// Step sizes grow by etas[1] while the sign of the gradient stays and shrink by etas[0] when it turns; a turned gradient counts as 0. The
// rate is the first step size; where it is 0 nothing moves. NaN has no sign, and stays.
class Rprop : public RuleBase {
   public:
    static constexpr int slots = 2;

    explicit Rprop(const Config& config) : etas_(config.numbers("etas")), sizes_(config.numbers("step_sizes")) {
        check(etas_.size() == 2 && sizes_.size() == 2, "etas and step_sizes must be pairs");
    }

    std::vector<std::string> slot_names() const { return {"previous", "step_size"}; }

    template <class T>
    struct Constants {
        simd::Vec<T> shrink, grow, smallest, largest, rate;
        simd::Mask<T> first, moves;
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool) const {
        const auto mask = [](bool all) { return simd::equal(simd::zero<T>(), simd::set1(T(all ? 0 : 1))); };
        return {simd::set1(static_cast<T>(etas_[0])),
                simd::set1(static_cast<T>(etas_[1])),
                simd::set1(static_cast<T>(sizes_[0])),
                simd::set1(static_cast<T>(sizes_[1])),
                simd::set1(static_cast<T>(learning_rate)),
                mask(info.t == 1),
                mask(learning_rate != 0)};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        const Vec<T> product = g * s[0];
        const Mask<T> turned = less(product, zero<T>());
        const Vec<T> factor = select(turned, c.shrink, select(less(zero<T>(), product), c.grow, set1(T(1))));
        s[1] = clamp(select(c.first, c.rate, s[1]) * factor, c.smallest, c.largest);
        s[0] = select(turned, zero<T>(), g);
        w = w - keep(c.moves, select(equal(g, g), along(s[0], s[1]), g));
    }

   private:
    std::vector<double> etas_;
    std::vector<double> sizes_;
};

}  // namespace fastopt
