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

// Column groups of this many cache lines keep a chunk of reduction_rows rows inside L1.
constexpr int group = 4;

template <class T>
double work(const ConstMatrix<T>& x, double per_element) {
    return per_element * static_cast<double>(x.rows * x.cols);
}

// f(v, count) over the cache lines of a row, `count` of them at a time and known to the compiler, so that sums stay in registers.
template <class F>
void for_groups(Index vecs, F&& f) {
    Index v = 0;
    for (; v + group <= vecs; v += group) {
        f(v, std::integral_constant<int, group>{});
    }
    for (; v < vecs; ++v) {
        f(v, std::integral_constant<int, 1>{});
    }
}

}  // namespace

template <class T>
Index batchnorm_scratch(Index rows, Index cols) {
    return 2 * std::max<Index>(1, ceil_div(rows, reduction_rows)) * round_up(cols, lanes<T>);
}

template <class T>
void batchnorm_statistics(In<T> x, T eps, T* mean, T* variance, T* inverse_std, T* scratch) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index width = vecs * lanes<T>;
    const Index chunks = ceil_div(x.rows, reduction_rows);
    // Per chunk: its mean and its sum of squared deviations, while its rows are in L1.
    parallel_for(chunks, 1, work<T>(x, 6), [=](Index begin, Index end) {
        for (Index c = begin; c < end; ++c) {
            const Index first = c * reduction_rows;
            const Index rows = std::min(reduction_rows, x.rows - first);
            T* chunk_mean = scratch + 2 * c * width;
            T* chunk_squares = chunk_mean + width;
            const Vec<T> inverse_rows = set1(T(1) / static_cast<T>(rows));
            for_groups(vecs, [&](Index v, auto count) {
                Vec<T> sum[count];
                Vec<T> squares[count];
#pragma GCC unroll 4
                for (int g = 0; g < count; ++g) {
                    sum[g] = zero<T>();
                    squares[g] = zero<T>();
                }
                for (Index i = 0; i < rows; ++i) {
                    const T* row = x.row(first + i) + v * lanes<T>;
#pragma GCC unroll 4
                    for (int g = 0; g < count; ++g) {
                        sum[g] = sum[g] + load(row + g * lanes<T>);
                    }
                }
#pragma GCC unroll 4
                for (int g = 0; g < count; ++g) {
                    sum[g] = sum[g] * inverse_rows;
                }
                for (Index i = 0; i < rows; ++i) {
                    const T* row = x.row(first + i) + v * lanes<T>;
#pragma GCC unroll 4
                    for (int g = 0; g < count; ++g) {
                        const Vec<T> d = load(row + g * lanes<T>) - sum[g];
                        squares[g] = fma(d, d, squares[g]);
                    }
                }
#pragma GCC unroll 4
                for (int g = 0; g < count; ++g) {
                    store(chunk_mean + (v + g) * lanes<T>, sum[g]);
                    store(chunk_squares + (v + g) * lanes<T>, squares[g]);
                }
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
    parallel_for(x.rows, 1, work<T>(x, activation == Activation::identity ? 6 : 30), [=](Index begin, Index end) {
        // Blocks of rows that fit L1, so that the activation finds them there.
        const Index step = std::max<Index>(1, 4096 / std::max<Index>(1, vecs * lanes<T>));
        for (Index i0 = begin; i0 < end; i0 += step) {
            const Index i1 = std::min(end, i0 + step);
            for (Index i = i0; i < i1; ++i) {
                for (Index at = 0; at < vecs * lanes<T>; at += lanes<T>) {
                    const Vec<T> scale = load(norm.gamma + at) * load(inverse_std + at);
                    const Vec<T> a = fma(load(x.row(i) + at) - load(mean + at), scale, load(norm.beta + at));
                    store(y.row(i) + at, a);
                    if (pre.data != nullptr) {
                        store(pre.row(i) + at, a);
                    }
                }
            }
            if (activation != Activation::identity) {
                activation_forward_tile<T>(activation, y.row(i0), y.ld, y.row(i0), y.ld, i1 - i0, vecs);
            }
        }
    });
}

template <class T>
void batchnorm_backward(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, In<T> grad_y, Out<T> grad_x, T* grad_gamma,
                        T* grad_beta, Activation slope, In<T> slope_source, T* scratch) {
    const Index vecs = ceil_div(x.cols, lanes<T>);
    const Index width = vecs * lanes<T>;
    const Index chunks = ceil_div(x.rows, reduction_rows);
    parallel_for(chunks, 1, work<T>(x, 6), [=](Index begin, Index end) {
        for (Index c = begin; c < end; ++c) {
            const Index first = c * reduction_rows;
            const Index last = std::min(x.rows, first + reduction_rows);
            T* chunk_beta = scratch + 2 * c * width;
            T* chunk_gamma = chunk_beta + width;
            for_groups(vecs, [&](Index v, auto count) {
                Vec<T> beta[count];
                Vec<T> gamma[count];
                Vec<T> centre[count];
#pragma GCC unroll 4
                for (int g = 0; g < count; ++g) {
                    beta[g] = zero<T>();
                    gamma[g] = zero<T>();
                    centre[g] = load(mean + (v + g) * lanes<T>);
                }
                for (Index i = first; i < last; ++i) {
                    const T* row = x.row(i) + v * lanes<T>;
                    const T* grad = grad_y.row(i) + v * lanes<T>;
#pragma GCC unroll 4
                    for (int g = 0; g < count; ++g) {
                        const Vec<T> d = load(grad + g * lanes<T>);
                        beta[g] = beta[g] + d;
                        gamma[g] = fma(d, load(row + g * lanes<T>) - centre[g], gamma[g]);
                    }
                }
#pragma GCC unroll 4
                for (int g = 0; g < count; ++g) {
                    store(chunk_beta + (v + g) * lanes<T>, beta[g]);
                    store(chunk_gamma + (v + g) * lanes<T>, gamma[g]);
                }
            });
        }
    });
    // Sums over chunks end in the first chunk's place.
    for (Index v = 0; v < vecs; ++v) {
        const Index at = v * lanes<T>;
        Vec<T> beta = zero<T>();
        Vec<T> gamma = zero<T>();
        for (Index c = 0; c < chunks; ++c) {
            beta = beta + load(scratch + 2 * c * width + at);
            gamma = gamma + load(scratch + (2 * c + 1) * width + at);
        }
        gamma = gamma * load(inverse_std + at);
        store(scratch + at, beta);
        store(scratch + width + at, gamma);
        const Index count = std::min(lanes<T>, x.cols - at);
        store_partial(grad_beta + at, beta, count);
        store_partial(grad_gamma + at, gamma, count);
    }
    if (grad_x.data == nullptr) {
        return;
    }
    const Vec<T> inverse_rows = set1(T(1) / static_cast<T>(x.rows));
    parallel_for(x.rows, 1, work<T>(x, slope == Activation::identity ? 8 : 16), [=](Index begin, Index end) {
        const Index step = std::max<Index>(1, 2048 / std::max<Index>(1, width));
        for (Index i0 = begin; i0 < end; i0 += step) {
            const Index i1 = std::min(end, i0 + step);
            for (Index i = i0; i < i1; ++i) {
                for (Index at = 0; at < width; at += lanes<T>) {
                    const Vec<T> inverse = load(inverse_std + at);
                    const Vec<T> d = load(grad_y.row(i) + at) - load(scratch + at) * inverse_rows;
                    const Vec<T> tilt = load(scratch + width + at) * inverse_rows * inverse;
                    const Vec<T> deviation = load(x.row(i) + at) - load(mean + at);
                    store(grad_x.row(i) + at, load(norm.gamma + at) * inverse * fma(-deviation, tilt, d));
                }
            }
            activation_backward_tile<T>(slope, slope_source.data == nullptr ? nullptr : slope_source.row(i0), slope_source.ld,
                                        grad_x.row(i0), grad_x.ld, i1 - i0, vecs);
        }
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
