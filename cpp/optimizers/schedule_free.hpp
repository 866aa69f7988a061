// Schedule-free AdamW (Defazio et al. 2024): gradients are taken at y between the plain iterate z and its average x; x is for evaluation.
#pragma once

#include <algorithm>

#include "optimizers/adam.hpp"

namespace fastopt {

class ScheduleFreeAdamW : public WeightDecay<false> {
   public:
    static constexpr int slots = 3;
    static constexpr bool squares_gradient = true;
    static constexpr int evaluation_slot = 0;

    explicit ScheduleFreeAdamW(const Config& config)
        : WeightDecay(config), moments_(config), warmup_steps_(config.number("warmup_steps")) {}

    std::vector<std::string> slot_names() const { return {"x", "z", "v"}; }
    std::vector<std::string> scalar_names() const { return {"weight_sum", "largest_rate"}; }
    std::vector<double> initial_scalars() const { return {0.0, 0.0}; }

    // Step t weighs the largest rate so far, squared.
    void begin(StepInfo& info) const {
        moments_.begin(info);
        info.scalars[1] = std::max(info.scalars[1], info.learning_rate * warm(info.t));
        info.scalars[0] += info.scalars[1] * info.scalars[1];
    }

    template <class T>
    struct Constants {
        Moments::Constants<T> moments;
        simd::Vec<T> rate, root_scale, decay, share;
        simd::Mask<T> first;
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool decay) const {
        const double largest = info.scalars[1];
        const double share = info.scalars[0] > 0 ? largest * largest / info.scalars[0] : 0;
        return {moments_.constants<T>(),
                simd::set1(static_cast<T>(-learning_rate * warm(info.t))),
                simd::set1(static_cast<T>(1 / std::sqrt(info.of_step[1]))),
                simd::set1(static_cast<T>(decay_where(decay))),
                simd::set1(static_cast<T>(share)),
                simd::equal(simd::zero<T>(), simd::set1(T(info.t == 1 ? 0 : 1)))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& y, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        Vec<T>& x = s[0];
        Vec<T>& z = s[1];
        x = select(c.first, y, x);
        z = select(c.first, y, z);
        s[2] = fma(c.moments.beta2, s[2], c.moments.rest2 * (g * g));
        const Vec<T> direction = fma(c.decay, y, g / fma(sqrt(s[2]), c.root_scale, c.moments.eps));
        z = fma(c.rate, direction, z);
        x = fma(c.share, z - x, x);
        y = fma(c.moments.beta1, x - z, z);
    }

   private:
    double warm(Index t) const { return warmup_steps_ > 0 ? std::min(1.0, static_cast<double>(t) / warmup_steps_) : 1.0; }

    Moments moments_;
    double warmup_steps_;
};

}  // namespace fastopt
