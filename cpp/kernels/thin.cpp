#include "kernels/thin.hpp"

#include <algorithm>
#include <type_traits>

#include "core/aligned.hpp"
#include "core/threads.hpp"
#include "kernels/gemm.hpp"
#include "kernels/simd_lanes.hpp"

namespace fastopt {

namespace {

using simd::Vec;

template <class T>
constexpr Index lanes = Vec<T>::lanes;

// f(units as a constant), units <= Most: loops over the columns of a thin weight are unrolled, and vectorized by the compiler.
template <Index Most, class F>
void with_units(Index units, F&& f) {
    if constexpr (Most > 1) {
        if (units < Most) {
            return with_units<Most - 1>(units, f);
        }
    }
    f(std::integral_constant<Index, Most>{});
}

// The columns of W as rows of `width` elements, zeros behind: in `to`, unless W is that already.
template <class T>
const T* split_columns(ConstMatrix<T> weight, Index width, T* to) {
    if (weight.cols == 1 && weight.rows == width) {
        return weight.data;
    }
    with_units<max_thin>(weight.cols, [=](auto units) {
        constexpr Index count = decltype(units)::value;
        for (Index j = 0; j < count; ++j) {
            std::fill(to + j * width + weight.rows, to + (j + 1) * width, T(0));
        }
        for (Index p = 0; p < weight.rows; ++p) {
#pragma GCC unroll 4
            for (Index j = 0; j < count; ++j) {
                to[j * width + p] = weight.data[p * count + j];
            }
        }
    });
    return to;
}

// The reverse.
template <class T>
void join_columns(const T* from, Index ld, Matrix<T> weight) {
    with_units<lanes<T> - 1>(weight.cols, [=](auto units) {
        constexpr Index count = decltype(units)::value;
        for (Index p = 0; p < weight.rows; ++p) {
#pragma GCC unroll 16
            for (Index j = 0; j < count; ++j) {
                weight.data[p * count + j] = from[j * ld + p];
            }
        }
    });
}

// Dot products of `packet_lanes` rows of x with one column of W, kept as a row of whole cache lines.
template <class T>
typename Vec<T>::Packet dots(const T* const* rows, const T* column, Index cols, bool padded) {
    constexpr int count = Vec<T>::packet_lanes;
    Vec<T> sum[count];
    if constexpr (Vec<T>::packets > 1) {
        if (padded && cols <= count) {  // the other packets are zeros, and sums of all of them too much for the registers of AVX2
            const simd::Mask<T> inside = simd::first_lanes<T>(cols);
            const Vec<T> w = simd::load(column);
#pragma GCC unroll 16
            for (int r = 0; r < count; ++r) {
                const auto x = simd::ei::pand(inside.p[0], simd::ei::ploadu<typename Vec<T>::Packet>(rows[r]));
                sum[r] = simd::zero<T>();
                sum[r].p[0] = simd::ei::pmadd(x, w.p[0], sum[r].p[0]);
            }
            return simd::sum_lanes_together(sum);
        }
    }
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
        const simd::Mask<T> inside = simd::first_lanes<T>(cols - whole);
#pragma GCC unroll 16
        for (int r = 0; r < count; ++r) {
            const T* rest = rows[r] + whole;
            sum[r] = simd::fma(padded ? simd::keep(inside, simd::load(rest)) : simd::load_partial(rest, cols - whole), w, sum[r]);
        }
    }
    return simd::sum_lanes_together(sum);
}

// A column of so many elements.
template <class T>
FASTOPT_INLINE void store_down(const T* values, Index count, T* to, Index ld) {
    if (ld == 1 && count == Vec<T>::packet_lanes) {
        simd::ei::pstoreu(to, simd::ei::ploadu<typename Vec<T>::Packet>(values));
        return;
    }
    for (Index r = 0; r < count; ++r, to += ld) {
        *to = values[r];
    }
}

// Of each unit's column of W, `width` apart, so many Vecs from element j on.
template <class T, Index Units, Index Vecs>
FASTOPT_INLINE void load_columns(const T* columns, Index width, Index j, Vec<T> (&column)[Units][Vecs]) {
#pragma GCC unroll 4
    for (Index u = 0; u < Units; ++u) {
#pragma GCC unroll 4
        for (Index v = 0; v < Vecs; ++v) {
            column[u][v] = simd::load(columns + u * width + j + v * lanes<T>);
        }
    }
}

// `Vecs` Vecs of columns of rows [begin, end) of the gradient of the input, from column j on; the columns of W, `width` apart, stay in
// registers from row to row.
template <class T, Index Units, bool Relu, Index Vecs>
FASTOPT_INLINE void input_columns(const ConstMatrix<T>& grad, const T* columns, Index width, const Matrix<T>& grad_x, Index j, Index begin,
                                  Index end, const ConstMatrix<T>& slope_source) {
    Vec<T> column[Units][Vecs];
    load_columns<T>(columns, width, j, column);
    const Index ldf = grad.ld;
    const Index lds = slope_source.ld;
    const Index ldo = grad_x.ld;
    const T* from = grad.row(begin);
    const T* source = slope_source.row(begin) + j;
    T* out = grad_x.row(begin) + j;
    for (Index i = end - begin; i > 0; --i, from += ldf, source += lds, out += ldo) {
#pragma GCC unroll 4
        for (Index v = 0; v < Vecs; ++v) {
            Vec<T> sum = simd::zero<T>();
#pragma GCC unroll 4
            for (Index u = 0; u < Units; ++u) {
                sum = simd::fma(simd::set1(from[u]), column[u][v], sum);
            }
            simd::store(out + v * lanes<T>, Relu ? simd::keep(simd::less(simd::zero<T>(), simd::load(source + v * lanes<T>)), sum) : sum);
        }
    }
}

// So many Vecs of columns of both gradients, from column j on: rows of grad_x, and the sums over all rows, from zero on as in a product, as
// rows of `sums`, `width` apart.
template <class T, Index Units, bool Relu, Index Vecs>
FASTOPT_INLINE void both_columns(const ConstMatrix<T>& x, const ConstMatrix<T>& grad, const T* columns, Index width,
                                 const Matrix<T>& grad_x, Index j, T* sums) {
    Vec<T> column[Units][Vecs];
    Vec<T> sum[Units][Vecs];
    load_columns<T>(columns, width, j, column);
    for (auto& row : sum) {
        std::fill(row, row + Vecs, simd::zero<T>());
    }
    const Index ldf = grad.ld;
    const Index ldx = x.ld;
    const Index ldo = grad_x.ld;
    const T* from = grad.data;
    const T* input = x.data + j;
    T* out = grad_x.data + j;
    for (Index i = grad.rows; i > 0; --i, from += ldf, input += ldx, out += ldo) {
#pragma GCC unroll 2
        for (Index v = 0; v < Vecs; ++v) {
            const Vec<T> in = simd::load(input + v * lanes<T>);
            Vec<T> to = simd::zero<T>();
#pragma GCC unroll 4
            for (Index u = 0; u < Units; ++u) {
                const Vec<T> factor = simd::set1(from[u]);
                to = simd::fma(factor, column[u][v], to);
                sum[u][v] = simd::fma(factor, in, sum[u][v]);
            }
            simd::store(out + v * lanes<T>, Relu ? simd::keep(simd::less(simd::zero<T>(), in), to) : to);
        }
    }
#pragma GCC unroll 4
    for (Index u = 0; u < Units; ++u) {
#pragma GCC unroll 2
        for (Index v = 0; v < Vecs; ++v) {
            simd::store(sums + u * width + j + v * lanes<T>, sum[u][v]);
        }
    }
}

// Rows of the gradient of the input, each of so many Vecs, that stay in L1 until all of their columns are there.
constexpr Index rows_at_once(Index vecs) { return std::max<Index>(1, 16384 / cache_line / std::max<Index>(1, vecs)); }

// Rows [begin, end) of the gradient of the input: `columns` are those of W, rows of `width` elements.
template <class T, Index Units, bool Relu>
void input_rows(const ConstMatrix<T>& grad, const T* columns, Index width, const Matrix<T>& grad_x, Index begin, Index end,
                Activation slope, const ConstMatrix<T>& slope_source) {
    const bool later = !Relu && slope != Activation::identity;
    const Index whole = grad_x.padded ? width : grad_x.cols / lanes<T> * lanes<T>;
    const Index rest = grad_x.cols - whole;  // of rows that end within a cache line
    for (Index next, i = begin; i < end; i = next) {
        next = std::min(end, i + rows_at_once(width / lanes<T>));
        Index j = 0;
        for (; j + 2 * lanes<T> <= whole; j += 2 * lanes<T>) {
            input_columns<T, Units, Relu, 2>(grad, columns, width, grad_x, j, i, next, slope_source);
        }
        if (j < whole) {
            input_columns<T, Units, Relu, 1>(grad, columns, width, grad_x, j, i, next, slope_source);
        }
        if (later && whole > 0) {
            activation_backward_tile(slope, slope_source.row(i), slope_source.ld, grad_x.row(i), grad_x.ld, next - i, whole / lanes<T>);
        }
    }
    for (Index i = begin; rest > 0 && i < end; ++i) {
        alignas(cache_line) T last[lanes<T>];
        const ConstMatrix<T> source{slope_source.row(i) + whole, 1, lanes<T>, lanes<T>, true};
        input_columns<T, Units, Relu, 1>(grad.row_range(i, 1), columns + whole, width, {last, 1, lanes<T>, lanes<T>, true}, 0, 0, 1,
                                         source);
        if (later) {
            activation_backward_tile(slope, source.data, lanes<T>, last, lanes<T>, 1, 1);
        }
        simd::store_partial(grad_x.row(i) + whole, simd::load(last), rest);
    }
}

}  // namespace

