// Losses through softmax: cross-entropy, Kullback-Leibler divergence, focal loss.
#pragma once

#include <cmath>

#include "losses/rowwise.hpp"

namespace fastopt {

// sum_k pi_k t_k, where e holds pi times `sum`.
template <class T>
T softmax_mean(const T* e, const T* t, Index outputs, T sum) {
    T mean = 0;
    for (Index j = 0; j < outputs; ++j) {
        mean += e[j] * t[j];
    }
    return mean / sum;
}

// out = scale (diag(pi) - pi pi^T) t, pi = softmax(p): the second derivative of log sum exp.
template <class T>
void softmax_curvature(const T* p, Index outputs, T scale, const T* t, T* out) {
    const SoftmaxRow<T> s = softmax_exponentials(p, outputs, out);
    const T mean = softmax_mean(out, t, outputs, s.sum);
    for (Index j = 0; j < outputs; ++j) {
        out[j] = scale * (out[j] / s.sum) * (t[j] - mean);
    }
}

// l = -sum_k y_k log softmax(p)_k, with y <- (1 - s) y + s/K for label smoothing s.
class SoftmaxCrossEntropy : public SoftmaxRule {
   public:
    explicit SoftmaxCrossEntropy(const Config& config) : smoothing_(config.number("label_smoothing")) {}

    TargetKind target_kind(Index) const { return TargetKind::either; }

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad, const SoftmaxTerms<T>& s) const {
        return y.dense == nullptr ? class_row(p, outputs, y.label, s, scale, grad) : dense_row(p, outputs, y.dense, s, scale, grad);
    }

    // The same of short rows side by side.
    template <class T>
    simd::Vec<T> columns(SoftmaxColumns<T>& s, const simd::Vec<T>& label, const simd::Vec<T>& scale) const {
        using namespace simd;
        const Vec<T> kept = set1(static_cast<T>(1 - smoothing_));
        const Vec<T> spread = set1(static_cast<T>(smoothing_ / static_cast<double>(s.cols())));
        const Vec<T> ratio = scale / s.sum();
        const Vec<T> log_sum = log(s.sum());
        Vec<T> of_label = zero<T>();  // p_c - max
        Vec<T> total = zero<T>();     // sum of log softmax
        for (Index j = 0; j < s.cols(); ++j) {
            const Mask<T> is_label = equal(label, set1(static_cast<T>(j)));
            const Vec<T> p = s.x(j) - s.max();
            of_label = select(is_label, p, of_label);
            total = total + (p - log_sum);
            s.set(j, s.e(j) * ratio - scale * spread - keep(is_label, scale * kept));
        }
        return smoothing_ == 0 ? log_sum - of_label : -(kept * (of_label - log_sum) + spread * total);
    }

    template <class T>
    void curvature(const T* p, Index outputs, const RowTarget<T>& y, T scale, const T* tangent, T* out) const {
        T mass = 1;
        if (y.dense != nullptr) {
            mass = static_cast<T>(smoothing_);
            for (Index j = 0; j < outputs; ++j) {
                mass += static_cast<T>(1 - smoothing_) * y.dense[j];
            }
        }
        softmax_curvature(p, outputs, scale * mass, tangent, out);
    }

   private:
    template <class T>
    T class_row(const T* p, Index outputs, std::int32_t label, const SoftmaxTerms<T>& s, T scale, T* grad) const {
        using namespace simd;
        const auto spread = static_cast<T>(smoothing_ / static_cast<double>(outputs));
        const Vec<T> ratio = set1(scale / s.sum);
        if (smoothing_ == 0) {
            for (Index j = 0; j < outputs; j += Vec<T>::lanes) {
                store(grad + j, load(grad + j) * ratio);
            }
            grad[label] -= scale;
            return s.log_sum - (p[label] - s.max);
        }
        T total = 0;  // sum of log softmax
        for (Index j = 0; j < outputs; ++j) {
            total += p[j] - s.max - s.log_sum;
            grad[j] = grad[j] * (scale / s.sum) - scale * spread;
        }
        const auto kept = static_cast<T>(1 - smoothing_);
        grad[label] -= scale * kept;
        return -(kept * (p[label] - s.max - s.log_sum) + spread * total);
    }

