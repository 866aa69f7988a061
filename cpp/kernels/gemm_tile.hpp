// The register tile of the matrix product: `rows` x `vecs` accumulators that stay in registers over all of k.
//
// Lanes run across the columns of C, so each element of C is one chain of fused multiply-adds over k in order, whatever the tile.
#pragma once

#include <array>
#include <utility>

#include "kernels/simd.hpp"

namespace fastopt::gemm {

// Tile sizes in Vecs. Registers hold rows*vecs accumulators, vecs panel loads and a broadcast: 14x2 of 32 (AVX-512),
// 6x1 of 16 with two registers a Vec (AVX2), 6x1 of 32 with four (NEON).
#if defined(__AVX512F__)
constexpr int max_rows = 14;
constexpr int max_vecs = 2;
#else
constexpr int max_rows = 6;
constexpr int max_vecs = 1;
#endif
// Steps of k that the loop takes at once. A tile of AVX2 has twenty instructions for twelve multiply-adds, and where two threads share a
// core's front end those of the loop itself are felt. How many the compiler can take without moving sums about: see CMakeLists.txt.
#if defined(FASTOPT_TILE_STEPS)
constexpr int k_unroll = FASTOPT_TILE_STEPS;
#else
constexpr int k_unroll = max_vecs == 1 ? 2 : 1;
#endif
// A tile of AVX2 is over in a thousand cycles; waiting for its part of C in memory took a tenth of that. With AVX-512 it is three times
// as much work, and asking gave nothing.
constexpr bool asks_for_c = max_vecs == 1;
// The panel of B that is packed next, from rows that are no longer in a cache, is asked for behind the multiply-adds of this one.
constexpr bool asks_for_b = max_vecs == 1;

// What a tile reads B from. The first tile of a panel may read rows and leave a packed panel for the others: its stores hide behind the
// multiply-adds.
enum class TileSource { panel, rows, rows_to_panel };

// Rows of B that a packing tile asks for ahead: they lie too far apart for the hardware to guess. A row takes as many cycles as half the
// tile has multiply-adds.
constexpr Index prefetch_rows = max_vecs == 1 ? 24 : 8;

// What happens to the accumulators on their way to C.
enum class TileEnd {
    store,
    relu,        // max(c, 0)
    relu_slope,  // c where the element of `slope` is positive, else 0
    sum,         // c + that element
    relu_of_sum,
};

// What tiles of one panel ask for on the way: each of the first `tiles` so many lines, into L2.
template <class T>
struct Ahead {
    const T* from;
    Index tiles;
    Index lines;
    Index line;  // from a line to the next
    Index tile;  // from the first line of a tile to that of the next

    FASTOPT_INLINE void ask() {
        if (tiles > 0) {
            --tiles;
            const T* at = from;
            for (Index l = lines; l > 0; --l, at += line) {
                __builtin_prefetch(at, 0, 2);
            }
            from += tile;
        }
    }
};

// What `panels` x `tiles` tiles have in common, and where the first one lies: panels side by side, tiles below each other. One call for
// many: what a tile costs beside its multiply-adds is felt where k is short.
template <class T>
struct TileArgs {
    Index panels;
    Index tiles;
    Index k;
    const T* a;   // a(i, p) = a[i * a_row + p * a_k]
    Index a_row;  // ignored (1) by the unit-row variant
    Index a_k;
    Index a_tile;  // from the rows of A of a tile to those of the next
    const T* b;    // b(p, j) = b[p * ldb + j], whole Vecs
    Index ldb;
    Index b_panel;  // from a panel of B to the next
    const T* init;  // what the accumulators start from: init[i * ldi + j]; ldi = 0 repeats one row (a bias, or zeros)
    Index ldi;
    Index init_panel;  // from what the tiles of a panel start from to that of the next
    T* c;              // written in whole Vecs
    Index ldc;
    T* packed;  // where a packing tile leaves the panel, rows of Vecs * lanes
    TileEnd end;
    const T* slope;
    Index lds;
    bool far_c;       // C may not be in L2
    Ahead<T>* ahead;  // or none

