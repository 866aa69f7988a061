#include "kernels/batchnorm.hpp"

#include <algorithm>
#include <type_traits>

#include "core/threads.hpp"
#include "kernels/chunks.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using namespace simd;

template <class T>
constexpr Index lanes = Vec<T>::lanes;

// Rows whose mean and squared deviations are found together, and rows whose gradients are added together: sums of a column are read and
// written once for all of them.
constexpr Index merged_rows = 8;
constexpr Index added_rows = 4;
// Columns that the second pass takes at a time: their factors stay in L1 from row to row.
constexpr Index strip_columns = 1024;
// Rows that the second pass takes together, and rows of one of its blocks.
constexpr Index applied_rows = 4;
constexpr Index block_rows = 64;

template <class T>
double work(const ConstMatrix<T>& x, double per_element) {
    return per_element * static_cast<double>(x.rows * x.cols);
}

// f(first row, its number of rows as a constant) over begin..end.
template <Index Together, class F>
void for_rows(Index begin, Index end, F&& f) {
    Index i = begin;
    for (; i + Together <= end; i += Together) {
        f(i, std::integral_constant<Index, Together>{});
    }
    for (; i < end; ++i) {
        f(i, std::integral_constant<Index, 1>{});
    }
}

// The second pass of a kernel: f(row, first column, width) over the rows of a thread. What stays in cache is taken in blocks from the last
// one back, because the last ones are those that the first pass left in L2; memory is read from end to end.
template <class T, class F>
void second_pass(const ConstMatrix<T>& x, bool cached, double per_element, F&& f) {
    const Index width = round_up(x.cols, lanes<T>);
    const Index block = cached ? block_rows : std::max<Index>(x.rows, 1);
    parallel_for(x.rows, applied_rows, work<T>(x, per_element), [=](Index begin, Index end) {
        for (Index last = end; last > begin;) {
            const Index first = std::max(begin, last - block);
            for (Index at = 0; at < width; at += strip_columns) {
                for_rows<applied_rows>(first, last, [&](Index i, auto rows) { f(i, rows, at, std::min(strip_columns, width - at)); });
            }
            last = first;
        }
    });
}

// How many rows ahead the loops below ask for: rows end too soon for the hardware to follow them in memory. 0 for what stays in cache,
// where asking costs more than it brings.
template <class T>
Index rows_ahead(const ConstMatrix<T>& x) {
    constexpr Index cached = Index{8} << 20;
    constexpr Index distance = Index{32} << 10;
    const Index row = x.ld * static_cast<Index>(sizeof(T));
    return x.rows * row <= cached ? 0 : round_up(std::max<Index>(distance / row, merged_rows), merged_rows);
}
template <Index Rows, class T>
void prefetch_rows(const T* x, Index ld, Index ahead) {
#pragma GCC unroll 8
    for (Index r = 0; r < Rows; ++r) {
        __builtin_prefetch(x + (ahead + r) * ld, 0, 2);
    }
}

// In the loops below every row is loaded before one is stored: rows of a power of two of bytes would look like each other's addresses.

// y = (x - mean) inverse_std gamma + beta
template <Index Rows, class T>
void normalize_rows(const T* x, Index ldx, Index ahead, const T* mean, const T* inverse_std, const T* gamma, const T* beta, T* y, Index ldy,
                    Index width) {
    for (Index at = 0; at < width; at += lanes<T>) {
        if (ahead > 0) {
            prefetch_rows<Rows>(x + at, ldx, ahead);
            prefetch_rows<Rows>(y + at, ldy, ahead);
        }
        const Vec<T> scale = load(gamma + at) * load(inverse_std + at);
        const Vec<T> centre = load(mean + at);
        const Vec<T> shift = load(beta + at);
        Vec<T> out[Rows];
#pragma GCC unroll 4
        for (Index r = 0; r < Rows; ++r) {
            out[r] = fma(load(x + r * ldx + at) - centre, scale, shift);
        }
#pragma GCC unroll 4
        for (Index r = 0; r < Rows; ++r) {
            store(y + r * ldy + at, out[r]);
        }
    }
}

// beta += grad; gamma += grad (x - mean)
template <Index Rows, class T>
void add_gradients(const T* x, Index ldx, Index ahead, const T* grad, Index ldg, const T* mean, T* beta, T* gamma, Index width) {
    for (Index at = 0; at < width; at += lanes<T>) {
        if (ahead > 0) {
            prefetch_rows<Rows>(x + at, ldx, ahead);
            prefetch_rows<Rows>(grad + at, ldg, ahead);
        }
        Vec<T> sum = load(beta + at);
        Vec<T> product = load(gamma + at);
        const Vec<T> centre = load(mean + at);
#pragma GCC unroll 4
        for (Index r = 0; r < Rows; ++r) {
            const Vec<T> d = load(grad + r * ldg + at);
            sum = sum + d;
            product = fma(d, load(x + r * ldx + at) - centre, product);
        }
        store(beta + at, sum);
        store(gamma + at, product);
    }
}

