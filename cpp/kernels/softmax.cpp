#include "kernels/softmax.hpp"

#include "core/threads.hpp"

namespace fastopt {

template <class T>
void softmax(In<T> x, Out<T> out) {
    using namespace simd;
    parallel_for(x.rows, 1, 40.0 * static_cast<double>(x.rows * x.cols), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            T* row = out.row(i);
            const SoftmaxRow<T> s = softmax_exponentials(x.row(i), x.cols, row);
            const Vec<T> scale = set1(T(1) / s.sum);
            for (Index j = 0; j < x.cols; j += Vec<T>::lanes) {
                store(row + j, load(row + j) * scale);
            }
        }
    });
}

template void softmax<float>(ConstMatrix<float>, Matrix<float>);
template void softmax<double>(ConstMatrix<double>, Matrix<double>);

}  // namespace fastopt