    // So many tiles further down, of `rows` rows each.
    FASTOPT_INLINE void move_down(Index count, Index rows) {
        a += count * a_tile;
        init += count * rows * ldi;
        c += count * rows * ldc;
        slope += count * rows * lds;
    }
    // The next panel, `cols` further to the right.
    FASTOPT_INLINE void move_right(Index cols) {
        b += b_panel;
        init += init_panel;
        c += cols;
        slope += cols;
    }
};

template <class T, int Rows, int Vecs>
EIGEN_ALWAYS_INLINE void start_tile(const TileArgs<T>& args, simd::Vec<T> (&sum)[Rows][Vecs]) {
    constexpr int lanes = simd::Vec<T>::lanes;
    if (args.ldi == 0) {
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            const simd::Vec<T> row = simd::load(args.init + j * lanes);
#pragma GCC unroll 14
            for (int i = 0; i < Rows; ++i) {
                sum[i][j] = row;
            }
        }
        return;
    }
    const T* init = args.init;
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            sum[i][j] = simd::load(init + j * lanes);
        }
        init += args.ldi;
    }
}

template <class T, int Rows, int Vecs>
EIGEN_ALWAYS_INLINE void finish_tile(const TileArgs<T>& args, const simd::Vec<T> (&sum)[Rows][Vecs]) {
    using simd::Vec;
    constexpr int lanes = Vec<T>::lanes;
    T* c = args.c;
    const T* slope = args.slope;
    const auto finish = [&](auto&& last) FASTOPT_INLINE_LAMBDA {
#pragma GCC unroll 14
        for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                simd::store(c + j * lanes, last(sum[i][j], slope + j * lanes));
            }
            c += args.ldc;
            slope += args.lds;
        }
    };
    if (__builtin_expect(args.end > TileEnd::relu_slope, 0)) {  // apart: five cases make a jump table
        if (args.end == TileEnd::relu_of_sum) {
            finish([](const Vec<T>& v, const T* at) FASTOPT_INLINE_LAMBDA { return simd::relu(v + simd::load(at)); });
        } else {
            finish([](const Vec<T>& v, const T* at) FASTOPT_INLINE_LAMBDA { return v + simd::load(at); });
        }
        return;
    }
    switch (args.end) {
        default:
        case TileEnd::store:
            finish([](const Vec<T>& v, const T*) FASTOPT_INLINE_LAMBDA { return v; });
            break;
        case TileEnd::relu:
            finish([](const Vec<T>& v, const T*) FASTOPT_INLINE_LAMBDA { return simd::relu(v); });
            break;
        case TileEnd::relu_slope:
            finish([](const Vec<T>& v, const T* at)
                       FASTOPT_INLINE_LAMBDA { return simd::keep(simd::less(simd::zero<T>(), simd::load(at)), v); });
            break;
    }
}

// Where C is not at hand a tile would wait for it before its first multiply-add, so the rows below are asked for ahead.
template <class T, int Rows, int Vecs>
FASTOPT_INLINE void ask_for_next(const TileArgs<T>& args) {
    constexpr int lanes = simd::Vec<T>::lanes;
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            __builtin_prefetch(args.c + (Rows + i) * args.ldc + j * lanes, 1);
        }
    }
}

template <class T, int Rows, int Vecs, bool UnitRow, bool Pack>
FASTOPT_INLINE void one_tile(const TileArgs<T>& args) {
    using simd::Vec;
    constexpr int lanes = Vec<T>::lanes;
    Vec<T> sum[Rows][Vecs];
    start_tile<T, Rows, Vecs>(args, sum);
    if (asks_for_c && args.far_c) {
        ask_for_next<T, Rows, Vecs>(args);
    }
    const T* a = args.a;
    const T* b = args.b;
    const Index a_row = UnitRow ? 1 : args.a_row;
    const Index a_k = UnitRow ? args.a_k : 1;
    const Index ldb = args.ldb;
    [[maybe_unused]] T* packed = args.packed;
    const auto step = [&]() FASTOPT_INLINE_LAMBDA {
        Vec<T> panel[Vecs];
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            panel[j] = simd::load(b + j * lanes);
        }
        if constexpr (Pack) {
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                simd::store(packed + j * lanes, panel[j]);
                __builtin_prefetch(b + prefetch_rows * ldb + j * lanes);
            }
            packed += Vecs * lanes;
        }
#pragma GCC unroll 14
        for (int i = 0; i < Rows; ++i) {
            const Vec<T> x = simd::set1(a[i * a_row]);
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                if constexpr (Rows > 2 && Rows < max_rows) {
                    simd::accumulate(x, panel[j], sum[i][j]);
                } else {  // one or two rows take B from memory, and a full tile leaves no register
                    sum[i][j] = simd::fma(x, panel[j], sum[i][j]);
                }
            }
        }
        a += a_k;
        b += ldb;
    };
    for (Index p = args.k % k_unroll; p > 0; --p) {
        step();
    }
    for (Index p = args.k / k_unroll; p > 0; --p) {
#pragma GCC unroll 4
        for (int u = 0; u < k_unroll; ++u) {
            step();
        }
    }
    finish_tile<T, Rows, Vecs>(args, sum);
}

