#include "kernels/batchnorm.hpp"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "core/threads.hpp"
#include "kernels/batchnorm_rows.hpp"
#include "kernels/chunks.hpp"
#include "kernels/processor.hpp"

namespace fastopt {

namespace {

using namespace batchnorm;

// Rows whose mean and squared deviations are found together.
constexpr Index merged_rows = 8;
// Rows of a block of the second pass, and rows whose results an activation takes together.
constexpr Index block_rows = 64;
constexpr Index few_rows = 4;

template <class T>
double work(const ConstMatrix<T>& x, double per_element) {
    return per_element * static_cast<double>(x.rows * x.cols);
}

template <class T>
Index bytes_of(const ConstMatrix<T>& x) {
    return x.rows * x.ld * static_cast<Index>(sizeof(T));
}

// Whether x and its result are likely to stay in L3 between the two passes.
template <class T>
bool in_cache(const ConstMatrix<T>& x) {
    return bytes_of(x) <= Index{8} << 20;
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

template <class T>
bool rows_are_whole_pages(const ConstMatrix<T>& x) {
    return x.ld * static_cast<Index>(sizeof(T)) % page == 0;
}

// Whether the lines of `to` lie just behind those of `from`, modulo a page (or a row, when pages are whole rows). Going backwards the loads
// that follow a store would then look like loads of what it wrote, and wait for it; going forwards they do when `to` lies just ahead.
template <class T>
bool just_behind(const ConstMatrix<T>& to, const ConstMatrix<T>& from) {
    const auto row = static_cast<std::uintptr_t>(from.ld) * sizeof(T);
    const std::uintptr_t period = rows_are_whole_pages(from) ? page : row & (~row + 1);  // the largest power of two in it
    return (reinterpret_cast<std::uintptr_t>(to.data) - reinterpret_cast<std::uintptr_t>(from.data)) % period > period / 2;
}

template <class T>
bool has_whole_lines(const ConstMatrix<T>& x) {
    return reinterpret_cast<std::uintptr_t>(x.data) % cache_line == 0 && x.ld * static_cast<Index>(sizeof(T)) % cache_line == 0;
}

// Bytes of all arrays of a second pass that a cache still helps, of an L3 that is rarely all ours; beyond them results go past it. On a
// Zen 4 with 32 MiB of it that loses up to 40 MiB: 7168 x 512 forward takes 652 instead of 416 us, 9216 x 512 853 instead of 668.
inline Index bytes_that_stay() {
    const bool as_zen4 = processor == Processor::zen4 || processor == Processor::other;
    return Index{as_zen4 ? 40 : 24} << 20;
}

// How a second pass goes that reads `from` and writes `to`, each of the size of x; `last` if nobody reads the result again at once.
template <class T>
Walk walk_of(const ConstMatrix<T>& to, std::initializer_list<ConstMatrix<T>> from, bool last) {
    if (in_cache(to)) {
        return std::any_of(from.begin(), from.end(), [&](const auto& x) { return just_behind(to, x); }) ? Walk::on : Walk::back;
    }
    const Index together = static_cast<Index>(from.size() + 1) * bytes_of(to);
    return last && together > bytes_that_stay() && has_whole_lines(to) ? Walk::past : Walk::asking;
}

// The second pass of a kernel: f(factors(first column, width), first row, end of its rows, first column, width) over the rows of a thread,
// at most `rows` of them at a time. Blocks are taken from the last one back, because the last ones are those that the first pass left in
// the caches; within a block, memory is read from end to end.
template <class Factors, class T, class Make, class F>
void second_pass(const ConstMatrix<T>& x, Index rows, double per_element, Make&& factors, F&& f) {
    const Index width = round_up(x.cols, lanes<T>);
    const bool back = in_cache(x);
    constexpr Index long_block = Index{256} << 10;
    const Index block = back ? block_rows : std::max(block_rows, long_block / (x.ld * static_cast<Index>(sizeof(T))));
    parallel_for(x.rows, few_rows, work<T>(x, per_element), [=](Index begin, Index end) {
        for (Index last = end; last > begin;) {
            const Index first = std::max(begin, last - block);
            for (Index at = 0; at < width; at += Factors::columns) {
                const Index strip = std::min(Factors::columns, width - at);
                const Factors of_strip = factors(at, strip);
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

// The first line of `scratch` that lies half a row, at most half a page, from x, modulo a page. When rows are whole pages, a column of them
// takes every way of its set in L1, and sums in the same set would be lost from one group of rows to the next.
template <class T>
T* between_rows(const ConstMatrix<T>& x, T* scratch) {
    const Index row = std::min(page, x.ld * static_cast<Index>(sizeof(T)));
    const auto wanted =
        reinterpret_cast<std::uintptr_t>(x.data) / cache_line * cache_line + static_cast<std::uintptr_t>(round_up(row / 2, cache_line));
    return scratch + static_cast<Index>((wanted - reinterpret_cast<std::uintptr_t>(scratch)) % page / sizeof(T));
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
    if (rows_are_whole_pages(x)) {
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
    const Matrix<T> to = pre.data != nullptr ? pre : y;
    const bool plain = activation == Activation::identity && to.data == y.data;
    constexpr decltype(&normalize_rows<Walk::on, T>) walks[] = {
        &normalize_rows<Walk::back, T>,
        &normalize_rows<Walk::on, T>,
        &normalize_rows<Walk::asking, T>,
        &normalize_rows<Walk::past, T>,
    };
    const auto normalize = walks[static_cast<int>(walk_of<T>(to, {x}, plain))];
    const auto factors_of = [=](Index at, Index strip) {
        return NormalFactors<T>(mean + at, inverse_std + at, norm.gamma + at, norm.beta + at, strip);
    };
    second_pass<NormalFactors<T>>(x, plain ? block_rows : few_rows, activation == Activation::identity ? 6 : 30, factors_of,
                                  [=](const NormalFactors<T>& factors, Index first, Index last, Index at, Index strip) {
                                      normalize(x.row(first) + at, x.ld, to.row(first) + at, to.ld, last - first, strip, factors);
                                      if (!plain) {
                                          activation_forward_tile<T>(activation, to.row(first) + at, to.ld, y.row(first) + at, y.ld,
                                                                     last - first, strip / lanes<T>);
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
    const auto finish = [&](Index at, auto&& to) {
        to(grad_beta + at, load(sums + at));
        to(grad_gamma + at, load(sums + width + at) * load(inverse_std + at));
    };
    Index at = 0;
    for (; at + lanes<T> <= x.cols; at += lanes<T>) {
        finish(at, [](T* to, const Vec<T>& v) { store(to, v); });
    }
    if (at < x.cols) {
        finish(at, [&](T* to, const Vec<T>& v) { store_partial(to, v, x.cols - at); });
    }
    if (grad_x.data == nullptr) {
        return;
    }
    constexpr decltype(&gradient_rows<Walk::on, T>) walks[] = {
        &gradient_rows<Walk::back, T>,
        &gradient_rows<Walk::on, T>,
        &gradient_rows<Walk::asking, T>,
        &gradient_rows<Walk::past, T>,
    };
    const auto differentiate = walks[static_cast<int>(walk_of<T>(grad_x, {x, grad_y}, slope == Activation::identity))];
    const auto factors_of = [=](Index at, Index strip) {
        return GradientFactors<T>(mean + at, inverse_std + at, norm.gamma + at, sums + at, sums + width + at, x.rows, strip);
    };
    second_pass<GradientFactors<T>>(x, slope == Activation::identity ? block_rows : few_rows, slope == Activation::identity ? 8 : 16,
                                    factors_of, [=](const GradientFactors<T>& factors, Index first, Index last, Index at, Index strip) {
                                        differentiate(x.row(first) + at, x.ld, grad_y.row(first) + at, grad_y.ld, grad_x.row(first) + at,
                                                      grad_x.ld, last - first, strip, factors);
                                        const T* source = slope_source.data == nullptr ? nullptr : slope_source.row(first) + at;
                                        activation_backward_tile<T>(slope, source, slope_source.ld, grad_x.row(first) + at, grad_x.ld,
                                                                    last - first, strip / lanes<T>);
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
