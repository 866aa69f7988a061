#include "losses/loss.hpp"

#include "core/threads.hpp"
#include "kernels/reduce.hpp"

namespace fastopt {

template <class T>
LossValue evaluate(const Loss<T>& loss, In<T> prediction, const Target<T>& target, const T* weight, Out<T> grad, T* scratch) {
    const Index rows = prediction.rows;
    T* row_loss = scratch;
    T* row_scale = scratch + rows;
    const double total = weight == nullptr ? static_cast<double>(rows) : tree_sum(weight, rows);
    const double inverse = total > 0 ? 1.0 / total : 0.0;
    for (Index i = 0; i < rows; ++i) {
        row_scale[i] = static_cast<T>((weight == nullptr ? 1.0 : static_cast<double>(weight[i])) * inverse);
    }
    parallel_for(rows, 1, 40.0 * static_cast<double>(rows * prediction.cols),
                 [&](Index begin, Index end) { loss.rows(begin, end, prediction, target, row_scale, row_loss, grad); });
    if (weight != nullptr) {
        // A row without weight does not take part, whatever its loss is.
        for (Index i = 0; i < rows; ++i) {
            row_scale[i] = weight[i] == T(0) ? T(0) : weight[i] * row_loss[i];
        }
        return {tree_sum(row_scale, rows) * inverse, total};
    }
    return {tree_sum(row_loss, rows) * inverse, total};
}

template LossValue evaluate<float>(const Loss<float>&, ConstMatrix<float>, const Target<float>&, const float*, Matrix<float>, float*);
template LossValue evaluate<double>(const Loss<double>&, ConstMatrix<double>, const Target<double>&, const double*, Matrix<double>,
                                    double*);

}  // namespace fastopt
