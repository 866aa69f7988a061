// Adam and the rules that share its two moments: Adam, AMSGrad, AdamW, NAdam, RAdam, AdaMax.
#pragma once

#include <cmath>

#include "optimizers/elementwise.hpp"

namespace fastopt {

// beta1, beta2, eps and how they enter the moments m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2.
struct Moments {
    double beta1;
    double beta2;
    double eps;

    explicit Moments(const Config& config)
        : beta1(config.number("beta1")),
          beta2(config.number("beta2")),
          eps(config.number("eps")),
          log_beta1_(std::log(beta1)),
          log_beta2_(std::log(beta2)) {}

    // of_step: 1 - beta1^t, 1 - beta2^t.
    void begin(StepInfo& info) const {
        info.of_step[0] = correction(beta1, log_beta1_, info.t);
        info.of_step[1] = correction(beta2, log_beta2_, info.t);
    }

    template <class T>
    struct Constants {
        simd::Vec<T> beta1, rest1, beta2, rest2, eps;

        FASTOPT_INLINE void advance(const simd::Vec<T>& g, simd::Vec<T>& m, simd::Vec<T>& v) const {
            m = simd::fma(beta1, m, rest1 * g);
            v = simd::fma(beta2, v, rest2 * (g * g));
        }
    };
    template <class T>
    Constants<T> constants() const {
        return {simd::set1(static_cast<T>(beta1)), simd::set1(static_cast<T>(1 - beta1)), simd::set1(static_cast<T>(beta2)),
                simd::set1(static_cast<T>(1 - beta2)), simd::set1(static_cast<T>(eps))};
    }

   private:
    // 1 - beta^t, which is 1 from the step on where beta^t is below half an ulp.
    static double correction(double beta, double log_beta, Index t) {
        const auto steps = static_cast<double>(t);
        return steps * log_beta < -40 ? 1 : 1 - std::pow(beta, steps);
    }

    double log_beta1_;  // -infinity for a beta of 0
    double log_beta2_;
};

// m/(1 - beta1^t) over sqrt(v/(1 - beta2^t)) + eps (Kingma and Ba 2015); amsgrad: the largest v so far (Reddi, Kale, Kumar 2018).
// Coupled decay g += wd w, or decoupled w *= 1 - eta wd (Loshchilov and Hutter 2019).
template <bool AmsGrad, bool Decoupled>
class Adam : public WeightDecay<!Decoupled> {
   public:
    static constexpr int slots = AmsGrad ? 3 : 2;
    static constexpr bool squares_gradient = true;

    explicit Adam(const Config& config) : WeightDecay<!Decoupled>(config), moments_(config) {}

    std::vector<std::string> slot_names() const {
        return AmsGrad ? std::vector<std::string>{"m", "v", "v_max"} : std::vector<std::string>{"m", "v"};
    }
    void begin(StepInfo& info) const { moments_.begin(info); }

    template <class T>
    struct Constants {
        Moments::Constants<T> moments;
        simd::Vec<T> rate, root_scale, keep;  // keep: of the weight, decoupled
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool decay) const {
        return {moments_.constants<T>(), simd::set1(static_cast<T>(learning_rate / info.of_step[0])),
                simd::set1(static_cast<T>(1 / std::sqrt(info.of_step[1]))),
                simd::set1(static_cast<T>(Decoupled ? 1 - learning_rate * this->decay_where(decay) : 1))};
    }
    static constexpr bool takes_root = true;
    template <class T>
    static FASTOPT_INLINE simd::Vec<T> advance(const Constants<T>& c, const simd::Vec<T>& g, simd::Vec<T>* s) {
        c.moments.advance(g, s[0], s[1]);
        if constexpr (AmsGrad) {
            s[2] = max(s[2], s[1]);
        }
        return s[slots - 1];
    }
    template <class T>
    static FASTOPT_INLINE void finish(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>&, const simd::Vec<T>* s,
                                      const simd::Vec<T>& root) {
        using namespace simd;
        if constexpr (Decoupled) {
            w = w * c.keep;
        }
        w = w - (c.rate * s[0]) / fma(root, c.root_scale, c.moments.eps);
    }

   private:
    Moments moments_;
};

// Nesterov momentum with mu_t = beta1 (1 - 0.96^(t momentum_decay)/2) (Dozat 2016)
class NAdam : public RuleBase {
   public:
    static constexpr int slots = 2;
    static constexpr bool squares_gradient = true;

    explicit NAdam(const Config& config) : moments_(config), momentum_decay_(config.number("momentum_decay")) {}

    std::vector<std::string> slot_names() const { return {"m", "v"}; }
    std::vector<std::string> scalar_names() const { return {"mu_product"}; }
    std::vector<double> initial_scalars() const { return {1.0}; }
    // of_step: the factor of g, 1 - beta2^t, the factor of m.
    void begin(StepInfo& info) const {
        moments_.begin(info);
        const double now = mu(info.t);
        const double next = mu(info.t + 1);
        const double product = info.scalars[0] *= now;
        info.of_step[0] = (1 - now) / (1 - product);
        info.of_step[2] = next / (1 - product * next);
    }