template <class T, int Rows, int Vecs, bool UnitRow, bool Pack = false>
void tile(const TileArgs<T>& args) {
    TileArgs<T> top = args;
    for (Index p = args.panels; p > 0; --p, top.move_right(Vecs * simd::Vec<T>::lanes)) {
        TileArgs<T> at = top;
        for (Index t = args.tiles; t > 0; --t, at.move_down(1, Rows)) {
            if (asks_for_b && args.ahead != nullptr) {
                args.ahead->ask();
            }
            one_tile<T, Rows, Vecs, UnitRow, Pack>(at);
        }
    }
}

template <class T>
using TileFunction = void (*)(const TileArgs<T>&);

template <class T, int Vecs, bool UnitRow, bool Pack, int First, int... Rows>
constexpr std::array<TileFunction<T>, sizeof...(Rows)> tile_column(std::integer_sequence<int, Rows...>) {
    return {&tile<T, First + Rows, Vecs, UnitRow, Pack>...};
}

template <class T, int Rows, bool UnitRow, int... Vecs>
constexpr std::array<TileFunction<T>, sizeof...(Vecs)> tile_row(std::integer_sequence<int, Vecs...>) {
    return {&tile<T, Rows, Vecs + 1, UnitRow>...};
}

// Vecs of a tile of so many rows: one or two rows alone take wider tiles, or they would wait for each multiply-add.
constexpr int tile_vecs(Index rows) { return rows == 1 ? 4 * max_vecs : rows == 2 ? 2 * max_vecs : max_vecs; }

// Tiles of 1..max_rows rows and 1 or max_vecs Vecs, of 1 and 2 rows up to tile_vecs.
template <class T>
TileFunction<T> find_tile(int rows, int vecs, bool unit_row) {
    using All = std::make_integer_sequence<int, max_rows>;
    using One = std::make_integer_sequence<int, tile_vecs(1)>;
    using Two = std::make_integer_sequence<int, tile_vecs(2)>;
    static constexpr auto narrow = tile_column<T, 1, false, false, 1>(All{});
    static constexpr auto narrow_unit = tile_column<T, 1, true, false, 1>(All{});
    static constexpr auto wide = tile_column<T, max_vecs, false, false, 1>(All{});
    static constexpr auto wide_unit = tile_column<T, max_vecs, true, false, 1>(All{});
    static constexpr auto one = tile_row<T, 1, false>(One{});
    static constexpr auto one_unit = tile_row<T, 1, true>(One{});
    static constexpr auto two = tile_row<T, 2, false>(Two{});
    static constexpr auto two_unit = tile_row<T, 2, true>(Two{});
    const auto row = static_cast<std::size_t>(rows - 1);
    const auto vec = static_cast<std::size_t>(vecs - 1);
    if (rows == 1) {
        return unit_row ? one_unit[vec] : one[vec];
    }
    if (rows == 2) {
        return unit_row ? two_unit[vec] : two[vec];
    }
    if (vecs == 1) {
        return unit_row ? narrow_unit[row] : narrow[row];
    }
    return unit_row ? wide_unit[row] : wide[row];
}

// The lowest of several tiles of nearly equal height.
constexpr int min_packing_rows = max_rows / 2;

// The same, packing, for the first of several tiles.
template <class T>
TileFunction<T> find_packing_tile(int rows, int vecs, bool unit_row) {
    using Rows = std::make_integer_sequence<int, max_rows - min_packing_rows + 1>;
    static constexpr auto narrow = tile_column<T, 1, false, true, min_packing_rows>(Rows{});
    static constexpr auto narrow_unit = tile_column<T, 1, true, true, min_packing_rows>(Rows{});
    static constexpr auto wide = tile_column<T, max_vecs, false, true, min_packing_rows>(Rows{});
    static constexpr auto wide_unit = tile_column<T, max_vecs, true, true, min_packing_rows>(Rows{});
    const auto row = static_cast<std::size_t>(rows - min_packing_rows);
    if (vecs == 1) {
        return unit_row ? narrow_unit[row] : narrow[row];
    }
    return unit_row ? wide_unit[row] : wide[row];
}

}  // namespace fastopt::gemm
