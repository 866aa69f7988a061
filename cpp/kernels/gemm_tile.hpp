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
// With AVX-512 high tiles of full width and so many steps have functions of their own, which take more at once: where k is short they gave
// nothing, and small networks run through more code than fits its cache as it is.
constexpr bool long_tiles = max_vecs == 2;
constexpr Index long_k = 64;
constexpr int long_unroll = 4;
// Rows of such a tile whose factors the multiply-adds read from A themselves. A tile of 14 x 2 with a broadcast for each row has 44
// instructions for 28 multiply-adds, this one 34. Not all rows: such a multiply-add is a load too, and of these many processors start two
// a cycle. Where rows lie apart only those at a pointer of their own: with an index in its address such a multiply-add is two operations.
constexpr int rows_at_pointer = 3;
constexpr bool broadcasts_alone(int row, bool apart) { return apart ? row % rows_at_pointer == 0 : row % 4 != 0; }
// Short ones take two steps at once and every other row so, which makes those of rows side by side 3 to 8 % faster, those of rows apart
// 3 to 6.
constexpr int short_unroll = 2;
constexpr int short_rows_at_pointer = 2;
constexpr bool short_broadcasts_alone(int row, bool apart) { return apart ? row % short_rows_at_pointer == 0 : row % 2 != 0; }

// How a tile finds a(i, p).
enum class TileRows {
    apart,   // rows a_row apart, steps of k side by side
    unit,    // rows side by side, steps of k a_k apart
    packed,  // the same with nothing between them: a_k is the number of rows
};

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

// What tiles of one panel ask for on the way, into L2: each of the first `tiles` so many lines, before it begins or, a long tile, behind
// its multiply-adds.
template <class T>
struct Ahead {
    const T* from;
    Index tiles;
    Index lines;
    Index line;  // from a line to the next
    Index tile;  // from the first line of a tile to that of the next

    // The first line of the next tile, or none.
    FASTOPT_INLINE const T* next() {
        if (tiles == 0) {
            return nullptr;
        }
        --tiles;
        from += tile;
        return from - tile;
    }
    FASTOPT_INLINE void ask() {
        const T* at = next();
        for (Index l = at == nullptr ? 0 : lines; l > 0; --l, at += line) {
            __builtin_prefetch(at, 0, 2);
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
    bool far_c;        // C may not be in L2
    Ahead<T>* ahead;   // or none
    const T* asked;    // of it, by this tile,
    Index asked_line;  // a line so far apart each long_unroll steps

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

// Hands out rows that lie `ld` apart one after the other, three from each pointer. From the compiler it hides how they are related: left to
// itself that works out before the first tile where each row of each matrix lies, and brings all of it up to date from tile to tile, on the
// stack. A call for two tiles of 11 x 2 took 259 instructions beside them so, and takes 128.
template <class T>
class RowAfterRow {
   public:
    FASTOPT_INLINE RowAfterRow(T* first, Index ld) : from_(first), ld_(ld) { hide(); }
    // Of rows 0, 1, 2, ...
    FASTOPT_INLINE T* at(int i) {
        if (i > 0 && i % group == 0) {
            from_ += group * ld_;
            hide();
        }
        return from_ + i % group * ld_;
    }

   private:
    static constexpr int group = 3;
    FASTOPT_INLINE void hide() { asm("" : "+r"(from_), "+r"(ld_)); }

    T* from_;
    Index ld_;
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
    RowAfterRow<const T> rows(args.init, args.ldi);
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
        const T* const init = rows.at(i);
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            sum[i][j] = simd::load(init + j * lanes);
        }
    }
}

// Each case changes the accumulators where they are, so that one sequence of stores serves all.
template <class T, int Rows, int Vecs>
EIGEN_ALWAYS_INLINE void finish_tile(const TileArgs<T>& args, simd::Vec<T> (&sum)[Rows][Vecs]) {
    using simd::Vec;
    constexpr int lanes = Vec<T>::lanes;
    const auto change = [&](auto&& change_one) FASTOPT_INLINE_LAMBDA {
        RowAfterRow<const T> rows(args.slope, args.lds);
#pragma GCC unroll 14
        for (int i = 0; i < Rows; ++i) {
            const T* const slope = rows.at(i);
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                sum[i][j] = change_one(sum[i][j], slope + j * lanes);
            }
        }
    };
    if (__builtin_expect(args.end >= TileEnd::sum, 0)) {
        change([](const Vec<T>& v, const T* at) FASTOPT_INLINE_LAMBDA { return v + simd::load(at); });
    }
    if (args.end == TileEnd::relu || args.end == TileEnd::relu_of_sum) {
        change([](const Vec<T>& v, const T*) FASTOPT_INLINE_LAMBDA { return simd::relu(v); });
    } else if (args.end == TileEnd::relu_slope) {
        change([](const Vec<T>& v, const T* at)
                   FASTOPT_INLINE_LAMBDA { return simd::keep(simd::less(simd::zero<T>(), simd::load(at)), v); });
    }
    RowAfterRow<T> rows(args.c, args.ldc);
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
        T* const c = rows.at(i);
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            simd::store(c + j * lanes, sum[i][j]);
        }
    }
}