template <class T>
Index thin_scratch(Index rows, Index inputs, Index units, int threads) {
    const Index width = round_up(inputs, lanes<T>);
    // Forward and the input gradient keep the columns of W, both gradients in one pass those of the weight gradient too; the weight
    // gradient alone itself transposed, and a product's scratch.
    return std::max(2 * units * width, units * padded_ld<T>(inputs) + product_scratch<T>(units, inputs, rows, threads));
}

template <class T>
void thin_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch) {
    constexpr Index count = Vec<T>::packet_lanes;
    const Index units = weight.cols;
    const Index width = round_up(x.cols, lanes<T>);
    const T* const columns = split_columns<T>(weight, width, scratch);
    const double work = 2.0 * static_cast<double>(x.rows * width * units);
    parallel_for(x.rows, count, work, [=](Index begin, Index end) {
        for (Index i = begin; i < end; i += count) {
            const Index rows = std::min(count, end - i);
            const T* row[count];
            const T* next = x.row(i);
#pragma GCC unroll 16
            for (Index r = 0; r < count; ++r) {
                row[r] = next;
                next += r + 1 < rows ? x.ld : 0;  // the last one again
            }
            alignas(cache_line) T value[lanes<T>] = {};
            for (Index j = 0; j < units; ++j) {
                simd::ei::pstoreu(value, dots(row, columns + j * width, x.cols, x.padded));
                if (bias != nullptr) {
                    simd::store(value, simd::load(value) + bias[j]);
                }
                if (pre.data != nullptr) {
                    store_down(value, rows, pre.row(i) + j, pre.ld);
                }
                if (activation != Activation::identity) {
                    activation_forward_tile<T>(activation, value, lanes<T>, value, lanes<T>, 1, 1);
                }
                store_down(value, rows, y.row(i) + j, y.ld);
            }
        }
    });
}

