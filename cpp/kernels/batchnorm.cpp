#include "kernels/batchnorm.hpp"

#include <algorithm>
#include <cstdint>
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
constexpr Index page = 4096;
// Columns that the second pass takes at a time: their factors stay in L1 from row to row.
template <class T>
constexpr Index strip_columns = page / static_cast<Index>(sizeof(T));
// Rows of one of its blocks, and rows whose results an activation takes together.
constexpr Index block_rows = 64;
constexpr Index few_rows = 4;

template <class T>
double work(const ConstMatrix<T>& x, double per_element) {
    return per_element * static_cast<double>(x.rows * x.cols);
}

// Whether x and its result are likely to stay in L3 between the two passes.
template <class T>
bool in_cache(const ConstMatrix<T>& x) {
    return x.rows * x.ld * static_cast<Index>(sizeof(T)) <= Index{8} << 20;
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

// Whether the lines of `to` lie just behind those of `from`, modulo a page (or a row, when pages are whole rows). Going backwards the loads
// that follow a store would then look like loads of what it wrote, and wait for it; going forwards they do when `to` lies just ahead.
template <class T>
bool just_behind(const ConstMatrix<T>& to, const ConstMatrix<T>& from) {
    const auto row = static_cast<std::uintptr_t>(from.ld) * sizeof(T);
    const std::uintptr_t period = row % page == 0 ? page : row & (~row + 1);  // the largest power of two in it
    return (reinterpret_cast<std::uintptr_t>(to.data) - reinterpret_cast<std::uintptr_t>(from.data)) % period > period / 2;
}

// The second pass of a kernel: f(factors(first column, width), first row, end of its rows, first column, width) over the rows of a thread,
// at most `rows` of them at a time. What stays in cache is taken in blocks from the last one back, because the last ones are those that
// the first pass left in L2; memory is read from end to end.
template <class T, class Factors, class F>
void second_pass(const ConstMatrix<T>& x, Index rows, double per_element, Factors&& factors, F&& f) {
    const Index width = round_up(x.cols, lanes<T>);
    const bool back = in_cache(x);
    const Index block = back ? block_rows : std::max<Index>(x.rows, 1);
    parallel_for(x.rows, 4, work<T>(x, per_element), [=](Index begin, Index end) {
        for (Index last = end; last > begin;) {
            const Index first = std::max(begin, last - block);
            for (Index at = 0; at < width; at += strip_columns<T>) {
                const Index strip = std::min(strip_columns<T>, width - at);
                const auto of_strip = factors(at, strip);
                const Index groups = ceil_div(last - first, rows);
                for (Index group = 0; group < groups; ++group) {
                    const Index row = first + (back ? groups - 1 - group : group) * rows;
                    f(of_strip, row, std::min(last, row + rows), at, strip);
                }
            }
            last = first;
        }
    });
}

// How many rows ahead the loops below ask for: rows end too soon for the hardware to follow them in memory. 0 for what stays in cache,
// where asking costs more than it brings.
template <class T>
Index rows_ahead(const ConstMatrix<T>& x) {
    constexpr Index distance = Index{32} << 10;
    const Index row = x.ld * static_cast<Index>(sizeof(T));
    return in_cache(x) ? 0 : round_up(std::max<Index>(distance / row, merged_rows), merged_rows);
}
template <Index Rows, class T>
void prefetch_rows(const T* x, Index ld, Index ahead) {
#pragma GCC unroll 8
    for (Index r = 0; r < Rows; ++r) {
        __builtin_prefetch(x + (ahead + r) * ld, 0, 2);
    }
}

// The first line of `scratch` that lies half a row, at most half a page, from x, modulo a page. When rows are whole pages, a column of them
// takes every way of its set in L1, and sums in the same set would be lost from one group of rows to the next.
template <class T>
T* between_rows(const ConstMatrix<T>& x, T* scratch) {
    const Index row = std::min(page, x.ld * static_cast<Index>(sizeof(T)));
    const auto wanted =
        reinterpret_cast<std::uintptr_t>(x.data) / cache_line * cache_line + static_cast<std::uintptr_t>(round_up(row / 2, cache_line));
    return scratch + static_cast<Index>((wanted - reinterpret_cast<std::uintptr_t>(scratch)) % page / sizeof(T));
}

// How the second pass goes over a block: from the last element back, or from the first on, in memory with lines asked for early.
enum class Walk { back, on, asking };

template <Walk How, class T>
FASTOPT_INLINE void ask_for(const T* x) {
    if constexpr (How == Walk::asking) {
        constexpr Index early = Index{8} << 10;
        __builtin_prefetch(x + early / static_cast<Index>(sizeof(T)), 0, 2);
    }
}

// What a strip of columns needs, side by side: y = (x - centre) scale + shift.
template <class T>
struct NormalFactors {
    alignas(cache_line) T centre[strip_columns<T>];
    alignas(cache_line) T scale[strip_columns<T>];
    alignas(cache_line) T shift[strip_columns<T>];

    NormalFactors(const T* mean, const T* inverse_std, const T* gamma, const T* beta, Index width) {
        for (Index at = 0; at < width; at += lanes<T>) {
            store(centre + at, load(mean + at));
            store(scale + at, load(gamma + at) * load(inverse_std + at));
            store(shift + at, load(beta + at));
        }
    }
};

// Rows one after the other, as a copy would go: four together took a fifth longer. Not inlined, so that nothing but the rows and factors is
// in memory: whatever else is read for each row waits for stores that only look like its own.
template <Walk How, class T>
EIGEN_DONT_INLINE void normalize_rows(const T* x, Index ldx, T* y, Index ldy, Index rows, Index width, const NormalFactors<T>& factors) {
    constexpr Index down = How == Walk::back ? -1 : 1;
    for (Index i = How == Walk::back ? rows - 1 : 0; rows > 0; --rows, i += down) {
        Index at = How == Walk::back ? width - lanes<T> : 0;
        for (Index left = width; left > 0; left -= lanes<T>, at += down * lanes<T>) {
            ask_for<How>(x + i * ldx + at);
            ask_for<How>(y + i * ldy + at);
            const Vec<T> deviation = load(x + i * ldx + at) - load(factors.centre + at);
            store(y + i * ldy + at, fma(deviation, load(factors.scale + at), load(factors.shift + at)));
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

// The same for grad_x = scale (grad - shift - (x - centre) tilt).
template <class T>
struct GradientFactors {
    alignas(cache_line) T centre[strip_columns<T>];
    alignas(cache_line) T shift[strip_columns<T>];
    alignas(cache_line) T tilt[strip_columns<T>];
    alignas(cache_line) T scale[strip_columns<T>];

    GradientFactors(const T* mean, const T* inverse_std, const T* gamma, const T* sums, const T* products, Index rows, Index width) {
        const Vec<T> inverse_rows = set1(T(1) / static_cast<T>(rows));
        for (Index at = 0; at < width; at += lanes<T>) {
            const Vec<T> inverse = load(inverse_std + at);
            store(centre + at, load(mean + at));
            store(shift + at, load(sums + at) * inverse_rows);
            store(tilt + at, load(products + at) * inverse * inverse_rows * inverse);
            store(scale + at, load(gamma + at) * inverse);
        }
    }
};

template <Walk How, class T>
EIGEN_DONT_INLINE void gradient_rows(const T* x, Index ldx, const T* grad, Index ldg, T* grad_x, Index ldo, Index rows, Index width,
                                     const GradientFactors<T>& factors) {
    constexpr Index down = How == Walk::back ? -1 : 1;
    for (Index i = How == Walk::back ? rows - 1 : 0; rows > 0; --rows, i += down) {
        Index at = How == Walk::back ? width - lanes<T> : 0;
        for (Index left = width; left > 0; left -= lanes<T>, at += down * lanes<T>) {
            ask_for<How>(x + i * ldx + at);
            ask_for<How>(grad + i * ldg + at);
            ask_for<How>(grad_x + i * ldo + at);
            const Vec<T> deviation = load(x + i * ldx + at) - load(factors.centre + at);
            const Vec<T> rest = load(grad + i * ldg + at) - load(factors.shift + at);
            store(grad_x + i * ldo + at, load(factors.scale + at) * fma(-deviation, load(factors.tilt + at), rest));
        }
    }
}

// Mean and sum of squared deviations of `before` rows become those of these `Rows` rows too (Chan, Golub, LeVeque 1979).
template <Index Rows, class T>
EIGEN_ALWAYS_INLINE void merge_rows(const T* x, Index ld, Index ahead, Index before, Index vecs, T* mean, T* squares) {
    const Vec<T> half_of = set1(T(0.5));
    const Vec<T> inverse = set1(T(1) / static_cast<T>(Rows));
    const T share = static_cast<T>(Rows) / static_cast<T>(before + Rows);
    const Vec<T> both = set1(static_cast<T>(before) * share);
    for (Index at = 0; at < vecs * lanes<T>; at += lanes<T>) {
        if (ahead > 0) {
            prefetch_rows<Rows>(x + at, ld, ahead);
        }
        // Sums of 1, 2 and 4 rows meet in pairs; two sums of g rows that differ by d add d^2 / (2 g) to the squared deviations.
        Vec<T> sum[Rows];
#pragma GCC unroll 8
        for (Index r = 0; r < Rows; ++r) {
            sum[r] = load(x + r * ld + at);
        }
        Vec<T> level[4];
        int levels = 0;
#pragma GCC unroll 3
        for (Index half = Rows / 2; half > 0; half /= 2, ++levels) {
#pragma GCC unroll 4
            for (Index r = 0; r < half; ++r) {
                const Vec<T> d = sum[r] - sum[r + half];
                sum[r] = sum[r] + sum[r + half];
                level[levels] = r == 0 ? d * d : fma(d, d, level[levels]);
            }
        }
        Vec<T> twice = zero<T>();
#pragma GCC unroll 4
        for (int l = levels - 1; l >= 0; --l) {
            twice = l == levels - 1 ? level[l] : fma(half_of, twice, level[l]);
        }
        const Vec<T> centre = sum[0] * inverse;
        if (before == 0) {
            store(mean + at, centre);
            store(squares + at, half_of * twice);
        } else {
            const Vec<T> old = load(mean + at);
            const Vec<T> d = centre - old;
            store(squares + at, fma(d * d, both, fma(half_of, twice, load(squares + at))));
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
    const auto add = [=](Index i, auto rows) {
        add_gradients<decltype(rows)::value>(x.row(i), x.ld, ahead, grad.row(i), grad.ld, mean, beta, gamma, width);
    };
    // Four rows of whole pages of x and four of the gradient would take every way of a set of L1.
    if (x.ld * static_cast<Index>(sizeof(T)) % page == 0) {
        for_rows<2>(part.begin, part.end, add);
    } else {
        for_rows<4>(part.begin, part.end, add);
    }
}

}  // namespace

template <class T>
Index batchnorm_scratch(Index rows, Index cols) {
    // Two sums a chunk, and a page to choose where they begin.
    return 2 * std::max<Index>(1, Chunks(rows).count) * round_up(cols, lanes<T>) + page / static_cast<Index>(sizeof(T));
}

template <class T>
void batchnorm_statistics(In<T> x, T eps, T* mean, T* variance, T* inverse_std, T* scratch) {
    const Index width = round_up(x.cols, lanes<T>);
    const Chunks chunks(x.rows);
    const Index ahead = rows_ahead<T>(x);
    T* const sums = between_rows<T>(x, scratch);
    // Per chunk: its mean and its sum of squared deviations.
    const auto mean_of = [=](Index chunk) { return sums + 2 * chunk * width; };
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
    const T* total_mean = sums;
    const T* total_squares = sums + width;
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
    const bool plain = activation == Activation::identity && to.data == y.data;
    const Walk walk = !in_cache(x) ? Walk::asking : just_behind<T>(to, x) ? Walk::on : Walk::back;
    const auto normalize = walk == Walk::back ? &normalize_rows<Walk::back, T>
                           : walk == Walk::on ? &normalize_rows<Walk::on, T>
                                              : &normalize_rows<Walk::asking, T>;
    const auto factors_of = [=](Index at, Index strip) {
        return NormalFactors<T>(mean + at, inverse_std + at, norm.gamma + at, norm.beta + at, strip);
    };
    second_pass<T>(x, plain ? block_rows : few_rows, activation == Activation::identity ? 6 : 30, factors_of,
                   [=](const NormalFactors<T>& factors, Index first, Index last, Index at, Index strip) {
                       normalize(x.row(first) + at, x.ld, to.row(first) + at, to.ld, last - first, strip, factors);
                       if (!plain) {
                           activation_forward_tile<T>(activation, to.row(first) + at, to.ld, y.row(first) + at, y.ld, last - first,
                                                      strip / lanes<T>);
                       }
                   });
}

template <class T>
void batchnorm_backward(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, In<T> grad_y, Out<T> grad_x, T* grad_gamma,
                        T* grad_beta, Activation slope, In<T> slope_source, T* scratch) {
    const Index width = round_up(x.cols, lanes<T>);
    const Chunks chunks(x.rows);
    const Index ahead = rows_ahead<T>(x);
    T* const sums = between_rows<T>(x, scratch);
    const auto leaf = [=](Index chunk) {
        T* beta = sums + 2 * chunk * width;
        chunk_gradients<T>(x, grad_y, chunks.range(chunk), ahead, mean, beta, beta + width);
    };
    const auto join = [=](Index left, Index right, Index, Index) {
        T* total = sums + 2 * left * width;
        const T* more = sums + 2 * right * width;
        for (Index at = 0; at < 2 * width; at += lanes<T>) {
            store(total + at, load(total + at) + load(more + at));
        }
    };
    reduce_chunks(chunks, work<T>(x, 6), leaf, join);
    for (Index at = 0; at < width; at += lanes<T>) {
        const Index count = std::min(lanes<T>, x.cols - at);
        store_partial(grad_beta + at, load(sums + at), count);
        store_partial(grad_gamma + at, load(sums + width + at) * load(inverse_std + at), count);
    }
    if (grad_x.data == nullptr) {
        return;
    }
    const Walk walk = !in_cache(x) ? Walk::asking : just_behind<T>(grad_x, x) || just_behind<T>(grad_x, grad_y) ? Walk::on : Walk::back;
    const auto differentiate = walk == Walk::back ? &gradient_rows<Walk::back, T>
                               : walk == Walk::on ? &gradient_rows<Walk::on, T>
                                                  : &gradient_rows<Walk::asking, T>;
    const auto factors_of = [=](Index at, Index strip) {
        return GradientFactors<T>(mean + at, inverse_std + at, norm.gamma + at, sums + at, sums + width + at, x.rows, strip);
    };
    second_pass<T>(x, slope == Activation::identity ? block_rows : few_rows, slope == Activation::identity ? 8 : 16, factors_of,
                   [=](const GradientFactors<T>& factors, Index first, Index last, Index at, Index strip) {
                       differentiate(x.row(first) + at, x.ld, grad_y.row(first) + at, grad_y.ld, grad_x.row(first) + at, grad_x.ld,
                                     last - first, strip, factors);
                       const T* source = slope_source.data == nullptr ? nullptr : slope_source.row(first) + at;
                       activation_backward_tile<T>(slope, source, slope_source.ld, grad_x.row(first) + at, grad_x.ld, last - first,
                                                   strip / lanes<T>);
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
