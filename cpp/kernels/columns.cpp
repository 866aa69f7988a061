#include "kernels/columns.hpp"

#include <algorithm>

#include "core/threads.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

using namespace simd;

template <class T>
void scale_columns(In<T> x, const T* scale, const T* shift, Out<T> y, bool accumulate) {
    constexpr Index lanes = Vec<T>::lanes;
    parallel_for(x.rows, 1, 6.0 * static_cast<double>(x.rows * x.cols), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            for (Index at = 0; at < x.cols; at += lanes) {
                const Vec<T> start = shift == nullptr ? zero<T>() : load(shift + at);
                const Vec<T> value = fma(load(x.row(i) + at), load(scale + at), start);
                store(y.row(i) + at, accumulate ? load(y.row(i) + at) + value : value);
            }
        }
    });
}

template <class T>
void add_column_products(In<T> x, In<T> g, T* out) {
    constexpr Index lanes = Vec<T>::lanes;
    parallel_for(g.cols, lanes, 4.0 * static_cast<double>(g.rows * g.cols), [=](Index begin, Index end) {
        for (Index j = begin; j < end; j += lanes) {
            const Index cols = std::min(lanes, end - j);
            Vec<T> sum = load_partial(out + j, cols);
            for (Index i = 0; i < g.rows; ++i) {
                const Vec<T> add = load(g.row(i) + j);
                sum = x.data == nullptr ? sum + add : fma(load(x.row(i) + j), add, sum);
            }
            store_partial(out + j, sum, cols);
        }
    });
}

#define FASTOPT_INSTANTIATE(T)                                                           \
    template void scale_columns<T>(ConstMatrix<T>, const T*, const T*, Matrix<T>, bool); \
    template void add_column_products<T>(ConstMatrix<T>, ConstMatrix<T>, T*);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
