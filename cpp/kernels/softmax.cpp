#include "kernels/softmax.hpp"

#include "core/threads.hpp"
#include "kernels/softmax_rows.hpp"

namespace fastopt {

namespace {

using namespace simd;

// Several rows of up to one line.
template <class T>
void short_rows(ConstMatrix<T> x, SoftmaxColumns<T>& columns, Matrix<T> out) {
    alignas(cache_line) T lines[SoftmaxColumns<T>::most][Vec<T>::lanes];
    if (!x.padded) {
        for (Index r = 0; r < x.rows; ++r) {
            store(lines[r], load_partial(x.row(r), x.cols));
        }
        x = {lines[0], x.rows, x.cols, Vec<T>::lanes, true};
    }
    columns.exponentials(x);
    const Vec<T> scale = set1(T(1)) / columns.sum();
    for (Index j = 0; j < x.cols; ++j) {
        columns.set(j, columns.e(j) * scale);
    }
    columns.write(out);
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
    parallel_for(x.rows, Vec<T>::lanes, 40.0 * static_cast<double>(x.rows * x.cols), [=](Index begin, Index end) {
        if (!SoftmaxColumns<T>::fits(x.cols)) {
            for (Index i = begin; i < end; ++i) {
                long_row(x.row(i), x.cols, out.row(i), x.padded && out.padded);
            }
            return;
        }
        SoftmaxColumns<T> columns(x.cols);
        for (Index i = begin; i < end; i += columns.most) {
            const Index rows = std::min(columns.most, end - i);
            short_rows<T>(x.row_range(i, rows), columns, out.row_range(i, rows));
        }
    });
}

template void softmax<float>(ConstMatrix<float>, Matrix<float>);
template void softmax<double>(ConstMatrix<double>, Matrix<double>);

}  // namespace fastopt