// grad_x = scale (grad - shift - (x - mean) tilt)
template <Index Rows, class T>
void gradient_rows(const T* x, Index ldx, const T* grad, Index ldg, Index ahead, const T* mean, const T* shift, const T* tilt,
                   const T* scale, T* grad_x, Index ldo, Index width) {
    for (Index at = 0; at < width; at += lanes<T>) {
        if (ahead > 0) {
            prefetch_rows<Rows>(x + at, ldx, ahead);
            prefetch_rows<Rows>(grad + at, ldg, ahead);
            prefetch_rows<Rows>(grad_x + at, ldo, ahead);
        }
        const Vec<T> centre = load(mean + at);
        const Vec<T> slope = load(tilt + at);
        const Vec<T> offset = load(shift + at);
        const Vec<T> factor = load(scale + at);
        Vec<T> out[Rows];
#pragma GCC unroll 4
        for (Index r = 0; r < Rows; ++r) {
            const Vec<T> deviation = load(x + r * ldx + at) - centre;
            out[r] = factor * fma(-deviation, slope, load(grad + r * ldg + at) - offset);
        }
#pragma GCC unroll 4
        for (Index r = 0; r < Rows; ++r) {
            store(grad_x + r * ldo + at, out[r]);
        }
    }
}

// Mean and sum of squared deviations of `before` rows become those of these `Rows` rows too (Chan, Golub, LeVeque 1979).
template <Index Rows, class T>
EIGEN_ALWAYS_INLINE void merge_rows(const T* x, Index ld, Index ahead, Index before, Index vecs, T* mean, T* squares) {
    const Vec<T> inverse = set1(T(1) / static_cast<T>(Rows));
    const T share = static_cast<T>(Rows) / static_cast<T>(before + Rows);
    const Vec<T> both = set1(static_cast<T>(before) * share);
    for (Index at = 0; at < vecs * lanes<T>; at += lanes<T>) {
        if (ahead > 0) {
            prefetch_rows<Rows>(x + at, ld, ahead);
        }
        Vec<T> sum[Rows];
#pragma GCC unroll 8
        for (Index r = 0; r < Rows; ++r) {
            sum[r] = load(x + r * ld + at);
        }
#pragma GCC unroll 3
        for (Index half = Rows / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
            for (Index r = 0; r < half; ++r) {
                sum[r] = sum[r] + sum[r + half];
            }
        }
        const Vec<T> centre = sum[0] * inverse;
        Vec<T> deviation = zero<T>();
#pragma GCC unroll 8
        for (Index r = 0; r < Rows; ++r) {
            const Vec<T> d = load(x + r * ld + at) - centre;
            deviation = fma(d, d, deviation);
        }
        if (before == 0) {
            store(mean + at, centre);
            store(squares + at, deviation);
        } else {
            const Vec<T> old = load(mean + at);
            const Vec<T> d = centre - old;
            store(squares + at, fma(d * d, both, load(squares + at) + deviation));
            store(mean + at, fma(d, set1(share), old));
        }
    }
}

// The first pass over one chunk of rows. Not inlined: among the arguments of the parallel region the loops lose their registers.

template <class T>
EIGEN_DONT_INLINE void chunk_statistics(ConstMatrix<T> x, Range part, Index ahead, T* mean, T* squares) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    for_rows<merged_rows>(part.begin, part.end, [=](Index i, auto rows) {
        merge_rows<decltype(rows)::value>(x.row(i), x.ld, ahead, i - part.begin, vecs, mean, squares);
    });
}

template <class T>
EIGEN_DONT_INLINE void chunk_gradients(ConstMatrix<T> x, ConstMatrix<T> grad, Range part, Index ahead, const T* mean, T* beta, T* gamma) {
    const Index width = round_up(x.cols, lanes<T>);
    std::fill(beta, beta + width, T(0));
    std::fill(gamma, gamma + width, T(0));
    for_rows<added_rows>(part.begin, part.end, [=](Index i, auto rows) {
        add_gradients<decltype(rows)::value>(x.row(i), x.ld, ahead, grad.row(i), grad.ld, mean, beta, gamma, width);
    });
}

}  // namespace

template <class T>
Index batchnorm_scratch(Index rows, Index cols) {
    // Two sums a chunk, and one row more.
    return (2 * std::max<Index>(1, Chunks(rows).count) + 1) * round_up(cols, lanes<T>);
}

