// Driver of losses that look at one output and one target at a time; the row's loss is their mean.
//
// A rule offers: Rule(const Config&), and for Vecs p and y
//     void operator()(const Vec<T>& p, const Vec<T>& y, Vec<T>& value, Vec<T>& slope) const
// and, when the loss is smooth (almost everywhere), its second derivative
//     Vec<T> curvature(const Vec<T>& p, const Vec<T>& y) const.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/simd_lanes.hpp"
#include "kernels/simd_math.hpp"
#include "losses/loss.hpp"
#include "losses/one_output_pass.hpp"

namespace fastopt {

template <class Rule, class T, class = void>
struct ElementwiseCurvature : std::false_type {};
template <class Rule, class T>
struct ElementwiseCurvature<
    Rule, T, std::void_t<decltype(std::declval<const Rule&>().curvature(std::declval<simd::Vec<T>>(), std::declval<simd::Vec<T>>()))>>
    : std::true_type {};

template <class T, class Rule>
class ElementwiseLoss final : public Loss<T> {
   public:
    explicit ElementwiseLoss(const Config& config) : rule_(config) {}

    TargetKind target_kind(Index) const override { return TargetKind::dense; }
    bool wants_padding(Index outputs) const override { return outputs > 1; }

    void rows(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale, T* row_loss,
              Matrix<T> grad) const override {
        if (prediction.cols == 1) {
            single_output(begin, end, prediction, target, row_scale, row_loss, grad);
            return;
        }
        using namespace simd;
        constexpr Index lanes = Vec<T>::lanes;
        const Index cols = prediction.cols;
        const T inverse = T(1) / static_cast<T>(cols);
        for (Index i = begin; i < end; ++i) {
            const Vec<T> scale = set1(row_scale[i] * inverse);
            Vec<T> sum = zero<T>();
            for (Index j = 0; j < cols; j += lanes) {
                Vec<T> value;
                Vec<T> slope;
                rule_(load(prediction.row(i) + j), load(target.dense.row(i) + j), value, slope);
                slope = slope * scale;
                if (j + lanes > cols) {
                    const Mask<T> inside = first_lanes<T>(cols - j);
                    value = keep(inside, value);
                    slope = keep(inside, slope);
                }
                sum = sum + value;
                if (grad.data != nullptr) {
                    store(grad.row(i) + j, slope);
                }
            }
            row_loss[i] = sum_lanes(sum) * inverse;
        }
    }

    bool passes_one_output() const override { return has_one_output_pass; }
    void one_output(const OneOutput<T>& of) const override {
        if constexpr (has_one_output_pass) {
            one_output_pass(of, rule_);
        }
    }

    bool has_curvature() const override { return ElementwiseCurvature<Rule, T>::value; }
    void curvature_rows(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale,
                        ConstMatrix<T> tangent, Matrix<T> out) const override {
        if constexpr (ElementwiseCurvature<Rule, T>::value) {
            using namespace simd;
            const T inverse = T(1) / static_cast<T>(prediction.cols);
            for (Index i = begin; i < end; ++i) {
                const Vec<T> scale = set1(row_scale[i] * inverse);
                for (Index j = 0; j < prediction.cols; j += Vec<T>::lanes) {
                    const Vec<T> bend = rule_.curvature(load(prediction.row(i) + j), load(target.dense.row(i) + j));
                    store(out.row(i) + j, scale * bend * load(tangent.row(i) + j));
                }
            }
        }
    }

   private:
    // One output is the common case of regression: lanes run across rows.
    void single_output(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale, T* row_loss,
                       Matrix<T> grad) const {
        using namespace simd;
        constexpr Index lanes = Vec<T>::lanes;
        for (Index i = begin; i < end; i += lanes) {
            const Index count = end - i < lanes ? end - i : lanes;
            const bool whole = count == lanes;
            Vec<T> value;
            Vec<T> slope;
            rule_(load_column(prediction.row(i), prediction.ld, count), load_column(target.dense.row(i), target.dense.ld, count), value,
                  slope);
            if (whole) {
                store(row_loss + i, value);
            } else {
                store_partial(row_loss + i, value, count);
            }
            if (grad.data != nullptr) {
                store_column(grad.row(i), grad.ld, slope * (whole ? load(row_scale + i) : load_partial(row_scale + i, count)), count);
            }
        }
    }

    Rule rule_;
};

}  // namespace fastopt
