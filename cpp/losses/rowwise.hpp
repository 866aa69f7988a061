// Driver of losses that look at a whole row of outputs.
//
// A rule offers: Rule(const Config&), kind, check_outputs, target_columns and
//     T row(const T* p, Index outputs, const RowTarget<T>& y, T scale, T* grad) const
// which returns the loss of the row and writes its gradient times `scale`; `grad` is a padded row and never null. A rule through softmax
// (SoftmaxRule) finds exp(p - max) there and is handed a SoftmaxTerms<T>, too; it may also take several short rows at once, turned, when
// their targets are classes:
//     Vec<T> columns(SoftmaxColumns<T>& columns, const Vec<T>& label, const Vec<T>& scale) const
// which returns their losses and leaves the gradient in place of the exponentials.
// A smooth one also offers
//     void curvature(const T* p, Index outputs, const RowTarget<T>& y, T scale, const T* tangent, T* out) const
// which writes its second derivative times `tangent` times `scale`; `out` is a padded row.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/softmax_rows.hpp"
#include "losses/loss.hpp"

namespace fastopt {

template <class T>
struct RowTarget {
    const T* dense;  // null when the target is a class
    std::int32_t label;
};

struct RowRule {
    static constexpr bool softmax = false;
    static constexpr TargetKind kind = TargetKind::classes;
    void check_outputs(Index outputs) const { check(outputs >= 1, "a loss needs at least one output; got ", outputs); }
    Index target_columns(Index outputs) const { return outputs; }
    TargetKind target_kind(Index) const { return TargetKind::classes; }
};

struct SoftmaxRule : RowRule {
    static constexpr bool softmax = true;
};

// Of one row: log softmax(p)_k = p_k - max - log_sum.
template <class T>
struct SoftmaxTerms {
    T max;
    T sum;
    T log_sum;
};

// The exponentials of several rows, written to `e`, and their terms.
template <class T>
class SoftmaxLines {
   public:
    SoftmaxLines(In<T> x, Out<T> e) {
        using namespace simd;
        if (SoftmaxColumns<T>::fits(x.cols)) {
            SoftmaxColumns<T> columns(x.cols);
            columns.exponentials(x);
            columns.write(e);
            store(max_, columns.max());
            store(sum_, columns.sum());
        } else {
            store(sum_, set1(T(1)));
            for (Index r = 0; r < x.rows; ++r) {
                const SoftmaxRow<T> s = softmax_exponentials(x.row(r), x.cols, e.row(r));
                max_[r] = s.max;
                sum_[r] = s.sum;
            }
        }
        store(log_sum_, log(load(sum_)));
    }

    SoftmaxTerms<T> row(Index r) const { return {max_[r], sum_[r], log_sum_[r]}; }

   private:
    alignas(cache_line) T max_[simd::Vec<T>::lanes];
    alignas(cache_line) T sum_[simd::Vec<T>::lanes];
    alignas(cache_line) T log_sum_[simd::Vec<T>::lanes];
};

template <class Rule, class T, class = void>
struct ByColumns : std::false_type {};
template <class Rule, class T>
struct ByColumns<
    Rule, T, std::void_t<decltype(std::declval<const Rule&>().columns(std::declval<SoftmaxColumns<T>&>(), simd::Vec<T>{}, simd::Vec<T>{}))>>
    : std::true_type {};

template <class Rule, class T, class = void>
struct RowCurvature : std::false_type {};
template <class Rule, class T>
struct RowCurvature<Rule, T,
                    std::void_t<decltype(std::declval<const Rule&>().template curvature<T>(nullptr, Index{}, std::declval<RowTarget<T>>(),
                                                                                           T{}, nullptr, nullptr))>> : std::true_type {};

template <class T, class Rule>
class RowwiseLoss final : public Loss<T> {
   public:
    explicit RowwiseLoss(const Config& config) : rule_(config) {}

    void check_outputs(Index outputs) const override { rule_.check_outputs(outputs); }
    TargetKind target_kind(Index outputs) const override { return rule_.target_kind(outputs); }
    Index target_columns(Index outputs) const override { return rule_.target_columns(outputs); }

    void rows(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale, T* row_loss,
              Matrix<T> grad) const override {
        if constexpr (ByColumns<Rule, T>::value) {
            if (target.classes != nullptr && SoftmaxColumns<T>::fits(prediction.cols)) {
                by_columns(begin, end, prediction, target, row_scale, row_loss, grad);
                return;
            }
        }
        constexpr Index together = Rule::softmax ? SoftmaxColumns<T>::most : 1;
        std::vector<T> unwanted(grad.data == nullptr ? static_cast<std::size_t>(together * prediction.ld) : 0);
        for (Index i = begin; i < end; i += together) {
            const Index count = std::min(together, end - i);
            const Matrix<T> to =
                grad.data == nullptr ? Matrix<T>{unwanted.data(), count, prediction.cols, prediction.ld, true} : grad.row_range(i, count);
            if constexpr (Rule::softmax) {
                const SoftmaxLines<T> lines(prediction.row_range(i, count), to);
                for (Index r = 0; r < count; ++r) {
                    row_loss[i + r] = rule_.template row<T>(prediction.row(i + r), prediction.cols, target_row(target, i + r),
                                                            row_scale[i + r], to.row(r), lines.row(r));
                }
            } else {
                row_loss[i] = rule_.template row<T>(prediction.row(i), prediction.cols, target_row(target, i), row_scale[i], to.row(0));
            }
        }
    }

    bool has_curvature() const override { return RowCurvature<Rule, T>::value; }
    void curvature_rows(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale,
                        ConstMatrix<T> tangent, Matrix<T> out) const override {
        if constexpr (RowCurvature<Rule, T>::value) {
            for (Index i = begin; i < end; ++i) {
                const RowTarget<T> y = target_row(target, i);
                rule_.template curvature<T>(prediction.row(i), prediction.cols, y, row_scale[i], tangent.row(i), out.row(i));
            }
        }
    }

   private:
    void by_columns(Index begin, Index end, const ConstMatrix<T>& prediction, const Target<T>& target, const T* row_scale, T* row_loss,
                    const Matrix<T>& grad) const {
        using namespace simd;
        SoftmaxColumns<T> columns(prediction.cols);
        for (Index i = begin; i < end; i += columns.most) {
            const Index count = std::min(columns.most, end - i);
            alignas(cache_line) T label[Vec<T>::lanes] = {};
            std::copy_n(target.classes + i, count, label);
            columns.exponentials(prediction.row_range(i, count));
            store_partial(row_loss + i, rule_.columns(columns, load(label), load_partial(row_scale + i, count)), count);
            if (grad.data != nullptr) {
                columns.write(grad.row_range(i, count));
            }
        }
    }

    static RowTarget<T> target_row(const Target<T>& target, Index i) {
        return {target.classes == nullptr ? target.dense.row(i) : nullptr, target.classes == nullptr ? 0 : target.classes[i]};
    }

    Rule rule_;
};

}  // namespace fastopt