template <class T>
void batchnorm_statistics(In<T> x, T eps, T* mean, T* variance, T* inverse_std, T* scratch) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index width = vecs * lanes<T>;
    const Chunks chunks(x.rows);
    const Index ahead = rows_ahead<T>(x);
    // Per chunk: its mean and its sum of squared deviations.
    const auto mean_of = [=](Index chunk) { return scratch + 2 * chunk * width; };
    const auto leaf = [=](Index chunk) { chunk_statistics<T>(x, chunks.range(chunk), ahead, mean_of(chunk), mean_of(chunk) + width); };
    const auto join = [=](Index left, Index right, Index left_rows, Index right_rows) {
        T* total_mean = mean_of(left);
        const T* more_mean = mean_of(right);
        const T part = static_cast<T>(right_rows) / static_cast<T>(left_rows + right_rows);
        const Vec<T> both = set1(static_cast<T>(left_rows) * part);
        for (Index at = 0; at < width; at += lanes<T>) {
            const Vec<T> old = load(total_mean + at);
            const Vec<T> d = load(more_mean + at) - old;
            const Vec<T> squares = load(total_mean + width + at) + load(more_mean + width + at);
            store(total_mean + width + at, fma(d * d, both, squares));
            store(total_mean + at, fma(d, set1(part), old));
        }
    };
    reduce_chunks(chunks, work<T>(x, 6), leaf, join);
    const T* total_mean = scratch;
    const T* total_squares = scratch + width;
    for (Index at = 0; at < width; at += lanes<T>) {
        const Vec<T> total_variance = load(total_squares + at) / set1(static_cast<T>(x.rows));
        store(mean + at, load(total_mean + at));
        store(variance + at, total_variance);
        store(inverse_std + at, set1(T(1)) / sqrt(total_variance + eps));
    }
}

template <class T>
void batchnorm_apply(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, Activation activation, Out<T> y, Out<T> pre) {
    const Index ahead = rows_ahead<T>(x);
    const Matrix<T> to = pre.data != nullptr ? pre : y;
    second_pass<T>(x, ahead == 0, activation == Activation::identity ? 6 : 30, [=](Index i, auto rows, Index at, Index width) {
        normalize_rows<decltype(rows)::value>(x.row(i) + at, x.ld, ahead, mean + at, inverse_std + at, norm.gamma + at, norm.beta + at,
                                              to.row(i) + at, to.ld, width);
        if (activation != Activation::identity || to.data != y.data) {
            activation_forward_tile<T>(activation, to.row(i) + at, to.ld, y.row(i) + at, y.ld, rows, width / lanes<T>);
        }
    });
}

template <class T>
void batchnorm_backward(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, In<T> grad_y, Out<T> grad_x, T* grad_gamma,
                        T* grad_beta, Activation slope, In<T> slope_source, T* scratch) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index width = vecs * lanes<T>;
    const Chunks chunks(x.rows);
    const Index ahead = rows_ahead<T>(x);
    const auto leaf = [=](Index chunk) {
        T* beta = scratch + 2 * chunk * width;
        chunk_gradients<T>(x, grad_y, chunks.range(chunk), ahead, mean, beta, beta + width);
    };
    const auto join = [=](Index left, Index right, Index, Index) {
        T* total = scratch + 2 * left * width;
        const T* more = scratch + 2 * right * width;
        for (Index at = 0; at < 2 * width; at += lanes<T>) {
            store(total + at, load(total + at) + load(more + at));
        }
    };
    reduce_chunks(chunks, work<T>(x, 6), leaf, join);
    // What the gradient of x needs of each column takes the place of the sums: shift = grad_beta / m, tilt = inverse_std grad_gamma / m,
    // scale = gamma inverse_std.
    T* shift = scratch;
    T* tilt = scratch + width;
    T* scale = scratch + 2 * chunks.count * width;
    const Vec<T> inverse_rows = set1(T(1) / static_cast<T>(x.rows));
    for (Index at = 0; at < width; at += lanes<T>) {
        const Vec<T> inverse = load(inverse_std + at);
        const Vec<T> beta = load(shift + at);
        const Vec<T> gamma = load(tilt + at) * inverse;
        const Index count = std::min(lanes<T>, x.cols - at);
        store_partial(grad_beta + at, beta, count);
        store_partial(grad_gamma + at, gamma, count);
        store(shift + at, beta * inverse_rows);
        store(tilt + at, gamma * inverse_rows * inverse);
        store(scale + at, load(norm.gamma + at) * inverse);
    }
    if (grad_x.data == nullptr) {
        return;
    }
    second_pass<T>(x, ahead == 0, slope == Activation::identity ? 8 : 16, [=](Index i, auto rows, Index at, Index strip) {
        gradient_rows<decltype(rows)::value>(x.row(i) + at, x.ld, grad_y.row(i) + at, grad_y.ld, ahead, mean + at, shift + at, tilt + at,
                                             scale + at, grad_x.row(i) + at, grad_x.ld, strip);
        const T* source = slope_source.data == nullptr ? nullptr : slope_source.row(i) + at;
        activation_backward_tile<T>(slope, source, slope_source.ld, grad_x.row(i) + at, grad_x.ld, rows, strip / lanes<T>);
    });
}

#define FASTOPT_INSTANTIATE(T)                                                                                                      \
    template Index batchnorm_scratch<T>(Index, Index);                                                                              \
    template void batchnorm_statistics<T>(ConstMatrix<T>, T, T*, T*, T*, T*);                                                       \
    template void batchnorm_apply<T>(ConstMatrix<T>, const BatchNorm<T>&, const T*, const T*, Activation, Matrix<T>, Matrix<T>);    \
    template void batchnorm_backward<T>(ConstMatrix<T>, const BatchNorm<T>&, const T*, const T*, ConstMatrix<T>, Matrix<T>, T*, T*, \
                                        Activation, ConstMatrix<T>, T*);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
