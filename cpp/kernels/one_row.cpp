#include "kernels/one_row.hpp"

#include "core/threads.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using simd::Vec;

// Vecs side by side: eight registers of sums hide the latency of a multiply-add, and more would not come faster from L2.
template <class T>
constexpr Index most_vecs = 8 / Vec<T>::packets;

template <class T>
struct Row {
    const T* x;
    Index inputs;
    const T* weight;
    Index ld;
    const T* bias;
    T* y;
    T* pre;
    bool relu;
};

// Columns [j, j + Vecs lines).
template <class T, Index Vecs>
void columns(const Row<T>& row, Index j) {
    constexpr Index lanes = Vec<T>::lanes;
    Vec<T> sum[Vecs];
#pragma GCC unroll 8
    for (Index v = 0; v < Vecs; ++v) {
        sum[v] = row.bias != nullptr ? simd::load(row.bias + j + v * lanes) : simd::zero<T>();
    }
    const T* weight = row.weight + j;
#pragma GCC unroll 4
    for (Index p = 0; p < row.inputs; ++p, weight += row.ld) {
        const Vec<T> factor = simd::set1(row.x[p]);
#pragma GCC unroll 8
        for (Index v = 0; v < Vecs; ++v) {
            sum[v] = simd::fma(factor, simd::load(weight + v * lanes), sum[v]);
        }
    }
#pragma GCC unroll 8
    for (Index v = 0; v < Vecs; ++v) {
        if (row.pre != nullptr) {
            simd::store(row.pre + j + v * lanes, sum[v]);
        }
        simd::store(row.y + j + v * lanes, row.relu ? simd::relu(sum[v]) : sum[v]);
    }
}

// The lines [begin, end) of the columns, so many at once as there are, then half as many.
template <class T, Index Vecs>
void lines(const Row<T>& row, Index begin, Index end) {
    for (; begin + Vecs <= end; begin += Vecs) {
        columns<T, Vecs>(row, begin * Vec<T>::lanes);
    }
    if constexpr (Vecs > 1) {
        lines<T, Vecs / 2>(row, begin, end);
    }
}

}  // namespace

template <class T>
void one_row_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre) {
    const Index vecs = ceil_div(weight.cols, Vec<T>::lanes);
    const bool relu = activation == Activation::relu;
    const Row<T> row{x.data, weight.rows, weight.data, weight.ld, bias, y.data, pre.data, relu};
    const double work = 2.0 * static_cast<double>(weight.rows * vecs * Vec<T>::lanes);
    parallel_for(vecs, 1, work, [&](Index begin, Index end) {
        lines<T, most_vecs<T>>(row, begin, end);
        if (!relu && activation != Activation::identity) {
            T* at = y.data + begin * Vec<T>::lanes;
            activation_forward_tile(activation, at, y.ld, at, y.ld, 1, end - begin);
        }
    });
}

template void one_row_forward<float>(ConstMatrix<float>, ConstMatrix<float>, const float*, Activation, Matrix<float>, Matrix<float>);
template void one_row_forward<double>(ConstMatrix<double>, ConstMatrix<double>, const double*, Activation, Matrix<double>, Matrix<double>);

}  // namespace fastopt
