#include "kernels/elementwise.hpp"

#include "core/threads.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using namespace simd;

// f(row, offset of a cache line) over a whole matrix.
template <class T, class F>
void for_lines(ConstMatrix<T> x, F&& f) {
    const Index vecs = ceil_div(x.cols, Vec<T>::lanes);
    parallel_for(x.rows, 1, 6.0 * static_cast<double>(x.rows * x.cols), [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            for (Index v = 0; v < vecs; ++v) {
                f(i, v * Vec<T>::lanes);
            }
        }
    });
}

}  // namespace

template <class T>
void copy_rows(In<T> x, Out<T> y) {
    for_lines(x, [=](Index i, Index at) FASTOPT_INLINE_LAMBDA { store(y.row(i) + at, load(x.row(i) + at)); });
}

template <class T>
void multiply_rows(In<T> x, In<T> factor, Out<T> y) {
    for_lines(x, [=](Index i, Index at) FASTOPT_INLINE_LAMBDA { store(y.row(i) + at, load(x.row(i) + at) * load(factor.row(i) + at)); });
}

template <class T>
void shift_and_scale(In<T> x, const T* centre, const T* scale, Out<T> y) {
    for_lines(x, [=](Index i, Index at) FASTOPT_INLINE_LAMBDA {
        const Vec<T> shifted = centre == nullptr ? load(x.row(i) + at) : load(x.row(i) + at) - load(centre + at);
        store(y.row(i) + at, shifted * load(scale + at));
    });
}

#define FASTOPT_INSTANTIATE(T)                                                 \
    template void copy_rows<T>(ConstMatrix<T>, Matrix<T>);                     \
    template void multiply_rows<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>); \
    template void shift_and_scale<T>(ConstMatrix<T>, const T*, const T*, Matrix<T>);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