// grad_weight^T = grad_a^T x: the same chains over the batch as the plain product, with lanes along the inputs.
template <class T>
void narrow_backward_weight(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch, Tape* tape) {
    const Index units = grad_a.cols;
    const Index inputs = x.cols;
    Product<T> product;
    product.m = units;
    product.n = inputs;
    product.k = x.rows;
    product.a = transposed(grad_a);
    product.b = operand(x);
    product.tape = tape;
    if (units == 1) {
        product.c = {grad_weight.data, 1, inputs, inputs, false};
        multiply(product, scratch);
        return;
    }
    const Index ld = padded_ld<T>(inputs);
    product.c = {scratch, units, inputs, ld, true};
    multiply(product, scratch + units * ld);
    make_call(tape, [=] { join_columns<T>(scratch, ld, grad_weight); });
}

// Row by row, with the chains of a product of one to four steps: the tiles of one would cost several times their multiply-adds.
template <class T>
void thin_backward_input(In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, T* scratch) {
    const Index width = round_up(weight.rows, lanes<T>);
    const T* const columns = split_columns<T>(weight, width, scratch);
    const double work = 2.0 * static_cast<double>(grad_a.rows * width * weight.cols);
    parallel_for(grad_a.rows, 1, work, [=](Index begin, Index end) {
        with_units<max_thin>(weight.cols, [=](auto units) {
            constexpr Index count = decltype(units)::value;
            const auto rows = slope == Activation::relu ? &input_rows<T, count, true> : &input_rows<T, count, false>;
            rows(grad_a, columns, width, grad_x, begin, end, slope, slope_source);
        });
    });
}

