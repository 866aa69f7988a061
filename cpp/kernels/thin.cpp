#include "kernels/thin.hpp"

#include <algorithm>

#include "core/aligned.hpp"
#include "core/threads.hpp"
#include "kernels/gemm.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using simd::Vec;

template <class T>
constexpr Index lanes = Vec<T>::lanes;

// Dot products of `packet_lanes` rows of x with one column of W, kept as a row of whole cache lines.
template <class T>
typename Vec<T>::Packet dots(const T* const* rows, const T* column, Index cols, bool padded) {
    constexpr int count = Vec<T>::packet_lanes;
    Vec<T> sum[count];
#pragma GCC unroll 16
    for (int r = 0; r < count; ++r) {
        sum[r] = simd::zero<T>();
    }
    const Index whole = cols / lanes<T> * lanes<T>;
    for (Index p = 0; p < whole; p += lanes<T>) {
        const Vec<T> w = simd::load(column + p);
#pragma GCC unroll 16
        for (int r = 0; r < count; ++r) {
            sum[r] = simd::fma(simd::load(rows[r] + p), w, sum[r]);
        }
    }
    if (whole < cols) {
        // What lies in the padding is anybody's.
        const Vec<T> w = simd::load(column + whole);
        const Vec<T> inside = simd::first_lanes<T>(cols - whole);
#pragma GCC unroll 16
        for (int r = 0; r < count; ++r) {
            const T* rest = rows[r] + whole;
            sum[r] = simd::fma(padded ? simd::keep(inside, simd::load(rest)) : simd::load_partial(rest, cols - whole), w, sum[r]);
        }
    }
    return simd::sum_lanes_together(sum);
}

}  // namespace

template <class T>
Index thin_scratch(Index rows, Index inputs, Index units, int threads) {
    const Index width = round_up(inputs, lanes<T>);
    // Forward keeps the columns of W; backward the gradient transposed, one padded row per unit, and a product's scratch.
    return std::max(units * width, padded_ld<T>(inputs) * units + product_scratch<T>(units, inputs, rows, threads));
}

template <class T>
void thin_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch) {
    constexpr Index count = Vec<T>::packet_lanes;
    const Index units = weight.cols;
    const Index width = round_up(x.cols, lanes<T>);
    for (Index j = 0; j < units; ++j) {
        for (Index p = 0; p < width; ++p) {
            scratch[j * width + p] = p < x.cols ? weight.row(p)[j] : T(0);
        }
    }
    const double work = 2.0 * static_cast<double>(x.rows * width * units);
    parallel_for(x.rows, count, work, [=](Index begin, Index end) {
        for (Index i = begin; i < end; i += count) {
            const Index rows = std::min(count, end - i);
            const T* row[count];
            for (Index r = 0; r < count; ++r) {
                row[r] = x.row(i + std::min(r, rows - 1));
            }
            alignas(cache_line) T value[lanes<T>] = {};
            for (Index j = 0; j < units; ++j) {
                simd::ei::pstoreu(value, dots(row, scratch + j * width, x.cols, x.padded));
                if (bias != nullptr) {
                    simd::store(value, simd::load(value) + bias[j]);
                }
                for (Index r = 0; pre.data != nullptr && r < rows; ++r) {
                    pre.row(i + r)[j] = value[r];
                }
                if (activation != Activation::identity) {
                    activation_forward_tile<T>(activation, value, lanes<T>, value, lanes<T>, 1, 1);
                }
                for (Index r = 0; r < rows; ++r) {
                    y.row(i + r)[j] = value[r];
                }
            }
        }
    });
}

// grad_weight^T = grad_a^T x: the same chains over the batch as the plain product, with lanes along the inputs.
template <class T>
void thin_backward_weight(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch) {
    const Index units = grad_a.cols;
    const Index inputs = x.cols;
    Product<T> product;
    product.m = units;
    product.n = inputs;
    product.k = x.rows;
    product.a = transposed(grad_a);
    product.b = operand(x);
    if (units == 1) {
        product.c = {grad_weight.data, 1, inputs, inputs, false};
        multiply(product, scratch);
        return;
    }
    const Index ld = padded_ld<T>(inputs);
    product.c = {scratch, units, inputs, ld, true};
    multiply(product, scratch + units * ld);
    for (Index p = 0; p < inputs; ++p) {
        for (Index j = 0; j < units; ++j) {
            grad_weight.row(p)[j] = product.c.row(j)[p];
        }
    }
}

#define FASTOPT_INSTANTIATE(T)                                                                                     \
    template Index thin_scratch<T>(Index, Index, Index, int);                                                      \
    template void thin_forward<T>(ConstMatrix<T>, ConstMatrix<T>, const T*, Activation, Matrix<T>, Matrix<T>, T*); \
    template void thin_backward_weight<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, T*);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