    template <class T>
    struct Constants {
        Moments::Constants<T> moments;
        simd::Vec<T> gradient_rate, moment_rate, root_scale;
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool) const {
        return {moments_.constants<T>(), simd::set1(static_cast<T>(learning_rate * info.of_step[0])),
                simd::set1(static_cast<T>(learning_rate * info.of_step[2])), simd::set1(static_cast<T>(1 / std::sqrt(info.of_step[1])))};
    }
    static constexpr bool takes_root = true;
    template <class T>
    static FASTOPT_INLINE simd::Vec<T> advance(const Constants<T>& c, const simd::Vec<T>& g, simd::Vec<T>* s) {
        c.moments.advance(g, s[0], s[1]);
        return s[1];
    }
    template <class T>
    static FASTOPT_INLINE void finish(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, const simd::Vec<T>* s,
                                      const simd::Vec<T>& root) {
        using namespace simd;
        w = w - fma(c.gradient_rate, g, c.moment_rate * s[0]) / fma(root, c.root_scale, c.moments.eps);
    }

   private:
    double mu(Index t) const { return moments_.beta1 * (1 - 0.5 * std::pow(0.96, static_cast<double>(t) * momentum_decay_)); }

    Moments moments_;
    double momentum_decay_;
};

// Rectified when the length of the simple average exceeds 5, else momentum alone (Liu et al. 2020)
class RAdam : public RuleBase {
   public:
    static constexpr int slots = 2;
    static constexpr bool squares_gradient = true;

    explicit RAdam(const Config& config) : moments_(config) {}

    std::vector<std::string> slot_names() const { return {"m", "v"}; }
    // of_step: the factor of the learning rate, and whether it is rectified.
    void begin(StepInfo& info) const {
        moments_.begin(info);
        const auto t = static_cast<double>(info.t);
        const double correction = info.of_step[1];
        const double longest = 2 / (1 - moments_.beta2) - 1;
        const double length = longest - 2 * t * std::pow(moments_.beta2, t) / correction;
        const bool rectified = length > 5;
        info.of_step[0] = 1 / info.of_step[0];
        info.of_step[1] = rectified ? 1 : 0;
        if (rectified) {
            info.of_step[0] *= std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length) * correction);
        }
    }

    template <class T>
    struct Constants {
        Moments::Constants<T> moments;
        simd::Vec<T> rate;
        simd::Mask<T> plain;  // of steps that are not rectified
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool) const {
        return {moments_.constants<T>(), simd::set1(static_cast<T>(learning_rate * info.of_step[0])),
                simd::equal(simd::zero<T>(), simd::set1(static_cast<T>(info.of_step[1])))};
    }
    static constexpr bool takes_root = true;
    template <class T>
    static FASTOPT_INLINE simd::Vec<T> advance(const Constants<T>& c, const simd::Vec<T>& g, simd::Vec<T>* s) {
        c.moments.advance(g, s[0], s[1]);
        return s[1];
    }
    template <class T>
    static FASTOPT_INLINE void finish(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>&, const simd::Vec<T>* s,
                                      const simd::Vec<T>& root) {
        using namespace simd;
        w = w - (c.rate * s[0]) / select(c.plain, set1(T(1)), root + c.moments.eps);
    }

   private:
    Moments moments_;
};

// u = max(beta2 u, |g| + eps); w -= eta/(1 - beta1^t) m/u (Kingma and Ba 2015, section 7.1)
class AdaMax : public RuleBase {
   public:
    static constexpr int slots = 2;

    explicit AdaMax(const Config& config) : moments_(config) {}

    std::vector<std::string> slot_names() const { return {"m", "u"}; }
    void begin(StepInfo& info) const { moments_.begin(info); }

    template <class T>
    struct Constants {
        Moments::Constants<T> moments;
        simd::Vec<T> rate;
    };
    template <class T>
    Constants<T> constants(const StepInfo& info, double learning_rate, bool) const {
        return {moments_.constants<T>(), simd::set1(static_cast<T>(learning_rate / info.of_step[0]))};
    }
    template <class T>
    static FASTOPT_INLINE void apply(const Constants<T>& c, simd::Vec<T>& w, const simd::Vec<T>& g, simd::Vec<T>* s) {
        using namespace simd;
        s[0] = fma(c.moments.beta1, s[0], c.moments.rest1 * g);
        s[1] = max(c.moments.beta2 * s[1], abs(g) + c.moments.eps);
        w = w - (c.rate * s[0]) / s[1];
    }

   private:
    Moments moments_;
};

}  // namespace fastopt
