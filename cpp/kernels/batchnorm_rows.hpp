// The loops of batch normalization over the columns of a few rows: statistics and sums for the first pass, results for the second.
#pragma once

#include <algorithm>

#include "kernels/simd.hpp"

namespace fastopt::batchnorm {

using namespace simd;

template <class T>
constexpr Index lanes = Vec<T>::lanes;

constexpr Index page = 4096;

template <Index Rows, class T>
void prefetch_rows(const T* x, Index ld, Index ahead) {
#pragma GCC unroll 8
    for (Index r = 0; r < Rows; ++r) {
        __builtin_prefetch(x + (ahead + r) * ld, 0, 2);
    }
}

// ---- first pass: a few rows together, so that the sums of a column are read and written once for all of them --------------------------

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
        Vec<T> level[3];  // of at most 8 rows
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

// ---- second pass: one row after the other, as a copy would go; four together took a fifth longer ---------------------------------------

// How it goes over a block: from the last element back, or from the first on; in memory with lines asked for early, and results that no
// cache would hold past all of them.
enum class Walk { back, on, asking, past };

template <Walk How, class T>
FASTOPT_INLINE void ask_for(const T* x) {
    if constexpr (How == Walk::asking || How == Walk::past) {
        constexpr Index early = Index{8} << 10;
        __builtin_prefetch(x + early / static_cast<Index>(sizeof(T)), 0, 2);
    }
}

template <Walk How, class T>
FASTOPT_INLINE void ask_for_result(const T* y) {
    if constexpr (How != Walk::past) {
        ask_for<How>(y);
    }
}

template <Walk How, class T>
FASTOPT_INLINE void put(T* to, const Vec<T>& v) {
    if constexpr (How == Walk::past) {
        stream(to, v);
    } else {
        store(to, v);
    }
}

// f(row, column) for every line of a block.
template <Walk How, class T, class F>
FASTOPT_INLINE void over_block(Index rows, Index width, F&& f) {
    constexpr Index down = How == Walk::back ? -1 : 1;
    for (Index i = How == Walk::back ? rows - 1 : 0; rows > 0; --rows, i += down) {
        Index at = How == Walk::back ? width - lanes<T> : 0;
        for (Index left = width; left > 0; left -= lanes<T>, at += down * lanes<T>) {
            f(i, at);
        }
    }
    if constexpr (How == Walk::past) {
        streamed();
    }
}

// What a strip of columns needs, side by side: y = (x - centre) scale + shift.
template <class T>
struct NormalFactors {
    static constexpr Index columns = page / static_cast<Index>(sizeof(T));  // of a strip: they stay in L1 from row to row
    alignas(cache_line) T centre[columns];
    alignas(cache_line) T scale[columns];
    alignas(cache_line) T shift[columns];

    NormalFactors(const T* mean, const T* inverse_std, const T* gamma, const T* beta, Index width) {
        for (Index at = 0; at < width; at += lanes<T>) {
            store(centre + at, load(mean + at));
            store(scale + at, load(gamma + at) * load(inverse_std + at));
            store(shift + at, load(beta + at));
        }
    }
};

// Not inlined, so that nothing but the rows and factors is in memory: whatever else is read for each row waits for stores whose addresses
// end in the same twelve bits.
template <Walk How, class T>
EIGEN_DONT_INLINE void normalize_rows(const T* x, Index ldx, T* y, Index ldy, Index rows, Index width, const NormalFactors<T>& factors) {
    over_block<How, T>(rows, width, [&](Index i, Index at) FASTOPT_INLINE_LAMBDA {
        ask_for<How>(x + i * ldx + at);
        ask_for_result<How>(y + i * ldy + at);
        const Vec<T> deviation = load(x + i * ldx + at) - load(factors.centre + at);
        put<How>(y + i * ldy + at, fma(deviation, load(factors.scale + at), load(factors.shift + at)));
    });
}

// The same for grad_x = scale (grad - shift - (x - centre) tilt).
template <class T>
struct GradientFactors {
    static constexpr Index columns = page / static_cast<Index>(sizeof(T));  // half as many, and the hardware does not run ahead
    alignas(cache_line) T centre[columns];
    alignas(cache_line) T shift[columns];
    alignas(cache_line) T tilt[columns];
    alignas(cache_line) T scale[columns];

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
    over_block<How, T>(rows, width, [&](Index i, Index at) FASTOPT_INLINE_LAMBDA {
        ask_for<How>(x + i * ldx + at);
        ask_for<How>(grad + i * ldg + at);
        ask_for_result<How>(grad_x + i * ldo + at);
        const Vec<T> deviation = load(x + i * ldx + at) - load(factors.centre + at);
        const Vec<T> rest = load(grad + i * ldg + at) - load(factors.shift + at);
        put<How>(grad_x + i * ldo + at, load(factors.scale + at) * fma(-deviation, load(factors.tilt + at), rest));
    });
}

}  // namespace fastopt::batchnorm
