#include "losses/loss.hpp"

#include <algorithm>

#include "core/threads.hpp"
#include "kernels/reduce.hpp"

namespace fastopt {

template <class T>
double scale_rows(const T* weight, Index rows, T* row_scale) {
    const double total = weight == nullptr ? static_cast<double>(rows) : tree_sum(weight, rows);
    const double inverse = total > 0 ? 1.0 / total : 0.0;
    for (Index i = 0; i < rows; ++i) {
        row_scale[i] = static_cast<T>((weight == nullptr ? 1.0 : static_cast<double>(weight[i])) * inverse);
    }
    return total;
}

template <class T>
LossValue mean_of_rows(const T* weight, double total, Index rows, const T* row_loss) {
    const double inverse = total > 0 ? 1.0 / total : 0.0;
    return {(weight == nullptr ? tree_sum(row_loss, rows) : weighted_sum(row_loss, weight, rows)) * inverse, total};
}

template <class T>
void clear_weightless(const T* weight, Out<T> grad) {
    for (Index i = 0; weight != nullptr && i < grad.rows; ++i) {
        if (weight[i] == T(0) && grad.data != nullptr) {
            std::fill(grad.row(i), grad.row(i) + grad.cols, T(0));
        }
    }
}

template <class T>
void evaluate_rows(const Loss<T>& loss, Index begin, Index end, In<T> prediction, const Target<T>& target, const T* row_scale, T* row_loss,
                   Out<T> grad) {
    parallel_for(end - begin, 1, loss_work(end - begin, prediction.cols),
                 [&](Index first, Index last) { loss.rows(begin + first, begin + last, prediction, target, row_scale, row_loss, grad); });
}

#define FASTOPT_INSTANTIATE(T)                                             \
    template double scale_rows<T>(const T*, Index, T*);                    \
    template LossValue mean_of_rows<T>(const T*, double, Index, const T*); \
    template void clear_weightless<T>(const T*, Matrix<T>);                \
    template void evaluate_rows<T>(const Loss<T>&, Index, Index, ConstMatrix<T>, const Target<T>&, const T*, T*, Matrix<T>);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