// Where C is not at hand a tile would wait for it before its first multiply-add, so the rows below are asked for ahead.
template <class T, int Rows, int Vecs>
FASTOPT_INLINE void ask_for_next(const TileArgs<T>& args) {
    constexpr int lanes = simd::Vec<T>::lanes;
    RowAfterRow<T> rows(args.c + Rows * args.ldc, args.ldc);
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
        const T* const c = rows.at(i);
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            __builtin_prefetch(c + j * lanes, 1);
        }
    }
}

// The rows of A of a tile. Where they lie apart, long ones find three and short pairs two from each pointer, or the compiler would keep an
// address for every row and step of k, most of them on the stack.
template <class T, int Rows, TileRows Layout, bool Long, bool Pairs>
class RowsOfA {
   public:
    explicit FASTOPT_INLINE RowsOfA(const TileArgs<T>& args)
        : row_(Layout == TileRows::apart ? args.a_row : 1), k_(Layout == TileRows::apart ? 1 : args.a_k) {
#pragma GCC unroll 8
        for (int g = 0; g < groups; ++g) {
            from_[g] = args.a + g * group * row_;
        }
        hide();
    }
    // Of row i, in the u-th of the steps taken at once.
    FASTOPT_INLINE const T* at(int i, int u) const { return from_[i / group] + i % group * row_ + u * step; }
    // After each of them,
    FASTOPT_INLINE void next() {
        if constexpr (step == 0) {
            from_[0] += k_;
            hide();
        }
    }
    // and after all, `steps`.
    FASTOPT_INLINE void next_after(int steps) {
        if constexpr (step != 0) {
#pragma GCC unroll 8
            for (int g = 0; g < groups; ++g) {
                from_[g] += steps * step;
            }
            hide();
        }
    }

   private:
    // Between steps of k where that is known here, or 0.
    static constexpr int known = Layout == TileRows::apart ? 1 : Layout == TileRows::packed ? Rows : 0;
    static constexpr bool grouped = (Long || Pairs) && Layout == TileRows::apart;
    static constexpr int step = Long || grouped ? known : 0;
    static constexpr int group = !grouped ? Rows : Long ? rows_at_pointer : short_rows_at_pointer;
    static constexpr int groups = ceil_div(Rows, group);

    // From the compiler, how these pointers are related to each other and to what they were.
    FASTOPT_INLINE void hide() {
        if constexpr (Long || grouped) {
#pragma GCC unroll 8
            for (int g = 0; g < groups; ++g) {
                asm("" : "+r"(from_[g]));
            }
        }
    }

    const T* from_[groups];
    const Index row_;
    const Index k_;
};