    template <class T>
    T dense_row(const T* p, Index outputs, const T* target, const SoftmaxTerms<T>& s, T scale, T* grad) const {
        const auto kept = static_cast<T>(1 - smoothing_);
        const auto spread = static_cast<T>(smoothing_ / static_cast<double>(outputs));
        T value = 0;
        T mass = 0;
        for (Index j = 0; j < outputs; ++j) {
            const T y = kept * target[j] + spread;
            value -= y == T(0) ? T(0) : y * (p[j] - s.max - s.log_sum);
            mass += y;
        }
        for (Index j = 0; j < outputs; ++j) {
            grad[j] = scale * (mass * (grad[j] / s.sum) - (kept * target[j] + spread));
        }
        return value;
    }

    double smoothing_;
};

// l = sum_k y_k (ln y_k - log softmax(p)_k), 0 ln 0 = 0
class KLDivergence : public SoftmaxRule {
   public:
    explicit KLDivergence(const Config&) {}

    TargetKind target_kind(Index) const { return TargetKind::dense; }

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad, const SoftmaxTerms<T>& s) const {
        T value = 0;
        T mass = 0;
        for (Index j = 0; j < outputs; ++j) {
            if (y.dense[j] > T(0)) {
                value += y.dense[j] * (std::log(y.dense[j]) - (p[j] - s.max - s.log_sum));
            }
            mass += y.dense[j];
        }
        for (Index j = 0; j < outputs; ++j) {
            grad[j] = scale * (mass * (grad[j] / s.sum) - y.dense[j]);
        }
        return value;
    }

    template <class T>
    void curvature(const T* p, Index outputs, const RowTarget<T>& y, T scale, const T* tangent, T* out) const {
        T mass = 0;
        for (Index j = 0; j < outputs; ++j) {
            mass += y.dense[j];
        }
        softmax_curvature(p, outputs, scale * mass, tangent, out);
    }
};

// l = -(1 - pi)^gamma log pi, pi = softmax(p)_c (Lin et al. 2017)
class Focal : public SoftmaxRule {
   public:
    explicit Focal(const Config& config) : gamma_(config.number("gamma")) {}

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad, const SoftmaxTerms<T>& s) const {
        const T log_pi = p[y.label] - s.max - s.log_sum;
        const T pi = std::exp(log_pi);
        const T miss = -std::expm1(log_pi);
        const auto gamma = static_cast<T>(gamma_);
        const T modulation = std::pow(miss, gamma);
        // d l / d log pi; the second term vanishes with log pi as miss -> 0.
        T slope = -modulation;
        if (gamma_ != 0 && miss > T(0)) {
            slope += gamma * std::pow(miss, gamma - 1) * pi * log_pi;
        }
        for (Index j = 0; j < outputs; ++j) {
            grad[j] = -scale * slope * (grad[j] / s.sum);
        }
        grad[y.label] += scale * slope;
        return -modulation * log_pi;
    }

    template <class T>
    void curvature(const T* p, Index outputs, const RowTarget<T>& y, T scale, const T* tangent, T* out) const {
        const SoftmaxRow<T> s = softmax_exponentials(p, outputs, out);
        const T log_pi = p[y.label] - s.max - std::log(s.sum);
        const T pi = std::exp(log_pi);
        const T miss = -std::expm1(log_pi);
        const auto gamma = static_cast<T>(gamma_);
        // First and second derivative along log pi; what has a factor log pi vanishes as miss -> 0.
        T slope = -std::pow(miss, gamma);
        T bend = 0;
        if (gamma_ != 0 && miss > T(0)) {
            const T lower = gamma * std::pow(miss, gamma - 1) * pi;
            slope += lower * log_pi;
            bend = lower * (T(2) + log_pi - (gamma - 1) * pi * log_pi / miss);
        }
        const T mean = softmax_mean(out, tangent, outputs, s.sum);
        const T along = bend * (tangent[y.label] - mean);
        for (Index j = 0; j < outputs; ++j) {
            const T share = out[j] / s.sum;
            out[j] = -scale * share * (along + slope * (tangent[j] - mean));
        }
        out[y.label] += scale * along;
    }

   private:
    double gamma_;
};

}  // namespace fastopt
