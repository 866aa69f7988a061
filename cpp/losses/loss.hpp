// What a loss is: for each row of outputs a value and, in the same pass, the gradient. The loop over rows, the weights, threads and the
// mean live in loss.cpp; a loss is one small file with its row.
#pragma once

#include <memory>
#include <string>

#include "core/config.hpp"
#include "core/registry.hpp"
#include "core/types.hpp"
#include "losses/one_output.hpp"

namespace fastopt {

enum class TargetKind { dense, classes, either };

// Targets of a batch: a padded matrix of numbers, or one class index per row.
template <class T>
struct Target {
    ConstMatrix<T> dense = {};
    const std::int32_t* classes = nullptr;
};

template <class T>
class Loss {
   public:
    virtual ~Loss() = default;

    // Throws when this loss cannot read so many outputs.
    virtual void check_outputs(Index outputs) const { check(outputs >= 1, "a loss needs at least one output; got ", outputs); }
    virtual TargetKind target_kind(Index outputs) const = 0;
    // Columns of a dense target.
    virtual Index target_columns(Index outputs) const { return outputs; }

    // Whether rows must be padded; else nothing but their elements is read and written.
    virtual bool wants_padding(Index outputs) const {
        (void)outputs;
        return true;
    }
    // Loss of every row in [begin, end) to row_loss; its gradient times row_scale[i] to grad (padded; empty: not wanted).
    virtual void rows(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale, T* row_loss,
                      Matrix<T> grad) const = 0;

    // Whether `one_output` is there: the last two layers of a network in one pass (losses/one_output_pass.hpp).
    virtual bool passes_one_output() const { return false; }
    virtual void one_output(const OneOutput<T>& of) const {
        (void)of;
        check(false, "this loss has no pass for one output");
    }

    // Whether the loss has a second derivative (almost everywhere) that says something; a loss with kinks and straight pieces has none.
    virtual bool has_curvature() const { return false; }
    // The second derivative of every row in [begin, end) with respect to its outputs, times `tangent`, times row_scale[i], to `out`.
    virtual void curvature_rows(Index begin, Index end, ConstMatrix<T> prediction, const Target<T>& target, const T* row_scale,
                                ConstMatrix<T> tangent, Matrix<T> out) const {
        (void)begin;
        (void)end;
        (void)prediction;
        (void)target;
        (void)row_scale;
        (void)tangent;
        (void)out;
        check(false, "this loss has no second derivative");
    }
};

struct LossValue {
    double value;   // sum w l / sum w, 0 when no row has weight
    double weight;  // sum w
};

// A mean over rows that are evaluated in blocks: `scale_rows` writes what Loss::rows wants as row_scale and returns the sum of weights,
// `mean_of_rows` combines the losses of all rows. `weight` null: all rows weigh 1.
template <class T>
double scale_rows(const T* weight, Index rows, T* row_scale);
template <class T>
LossValue mean_of_rows(const T* weight, double total, Index rows, const T* row_loss);
// A row without weight has no part in the mean, whatever its loss is, and none in its gradient with respect to the outputs, where 0 times
// infinity would be NaN. (The gradient of weights is NaN if such a row has infinite activations.)
template <class T>
void clear_weightless(const T* weight, Out<T> grad);

// Of Loss::rows, in the unit of threads_for.
inline double loss_work(Index rows, Index cols) { return 40.0 * static_cast<double>(rows * cols); }

// Loss::rows of rows [begin, end) on as many threads as the work is worth.
template <class T>
void evaluate_rows(const Loss<T>& loss, Index begin, Index end, In<T> prediction, const Target<T>& target, const T* row_scale, T* row_loss,
                   Out<T> grad);

template <class T>
const Registry<Loss<T>>& loss_registry();

}  // namespace fastopt