template <class T, int Rows, int Vecs, TileRows Layout, bool Pack, bool Long>
FASTOPT_INLINE void one_tile(const TileArgs<T>& args) {
    using simd::Vec;
    constexpr int lanes = Vec<T>::lanes;
    Vec<T> sum[Rows][Vecs];
    start_tile<T, Rows, Vecs>(args, sum);
    if (args.far_c) {
        ask_for_next<T, Rows, Vecs>(args);
    }
    constexpr bool short_pairs = !Long && max_vecs == 2 && Vecs == max_vecs && Layout != TileRows::packed && Rows > 2;
    constexpr int unroll = Long ? long_unroll : short_pairs ? short_unroll : k_unroll;
    RowsOfA<T, Rows, Layout, Long, short_pairs> a(args);
    [[maybe_unused]] const T* asked = args.asked;
    const T* b = args.b;
    const Index ldb = args.ldb;
    [[maybe_unused]] T* packed = args.packed;
    const auto step = [&](int u) FASTOPT_INLINE_LAMBDA {
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
            constexpr bool apart = Layout == TileRows::apart;
            if ((Long && broadcasts_alone(i, apart)) || (short_pairs && short_broadcasts_alone(i, apart))) {
#pragma GCC unroll 8
                for (int j = 0; j < Vecs; ++j) {
                    simd::accumulate_broadcast(a.at(i, u), panel[j], sum[i][j]);
                }
                continue;
            }
            const Vec<T> x = simd::set1(*a.at(i, u));
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                if constexpr (Long || (max_vecs == 1 && Rows > 2 && Rows < max_rows)) {
                    simd::accumulate(x, panel[j], sum[i][j]);
                } else {  // one or two rows take B from memory, and a full tile of AVX2 leaves no register
                    sum[i][j] = simd::fma(x, panel[j], sum[i][j]);
                }
            }
        }
        a.next();
        b += ldb;
    };
    for (Index p = args.k % unroll; p > 0; --p) {
        step(0);
        a.next_after(1);
    }
    for (Index p = args.k / unroll; p > 0; --p) {
#pragma GCC unroll 4
        for (int u = 0; u < unroll; ++u) {
            step(u);
        }
        a.next_after(unroll);
        if constexpr (Long) {
            __builtin_prefetch(asked, 0, 2);
            asked += args.asked_line;
        }
    }
    finish_tile<T, Rows, Vecs>(args, sum);
}

template <class T, int Rows, int Vecs, TileRows Layout, bool Pack = false, bool Long = false>
void tile(const TileArgs<T>& args) {
    TileArgs<T> top = args;
    for (Index p = args.panels; p > 0; --p, top.move_right(Vecs * simd::Vec<T>::lanes)) {
        TileArgs<T> at = top;
        for (Index t = args.tiles; t > 0; --t, at.move_down(1, Rows)) {
            if constexpr (Long) {
                const T* const asked = args.ahead != nullptr ? args.ahead->next() : nullptr;
                at.asked = asked != nullptr ? asked : at.b;  // what is at hand costs nothing
                at.asked_line = asked != nullptr ? args.ahead->line : 0;
            } else if (args.ahead != nullptr) {
                args.ahead->ask();
            }
            one_tile<T, Rows, Vecs, Layout, Pack, Long>(at);
        }
    }
}

template <class T>
using TileFunction = void (*)(const TileArgs<T>&);

template <class T, int Vecs, TileRows Layout, bool Pack, int First, int... Rows>
constexpr std::array<TileFunction<T>, sizeof...(Rows)> tile_column(std::integer_sequence<int, Rows...>) {
    return {&tile<T, First + Rows, Vecs, Layout, Pack>...};
}

template <class T, int Rows, TileRows Layout, int... Vecs>
constexpr std::array<TileFunction<T>, sizeof...(Vecs)> tile_row(std::integer_sequence<int, Vecs...>) {
    return {&tile<T, Rows, Vecs + 1, Layout>...};
}