template <class T>
void thin_backward(In<T> x, In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, Out<T> grad_weight,
                   T* scratch) {
    const Index width = round_up(weight.rows, lanes<T>);
    const T* const columns = split_columns<T>(weight, width, scratch);
    T* const sums = scratch + weight.cols * width;
    with_units<max_thin>(weight.cols, [=](auto units) {
        constexpr Index count = decltype(units)::value;
        constexpr Index most = Vec<T>::packets == 1 || count == 1 ? 2 : 1;  // whose sums stay in registers
        const bool joined = slope == Activation::relu && slope_source.data == x.data;
        Index j = 0;
        const auto pass = [&](auto vecs) {
            constexpr Index step = decltype(vecs)::value;
            for (; j + step * lanes<T> <= width; j += step * lanes<T>) {
                joined ? both_columns<T, count, true, step>(x, grad_a, columns, width, grad_x, j, sums)
                       : both_columns<T, count, false, step>(x, grad_a, columns, width, grad_x, j, sums);
            }
        };
        pass(std::integral_constant<Index, most>{});
        pass(std::integral_constant<Index, 1>{});
        if (!joined && slope != Activation::identity) {
            activation_backward_tile(slope, slope_source.data, slope_source.ld, grad_x.data, grad_x.ld, grad_x.rows, width / lanes<T>);
        }
    });
    if (weight.cols == 1) {
        std::copy(sums, sums + weight.rows, grad_weight.data);
    } else {
        join_columns<T>(sums, width, grad_weight);
    }
}

#define FASTOPT_INSTANTIATE(T)                                                                                                            \
    template Index thin_scratch<T>(Index, Index, Index, int);                                                                             \
    template void thin_forward<T>(ConstMatrix<T>, ConstMatrix<T>, const T*, Activation, Matrix<T>, Matrix<T>, T*);                        \
    template void narrow_backward_weight<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, T*, Tape*);                                        \
    template void thin_backward<T>(ConstMatrix<T>, ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, Activation, ConstMatrix<T>, Matrix<T>, T*); \
    template void thin_backward_input<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, Activation, ConstMatrix<T>, T*);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
