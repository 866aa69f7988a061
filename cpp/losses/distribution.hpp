// Losses that fit a distribution: quantiles and a normal with its own variance.
#pragma once

#include <cmath>

#include "losses/rowwise.hpp"

namespace fastopt {

// l = mean over quantiles q of max(q r, (q - 1) r), r = y - p (Koenker and Bassett 1978); one output per quantile, one target.
class Quantile : public RowRule {
   public:
    explicit Quantile(const Config& config) : quantiles_(config.numbers("quantiles")) {}

    void check_outputs(Index outputs) const {
        check(outputs == static_cast<Index>(quantiles_.size()), "quantile needs one output per quantile: ", quantiles_.size(), "; got ",
              outputs);
    }
    TargetKind target_kind(Index) const { return TargetKind::dense; }
    Index target_columns(Index) const { return 1; }

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad) const {
        const T share = T(1) / static_cast<T>(outputs);
        T value = 0;
        for (Index j = 0; j < outputs; ++j) {
            const auto q = static_cast<T>(quantiles_[static_cast<std::size_t>(j)]);
            const T r = *y.dense - p[j];
            value += r > T(0) ? q * r : (q - T(1)) * r;
            grad[j] = scale * share * (r > T(0) ? -q : T(1) - q);
        }
        return value * share;
    }

   private:
    std::vector<double> quantiles_;
};

// l = (s + (y - mu)^2 exp(-s)) / 2, s the log variance, with `full` also ln(2 pi)/2; outputs (mu_0, s_0, mu_1, s_1, ...), mean over
// targets.
class GaussianNLL : public RowRule {
   public:
    explicit GaussianNLL(const Config& config) : full_(config.flag("full")) {}

    void check_outputs(Index outputs) const {
        check(outputs >= 2 && outputs % 2 == 0, "gaussian_nll needs two outputs per target (mean, log variance); got ", outputs);
    }
    TargetKind target_kind(Index) const { return TargetKind::dense; }
    Index target_columns(Index outputs) const { return outputs / 2; }

    template <class T>
    T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad) const {
        const Index targets = outputs / 2;
        const T share = T(1) / static_cast<T>(targets);
        const T constant = full_ ? static_cast<T>(0.91893853320467274178) : T(0);
        T value = 0;
        for (Index j = 0; j < targets; ++j) {
            const T precision = std::exp(-p[2 * j + 1]);
            const T r = p[2 * j] - y.dense[j];
            const T pull = r == T(0) ? T(0) : r * precision;  // also where the precision is infinite
            const T scaled = r == T(0) ? T(0) : r * r * precision;
            value += T(0.5) * (p[2 * j + 1] + scaled) + constant;
            grad[2 * j] = scale * share * pull;
            grad[2 * j + 1] = scale * share * (T(0.5) * (T(1) - scaled));
        }
        return value * share;
    }

    template <class T>
    void curvature(const T* p, Index outputs, const RowTarget<T>& y, T scale, const T* tangent, T* out) const {
        const Index targets = outputs / 2;
        const T share = scale / static_cast<T>(targets);
        for (Index j = 0; j < targets; ++j) {
            const T precision = std::exp(-p[2 * j + 1]);
            const T r = p[2 * j] - y.dense[j];
            const T mu = tangent[2 * j];
            const T s = tangent[2 * j + 1];
            out[2 * j] = share * precision * (mu - r * s);
            out[2 * j + 1] = share * precision * r * (T(0.5) * r * s - mu);
        }
    }

   private:
    bool full_;
};

}  // namespace fastopt