// Vecs of a tile of so many rows: one or two rows alone take wider tiles, or they would wait for each multiply-add.
constexpr int tile_vecs(Index rows) { return rows == 1 ? 4 * max_vecs : rows == 2 ? 2 * max_vecs : max_vecs; }

// The lowest of several tiles of nearly equal height, and how many heights there are from it on.
constexpr int high_rows = max_rows / 2;
using HighRows = std::make_integer_sequence<int, max_rows - high_rows + 1>;

template <class T, TileRows Layout, bool Pack, int... Rows>
constexpr std::array<TileFunction<T>, sizeof...(Rows)> long_column(std::integer_sequence<int, Rows...>) {
    return {&tile<T, high_rows + Rows, max_vecs, Layout, Pack, true>...};
}

template <class T, bool Pack>
TileFunction<T> find_long_tile(int rows, TileRows layout) {
    static constexpr auto apart = long_column<T, TileRows::apart, Pack>(HighRows{});
    static constexpr auto unit = long_column<T, TileRows::unit, Pack>(HighRows{});
    static constexpr auto packed = long_column<T, TileRows::packed, Pack>(HighRows{});
    const auto row = static_cast<std::size_t>(rows - high_rows);
    return layout == TileRows::apart ? apart[row] : layout == TileRows::unit ? unit[row] : packed[row];
}

// Tiles of 1..max_rows rows and 1 or max_vecs Vecs, of 1 and 2 rows up to tile_vecs.
template <class T>
TileFunction<T> find_tile(int rows, int vecs, TileRows layout, Index k) {
    if constexpr (long_tiles) {
        if (k >= long_k && rows >= high_rows && vecs == max_vecs) {
            return find_long_tile<T, false>(rows, layout);
        }
    }
    using All = std::make_integer_sequence<int, max_rows>;
    using One = std::make_integer_sequence<int, tile_vecs(1)>;
    using Two = std::make_integer_sequence<int, tile_vecs(2)>;
    static constexpr auto narrow = tile_column<T, 1, TileRows::apart, false, 1>(All{});
    static constexpr auto narrow_unit = tile_column<T, 1, TileRows::unit, false, 1>(All{});
    static constexpr auto wide = tile_column<T, max_vecs, TileRows::apart, false, 1>(All{});
    static constexpr auto wide_unit = tile_column<T, max_vecs, TileRows::unit, false, 1>(All{});
    static constexpr auto one = tile_row<T, 1, TileRows::apart>(One{});
    static constexpr auto one_unit = tile_row<T, 1, TileRows::unit>(One{});
    static constexpr auto two = tile_row<T, 2, TileRows::apart>(Two{});
    static constexpr auto two_unit = tile_row<T, 2, TileRows::unit>(Two{});
    const auto row = static_cast<std::size_t>(rows - 1);
    const auto vec = static_cast<std::size_t>(vecs - 1);
    const bool unit = layout != TileRows::apart;
    if (rows == 1) {
        return unit ? one_unit[vec] : one[vec];
    }
    if (rows == 2) {
        return unit ? two_unit[vec] : two[vec];
    }
    if (vecs == 1) {
        return unit ? narrow_unit[row] : narrow[row];
    }
    return unit ? wide_unit[row] : wide[row];
}

// The same, packing, for the first of several tiles.
template <class T>
TileFunction<T> find_packing_tile(int rows, int vecs, TileRows layout) {
    static constexpr auto narrow = tile_column<T, 1, TileRows::apart, true, high_rows>(HighRows{});
    static constexpr auto narrow_unit = tile_column<T, 1, TileRows::unit, true, high_rows>(HighRows{});
    if constexpr (long_tiles) {
        if (vecs == max_vecs) {
            return find_long_tile<T, true>(rows, layout);
        }
    }
    const auto row = static_cast<std::size_t>(rows - high_rows);
    return layout == TileRows::apart ? narrow[row] : narrow_unit[row];
}

}  // namespace fastopt::gemm
