#include "kernels/batchnorm.hpp"

#include <algorithm>
#include <type_traits>

#include "core/threads.hpp"
#include "kernels/reduce.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using namespace simd;

template <class T>
constexpr Index lanes = Vec<T>::lanes;

// Rows that a pass takes together: the factors of a column are read once for all of them, and every row is read from end to end.
constexpr Index rows_together = 4;
// Rows whose mean and squared deviations are found together, and columns of one such strip: 8 x 1024 floats stay in L1.
constexpr Index strip_rows = 8;
constexpr Index strip_columns = 1024;

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

// f(first column, width) over strips of columns, whole cache lines.
template <class T, class F>
void for_strips(Index vecs, F&& f) {
    const Index width = vecs * lanes<T>;
    for (Index from = 0; from < width; from += strip_columns) {
        f(from, std::min(strip_columns, width - from));
    }
}

// How many rows ahead the loops below ask for: rows end too soon for the hardware to follow them in memory. 0 for what stays in cache,
// where asking costs more than it brings.
template <class T>
Index rows_ahead(const ConstMatrix<T>& x) {
    constexpr Index cached = Index{8} << 20;
    constexpr Index distance = Index{32} << 10;
    const Index row = x.ld * static_cast<Index>(sizeof(T));
    return x.rows * row <= cached ? 0 : round_up(std::max<Index>(distance / row, strip_rows), strip_rows);
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
void gradient_rows(const T* x, Index ldx, Index ahead, const T* grad, Index ldg, const T* mean, const T* shift, const T* tilt,
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
void merge_rows(const T* x, Index ld, Index ahead, Index before, Index vecs, T* mean, T* squares) {
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

}  // namespace

template <class T>
Index batchnorm_scratch(Index rows, Index cols) {
    // Two sums a chunk, and one row more.
    return (2 * std::max<Index>(1, ceil_div(rows, reduction_rows)) + 1) * round_up(cols, lanes<T>);
}

template <class T>
void batchnorm_statistics(In<T> x, T eps, T* mean, T* variance, T* inverse_std, T* scratch) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index width = vecs * lanes<T>;
    const Index chunks = ceil_div(x.rows, reduction_rows);
    const Index ahead = rows_ahead<T>(x);
    // Per chunk: its mean and its sum of squared deviations.
    parallel_for(chunks, 1, work<T>(x, 6), [=](Index begin, Index end) {
        for (Index c = begin; c < end; ++c) {
            const Index first = c * reduction_rows;
            const Index last = std::min(x.rows, first + reduction_rows);
            T* chunk_mean = scratch + 2 * c * width;
            for_rows<strip_rows>(first, last, [&](Index i, auto rows) {
                merge_rows<decltype(rows)::value>(x.row(i), x.ld, ahead, i - first, vecs, chunk_mean, chunk_mean + width);
            });
        }
    });
    for (Index v = 0; v < vecs; ++v) {
        const Index at = v * lanes<T>;
        Vec<T> total_mean = load(scratch + at);
        Vec<T> total_squares = load(scratch + width + at);
        for (Index c = 1; c < chunks; ++c) {
            const auto before = static_cast<T>(c * reduction_rows);
            const auto rows = static_cast<T>(std::min(reduction_rows, x.rows - c * reduction_rows));
            const Vec<T> d = load(scratch + 2 * c * width + at) - total_mean;
            total_squares = total_squares + load(scratch + (2 * c + 1) * width + at) + d * d * set1(before * (rows / (before + rows)));
            total_mean = fma(d, set1(rows / (before + rows)), total_mean);
        }
        const Vec<T> total_variance = total_squares / set1(static_cast<T>(x.rows));
        store(mean + at, total_mean);
        store(variance + at, total_variance);
        store(inverse_std + at, set1(T(1)) / sqrt(total_variance + eps));
    }
}

template <class T>
void batchnorm_apply(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, Activation activation, Out<T> y, Out<T> pre) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index ahead = rows_ahead<T>(x);
    const Matrix<T> to = pre.data != nullptr ? pre : y;
    parallel_for(x.rows, rows_together, work<T>(x, activation == Activation::identity ? 6 : 30), [=](Index begin, Index end) {
        for_rows<rows_together>(begin, end, [&](Index i, auto rows) {
            for_strips<T>(vecs, [&](Index at, Index width) {
                normalize_rows<decltype(rows)::value>(x.row(i) + at, x.ld, ahead, mean + at, inverse_std + at, norm.gamma + at,
                                                      norm.beta + at, to.row(i) + at, to.ld, width);
                if (activation != Activation::identity || to.data != y.data) {
                    activation_forward_tile<T>(activation, to.row(i) + at, to.ld, y.row(i) + at, y.ld, rows, width / lanes<T>);
                }
            });
        });
    });
}

template <class T>
void batchnorm_backward(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, In<T> grad_y, Out<T> grad_x, T* grad_gamma,
                        T* grad_beta, Activation slope, In<T> slope_source, T* scratch) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index width = vecs * lanes<T>;
    const Index chunks = ceil_div(x.rows, reduction_rows);
    const Index ahead = rows_ahead<T>(x);
    parallel_for(chunks, 1, work<T>(x, 6), [=](Index begin, Index end) {
        for (Index c = begin; c < end; ++c) {
            const Index first = c * reduction_rows;
            const Index last = std::min(x.rows, first + reduction_rows);
            T* chunk_beta = scratch + 2 * c * width;
            T* chunk_gamma = chunk_beta + width;
            std::fill(chunk_beta, chunk_gamma + width, T(0));
            for_rows<rows_together>(first, last, [&](Index i, auto rows) {
                add_gradients<decltype(rows)::value>(x.row(i), x.ld, ahead, grad_y.row(i), grad_y.ld, mean, chunk_beta, chunk_gamma, width);
            });
        }
    });
    // Sums over chunks; then what the gradient of x needs of each column takes their place: shift = grad_beta / m, tilt = inverse_std
    // grad_gamma / m, scale = gamma inverse_std.
    const Vec<T> inverse_rows = set1(T(1) / static_cast<T>(x.rows));
    T* shift = scratch;
    T* tilt = scratch + width;
    T* scale = scratch + 2 * chunks * width;
    for (Index v = 0; v < vecs; ++v) {
        const Index at = v * lanes<T>;
        Vec<T> beta = zero<T>();
        Vec<T> gamma = zero<T>();
        for (Index c = 0; c < chunks; ++c) {
            beta = beta + load(scratch + 2 * c * width + at);
            gamma = gamma + load(scratch + (2 * c + 1) * width + at);
        }
        const Vec<T> inverse = load(inverse_std + at);
        gamma = gamma * inverse;
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
    parallel_for(x.rows, rows_together, work<T>(x, slope == Activation::identity ? 8 : 16), [=](Index begin, Index end) {
        for_rows<rows_together>(begin, end, [&](Index i, auto rows) {
            for_strips<T>(vecs, [&](Index at, Index strip) {
                gradient_rows<decltype(rows)::value>(x.row(i) + at, x.ld, ahead, grad_y.row(i) + at, grad_y.ld, mean + at, shift + at,
                                                     tilt + at, scale + at, grad_x.row(i) + at, grad_x.ld, strip);
                const T* source = slope_source.data == nullptr ? nullptr : slope_source.row(i) + at;
                activation_backward_tile<T>(slope, source, slope_source.ld, grad_x.row(i) + at, grad_x.ld, rows, strip / lanes<T>);
            });
        });
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
