// Losses of margins between classes: multi-class hinge (Weston and Watkins 1999; Crammer and Singer 2001) and the perceptron.
#pragma once

#include "losses/rowwise.hpp"

namespace fastopt {

// 0, or NaN when an output is not finite: comparisons alone would pass over it.
template <class T>
T nonfinite_probe(const T* p, Index outputs) {
    T probe = 0;
    for (Index j = 0; j < outputs; ++j) {
        probe += p[j] * T(0);
    }
    return probe;
}

// weston_watkins: sum over k != c of max(0, 1 - p_c + p_k); crammer_singer: max(0, 1 + max over k != c of p_k - p_c); each margin squared
// when asked for.
class MulticlassHinge : public RowRule {
   public:
    explicit MulticlassHinge(const Config& config)
        : only_worst_(config.text("kind") == "crammer_singer"), squared_(config.flag("squared")) {
        check(only_worst_ || config.text("kind") == "weston_watkins", "kind must be 'weston_watkins' or 'crammer_singer'; got '",
              config.text("kind"), "'");
    }

    void check_outputs(Index outputs) const { check(outputs >= 2, "multiclass_hinge needs at least two outputs; got ", outputs); }

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad) const {
        for (Index j = 0; j < outputs; ++j) {
            grad[j] = T(0);
        }
        if (only_worst_) {
            Index worst = y.label == 0 ? 1 : 0;
            for (Index j = 0; j < outputs; ++j) {
                worst = j != y.label && p[j] > p[worst] ? j : worst;
            }
            return pair(p, worst, y.label, scale, grad) + nonfinite_probe(p, outputs);
        }
        T value = 0;
        for (Index j = 0; j < outputs; ++j) {
            value += j == y.label ? T(0) : pair(p, j, y.label, scale, grad);
        }
        return value;
    }

   private:
    template <class T>
    T pair(const T* p, Index other, Index label, T scale, T* grad) const {
        const T margin = T(1) - p[label] + p[other];
        if (margin <= T(0)) {
            return T(0);
        }
        const T slope = squared_ ? T(2) * margin * scale : scale;
        grad[other] += slope;
        grad[label] -= slope;
        return squared_ ? margin * margin : margin;
    }

    bool only_worst_;
    bool squared_;
};

// One output: max(0, -y p), y in {-1, 1} ({0, 1} is mapped). Several: max_k p_k - p_c. (Rosenblatt 1958)
class Perceptron : public RowRule {
   public:
    explicit Perceptron(const Config&) {}

    TargetKind target_kind(Index outputs) const { return outputs == 1 ? TargetKind::dense : TargetKind::classes; }

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad) const {
        if (outputs == 1) {
            const T sign = *y.dense > T(0) ? T(1) : T(-1);
            const T value = -sign * *p;
            *grad = value > T(0) ? -sign * scale : T(0);
            return value > T(0) || value != value ? value : T(0);
        }
        Index best = 0;
        for (Index j = 0; j < outputs; ++j) {
            grad[j] = T(0);
            best = p[j] > p[best] ? j : best;
        }
        grad[best] += scale;
        grad[y.label] -= scale;
        return p[best] - p[y.label] + nonfinite_probe(p, outputs);
    }
};

}  // namespace fastopt
