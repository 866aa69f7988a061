#include "kernels/reduce.hpp"

#include <algorithm>
#include <atomic>

#include "core/threads.hpp"
#include "kernels/finite.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using namespace simd;

// Rows that are added one after the other, by fours; the sums of longer columns meet along a tree, or a million rows of float32 lose four
// digits.
constexpr Index rows_in_line = 1024;

// Four values are one link of the chain of additions, of which each waits for the one before.
template <class V>
FASTOPT_INLINE V sum_of_four(const V& a, const V& b, const V& c, const V& d) {
    return (a + b) + (c + d);
}

template <class T, int Vecs>
FASTOPT_INLINE void sum_rows(In<T> x, Range rows, Index j, Index cols, Vec<T> (&sum)[Vecs]) {
    constexpr Index lanes = Vec<T>::lanes;
    const bool whole = x.padded || cols == Vecs * lanes;
    for (auto& s : sum) {
        s = zero<T>();
    }
    const Index ld = x.ld;
    const T* row = x.row(rows.begin) + j;
    const auto part = [=](const T* from, int v) FASTOPT_INLINE_LAMBDA {
        const Index left = cols - v * lanes;
        return whole || left >= lanes ? load(from + v * lanes) : cols == 1 ? set1(*from) : load_partial(from + v * lanes, left);
    };
    Index left = rows.size();
    for (; left >= 4; left -= 4, row += 4 * ld) {
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) {
            sum[v] = sum[v] + sum_of_four(part(row, v), part(row + ld, v), part(row + 2 * ld, v), part(row + 3 * ld, v));
        }
    }
    for (; left > 0; --left, row += ld) {
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) {
            sum[v] = sum[v] + part(row, v);
        }
    }
}

template <class T, int Vecs>
void sum_tree(In<T> x, Range rows, Index j, Index cols, Vec<T> (&sum)[Vecs]) {
    if (rows.size() <= rows_in_line) {
        Vec<T> line[Vecs];  // in registers, which `sum` is not
        sum_rows<T, Vecs>(x, rows, j, cols, line);
        std::copy(line, line + Vecs, sum);
        return;
    }
    const Index half = rows.begin + round_up(rows.size() / 2, rows_in_line);
    Vec<T> right[Vecs];
    sum_tree<T, Vecs>(x, {rows.begin, half}, j, cols, sum);
    sum_tree<T, Vecs>(x, {half, rows.end}, j, cols, right);
    for (int v = 0; v < Vecs; ++v) {
        sum[v] = sum[v] + right[v];
    }
}

// One column group of up to `Vecs` cache lines.
template <class T, int Vecs>
void sum_group(In<T> x, Index j, T* out, Index cols) {
    constexpr Index lanes = Vec<T>::lanes;
    Vec<T> sum[Vecs];
    if (x.rows <= rows_in_line) {
        sum_rows<T, Vecs>(x, {0, x.rows}, j, cols, sum);
    } else {
        Vec<T> parts[Vecs];
        sum_tree<T, Vecs>(x, {0, x.rows}, j, cols, parts);
        std::copy(parts, parts + Vecs, sum);
    }
    if (cols == Vecs * lanes) {
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) {
            store(out + j + v * lanes, sum[v]);
        }
        return;
    }
    for (int v = 0; v < Vecs; ++v) {
        store_partial(out + j + v * lanes, sum[v], std::min(lanes, cols - v * lanes));
    }
}

// Whole groups from column j on, as many as there are: a sum waits for its last addition, so several run side by side.
template <class T, int Vecs>
Index sum_groups(In<T> x, Index j, Index end, T* out) {
    constexpr Index width = Vecs * Vec<T>::lanes;
    for (; j + width <= end; j += width) {
        sum_group<T, Vecs>(x, j, out, width);
    }
    return j;
}

template <class F>
double sum_along_tree(Index begin, Index end, const F& value) {
    if (end - begin <= 64) {
        double sum = 0;
        Index i = begin;
        for (; i + 4 <= end; i += 4) {
            sum += sum_of_four(value(i), value(i + 1), value(i + 2), value(i + 3));
        }
        for (; i < end; ++i) {
            sum += value(i);
        }
        return sum;
    }
    const Index half = begin + round_up((end - begin) / 2, Index{64});
    return sum_along_tree(begin, half, value) + sum_along_tree(half, end, value);
}

}  // namespace

template <class T>
void column_sums(In<T> x, T* out) {
    constexpr Index lanes = Vec<T>::lanes;
    constexpr int wide = 8;
    parallel_for(x.cols, wide * lanes, 4.0 * static_cast<double>(x.rows * x.cols), [=](Index begin, Index end) {
        const Index j = sum_groups<T, 2>(x, sum_groups<T, 4>(x, sum_groups<T, wide>(x, begin, end, out), end, out), end, out);
        for (Index at = j; at < end; at += lanes) {
            sum_group<T, 1>(x, at, out, std::min(lanes, end - at));
        }
    });
}

template <class T>
double tree_sum(const T* values, Index count) {
    return sum_along_tree(0, count, [=](Index i) { return static_cast<double>(values[i]); });
}

template <class T>
double weighted_sum(const T* values, const T* weights, Index count) {
    return sum_along_tree(
        0, count, [=](Index i) { return weights[i] == T(0) ? 0.0 : static_cast<double>(weights[i]) * static_cast<double>(values[i]); });
}

double weighted_mean(const double* values, const double* weights, Index count) {
    double sum = 0;
    double total = 0;
    for (Index i = 0; i < count; ++i) {
        sum += values[i] * weights[i];
        total += weights[i];
    }
    return total > 0 ? sum / total : 0;
}

template <class T>
bool all_finite(const T* values, Index count, T most) {
    std::atomic<bool> finite{true};
    parallel_for(count, line_elements<T>, 4.0 * static_cast<double>(count), [&](Index begin, Index end) {
        if (any_beyond(values + begin, end - begin, most)) {
            finite.store(false, std::memory_order_relaxed);
        }
    });
    return finite.load();
}

#define FASTOPT_INSTANTIATE(T)                                  \
    template void column_sums<T>(ConstMatrix<T>, T*);           \
    template double tree_sum<T>(const T*, Index);               \
    template double weighted_sum<T>(const T*, const T*, Index); \
    template bool all_finite<T>(const T*, Index, T);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
