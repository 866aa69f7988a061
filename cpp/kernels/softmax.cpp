#include "kernels/softmax.hpp"

#include "core/threads.hpp"
#include "kernels/softmax_rows.hpp"

namespace fastopt {

namespace {

using namespace simd;

// Several rows of up to one line.
template <class T>
void short_rows(ConstMatrix<T> x, Matrix<T> out) {
    constexpr Index lanes = Vec<T>::lanes;
    alignas(cache_line) T lines[SoftmaxRows<T>::most][lanes];
    const Matrix<T> e{lines[0], x.rows, x.cols, lanes, true};
    for (Index r = 0; r < x.rows; ++r) {
        store(e.row(r), x.padded ? load(x.row(r)) : load_partial(x.row(r), x.cols));
    }
    SoftmaxRows<T> rows;
    rows.exponentials(e, e);
    for (Index r = 0; r < x.rows; ++r) {
        store_partial(out.row(r), load(e.row(r)) * set1(T(1) / rows.row(r).sum), x.cols);
    }
}

template <class T>
void long_row(const T* x, Index cols, T* out, bool padded) {
    constexpr Index lanes = Vec<T>::lanes;
    const SoftmaxRow<T> s = softmax_exponentials(x, cols, out, padded);
    const Vec<T> scale = set1(T(1) / s.sum);
    Index j = 0;
    for (; j + lanes <= cols; j += lanes) {
        store(out + j, load(out + j) * scale);
    }
    if (j < cols) {
        store_partial(out + j, load_partial(out + j, cols - j) * scale, cols - j);
    }
}

}  // namespace

template <class T>
void softmax(In<T> x, Out<T> out) {
    constexpr Index together = SoftmaxRows<T>::most;
    parallel_for(x.rows, Vec<T>::lanes, 40.0 * static_cast<double>(x.rows * x.cols), [=](Index begin, Index end) {
        for (Index i = begin; i < end; i += together) {
            const Index rows = std::min(together, end - i);
            if (x.cols <= Vec<T>::lanes) {
                short_rows<T>(x.row_range(i, rows), out.row_range(i, rows));
                continue;
            }
            for (Index r = i; r < i + rows; ++r) {
                long_row(x.row(r), x.cols, out.row(r), x.padded && out.padded);
            }
        }
    });
}

template void softmax<float>(ConstMatrix<float>, Matrix<float>);
template void softmax<double>(ConstMatrix<double>, Matrix<double>);

}  // namespace fastopt
