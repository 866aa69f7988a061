#include "kernels/gemm.hpp"

#include <algorithm>
#include <iterator>
#include <memory>
#include <type_traits>

#include "core/threads.hpp"
#include "kernels/copy_row.hpp"
#include "kernels/gemm_bf16.hpp"
#include "kernels/gemm_memo.hpp"
#include "kernels/gemm_pack.hpp"
#include "kernels/gemm_parts.hpp"
#include "kernels/gemm_tile.hpp"
#include "kernels/processor.hpp"
#include "kernels/take_lines.hpp"

namespace fastopt {

namespace {

using namespace gemm;

template <class T>
constexpr Index lanes = simd::Vec<T>::lanes;
template <class T>
constexpr Index panel_width = max_vecs* lanes<T>;

// Sizes found by bench/run.py --only kernels.
// Steps of k at once: a tile reads its part of C again for every block of them, and waits for it. With AVX2 fewer of them are better where
// each takes a line of its own that is gone before it is used again: of A, whose columns a tile reads unpacked, or of B, whose rows lie
// whole pages apart and few tiles read.
constexpr Index k_block_bytes = 4096;
constexpr Index low_k_block_bytes = max_vecs == 1 ? 1024 : k_block_bytes;
// A block of A (rows x steps of k) stays in a part of L2 while the panels of B pass, which are packed for the first block and read by the
// others, as many columns at once as do not take the L3 from everything else. A tile of AVX2 takes only 4 bytes of A a cycle, which an L3
// delivers ahead; what it cannot wait for is the next panel of B. So with AVX2 each block packs its own panels, one at a time, and where
// there are many of them it is taller.
constexpr bool packs_again = max_vecs == 1;
constexpr Index row_block_bytes = Index{448} << 10;
constexpr Index max_row_block_bytes = packs_again ? Index{4} << 20 : row_block_bytes;
constexpr Index min_row_block = 112;
constexpr Index max_row_block = packs_again ? 4096 : 448;
// Tiles whose columns of A are packed together: whole lines of each row of A^T, which may be in a page of its own.
constexpr Index tiles_together = 8;
// More of C than this is not at hand when a tile starts.
constexpr Index far_bytes = Index{1} << (max_vecs == 1 ? 17 : 20);
// Rows that are computed at once when something is left to do with them afterwards: they are still in L1 then.
constexpr Index edge_rows = 64;
// A panel that is read straight from B must stay in L1 between row tiles.
constexpr Index direct_bytes = Index{1} << 15;
// A part of C larger than this comes from memory. It is written row by row where all of B, read again for every row of tiles, is so small.
constexpr Index streamed_bytes = Index{1} << 20;
constexpr Index near_bytes = Index{1} << 17;
// Of B that is packed at once, up to whole panels: of what several blocks of rows read, or what is near.
constexpr Index panels_bytes = packs_again ? 2 * near_bytes : Index{4} << 20;
constexpr Index page = 4096;
// With AVX-512 short tiles have so many rows where these divide what there is: sixteen multiply-adds at a time are enough to wait for none,
// and all products of a small network then take the same few functions, which the instruction cache holds.
constexpr Index common_rows = 8;
// Products of so many operations at most are remembered: beside more, working out their tiles is nothing.
constexpr double remembered_work = 4e6;

template <class T>
constexpr Index cache_line_of = cache_line / static_cast<Index>(sizeof(T));

// Steps of k at once, at most.
template <class T>
constexpr Index most_steps = k_block_bytes / static_cast<Index>(sizeof(T));

// Rows of a block that so many columns of B pass: where each packs its own panels, the more of them the taller.
template <class T>
Index row_block(Index k_step, Index cols) {
    const Index step = static_cast<Index>(sizeof(T)) * std::max<Index>(k_step, 1);
    return std::clamp(std::clamp(step * cols, row_block_bytes, max_row_block_bytes) / step, min_row_block, max_row_block);
}

// How operands become panels and panels a tile. This one: as they are, in steps of one k.
template <class T>
struct Native {
    using Element = T;
    static constexpr bool converts = false;
    static constexpr Index per_step = 1;
    static constexpr double a_cost = 8;  // of packing an element, in multiply-adds of the tile
    static constexpr double b_cost = 2;
    static void pack_b(const Product<T>& q, Index p, Index rows, Index j, Index cols, Index width, T* to) {
        if (q.b.col == 1) {
            pack_rows(q.b.data + p * q.b.row + j, q.b.row, rows, cols, width, to);
        } else {
            pack_columns(q.b.data + p + j * q.b.col, q.b.col, q.b.slack, rows, cols, width, to);
        }
    }
    // Rows of one tile side by side: to[p][i]; then those of the tile below it.
    static void pack_a(const Product<T>& q, Index p, Index count, Index i, Index height, Index tiles, T* to) {
        const T* from = q.a.data + i * q.a.row + p * q.a.col;
        if (q.a.col != 1) {
            const Index readable = q.m - i + (q.a.slack ? lanes<T> - 1 : 0);
            copy_tile_rows(from, q.a.col, height, tiles, readable, count, to);
            return;
        }
        for (; tiles > 0; --tiles, from += height * q.a.row, to += height * count) {
            pack_tile_rows<max_rows>(from, q.a.row, height, count, to);
        }
    }
    static TileFunction<T> tile(Index rows, Index vecs, TileRows layout, Index steps, TileSource source) {
        const int height = static_cast<int>(rows);
        const int width = static_cast<int>(vecs);
        return source == TileSource::rows_to_panel ? find_packing_tile<T>(height, width, layout)
                                                   : find_tile<T>(height, width, layout, steps);
    }
};

// Rounded to bfloat16, in steps of two k: see gemm_bf16.hpp.
struct Bf16 {
    using Element = float;
    [[maybe_unused]] static constexpr bool converts = true;
    [[maybe_unused]] static constexpr Index per_step = 2;
    [[maybe_unused]] static constexpr double a_cost = 12;
    [[maybe_unused]] static constexpr double b_cost = 12;
    static void pack_b(const Product<float>& q, Index s, Index count, Index j, Index cols, Index width, float* to) {
        bf16::pack_b(q.b, q.k, s, s + count, j, cols, width, to);
    }
    static void pack_a(const Product<float>& q, Index s, Index count, Index i, Index height, Index tiles, float* to) {
        for (; tiles > 0; --tiles, i += height, to += height * count) {
            bf16::pack_a(q.a, q.k, s, s + count, i, height, to);
        }
    }
    static TileFunction<float> tile(Index rows, Index vecs, TileRows, Index, TileSource source) {
        return bf16::find_tile(static_cast<int>(rows), static_cast<int>(vecs), source);
    }
};

// Steps of the sum over k.
template <class Arithmetic>
Index steps_of(Index k) {
    return ceil_div(k, Arithmetic::per_step);
}

struct Plan {
    bool pack_a;
    bool pack_b;
    bool pack_on_the_way;  // by the first of several tiles of each panel of B
    Index k_step;
};

template <class Arithmetic, class T = typename Arithmetic::Element>
Plan make_plan(const Product<T>& q) {
    const Index bytes = static_cast<Index>(sizeof(T));
    Plan plan{};
    const Index steps = steps_of<Arithmetic>(q.k);
    const auto cut = [&](Index most) { plan.k_step = std::max<Index>(1, steps <= most ? steps : ceil_div(steps, ceil_div(steps, most))); };
    constexpr Index fewest_steps = low_k_block_bytes / static_cast<Index>(sizeof(T));
    const bool crowded = q.b.col == 1 && (q.b.row * bytes) % page == 0;
    cut(crowded ? std::clamp(2 * q.m, fewest_steps, most_steps<T>) : most_steps<T>);
    const bool whole_lines = q.n % lanes<T> == 0 || q.b.slack;
    if (Arithmetic::converts) {
        // A converted panel of B pays when several tiles read it.
        const bool in_rows = q.b.col == 1 && whole_lines && q.k % Arithmetic::per_step == 0;
        plan.pack_a = true;
        plan.pack_b = !in_rows || q.m > max_rows;
        plan.pack_on_the_way = plan.pack_b && in_rows;
        return plan;
    }
    // Rows of B a multiple of a quarter page apart share few cache sets; a long column of them touches a page for every k.
    const bool scattered = !q.b.padded || (q.b.row * bytes) % (page / 4) == 0 || q.k >= 512;
    plan.pack_b = q.b.col != 1 || !whole_lines || (q.m >= 2 * max_rows && q.k * q.n * bytes > direct_bytes && scattered);
    plan.pack_on_the_way = plan.pack_b && q.b.col == 1;
    // Lines of A whole pages apart fall into one cache set, and many columns of A into few; far apart each touches a new page.
    const Index lda = (q.a.row == 1 ? q.a.col : q.a.row) * bytes;
    const bool far = q.a.row == 1 ? q.k >= 256 && (lda >= page || lda % (page / 4) == 0) : q.k >= 128 && lda % page == 0;
    // A tile's rows of A stream from L2 for every panel, and pieces of 1 KiB, or of a line in every other page, are too short for the
    // hardware to run ahead. With AVX-512 shorter ones pay too: rows of more than two, columns of more than one tile where they and a panel
    // do not both stay in L1. But a processor that takes two cycles for a multiply-add of 512 bits has time to read rows where they lie.
    bool pieces = false;
    if constexpr (max_vecs == 1) {
        pieces = q.a.row == 1 ? q.k >= 32 && lda >= page / 2 : q.k >= 192;
    } else {
        pieces = q.k >= 96 && (q.a.row == 1 ? q.m > max_rows && q.k * q.n * bytes >= Index{1} << 18 : q.m > 2 && executes_512_bits());
    }
    const bool streams = pieces && q.n >= 256;
    plan.pack_a = q.n >= 2 * panel_width<T> && (far || streams);
    if (!plan.pack_a && q.a.row == 1) {
        cut(fewest_steps);
    }
    return plan;
}

template <class T>
struct Scratch {
    T* edge;      // edge_rows of a panel
    T* packed_a;  // row_block x k block
    T* packed_b;  // k block x columns of a block
};

// The widest row of a panel.
template <class T>
alignas(cache_line) constexpr T zeros[tile_vecs(1) * lanes<T>] = {};
template <class T>
constexpr Index edge_size = edge_rows* panel_width<T>;

// Of A, for any step of k up to k_step.
template <class T>
Index packed_a_size(Index m, Index k_step) {
    const Index block = std::max(max_row_block_bytes / static_cast<Index>(sizeof(T)), min_row_block * k_step);
    return std::min(std::min(m, max_row_block) * k_step, block) + max_rows * (k_step + 1);
}

// Columns whose packed panels are kept together; whole panels.
template <class T>
Index column_block(Index k_step) {
    const Index panel_bytes = panel_width<T> * k_step * static_cast<Index>(sizeof(T));
    return std::max<Index>(1, panels_bytes / std::max<Index>(panel_bytes, 1)) * panel_width<T>;
}

// For any step of k up to k_step.
template <class T>
Index packed_b_size(Index n, Index k_step) {
    const Index fits = std::max(panels_bytes / static_cast<Index>(sizeof(T)), panel_width<T> * k_step);
    return std::min(fits, k_step * round_up(std::max<Index>(n, 1), panel_width<T>));
}

template <class T>
Index thread_scratch(Index m, Index n, Index k) {
    const Index k_step = std::min(k, most_steps<T>);
    return round_up(edge_size<T> + packed_a_size<T>(m, k_step) + packed_b_size<T>(n, k_step), lanes<T>) + lanes<T>;
}

// The part of C that one thread computes: rows [i0, i1) and columns [j0, j1).
template <class Arithmetic, class T = typename Arithmetic::Element>
class Block {
   public:
    Block(const Product<T>& product, const Plan& plan, Range rows, Range cols, T* scratch, Calls<T>* kept = nullptr)
        : q_(product),
          plan_(plan),
          rows_(rows),
          cols_(cols),
          kept_(kept),
          panel_(tile_vecs(product.m) * lanes<T>),
          far_c_(product.m * product.c.ld * static_cast<Index>(sizeof(T)) > far_bytes) {
        s_.edge = scratch;
        s_.packed_a = s_.edge + edge_size<T>;
        s_.packed_b = s_.packed_a + packed_a_size<T>(q_.m, std::min(q_.k, most_steps<T>));
        packed_a_ = s_.packed_a;
    }

    // Returns the elements of C.
    Index run() {
        if (rows_.empty() || cols_.empty()) {
            return 0;
        }
        const Index steps = steps_of<Arithmetic>(q_.k);
        if (steps == 0) {
            k_range(0, 0);
        }
        for (Index p = 0; p < steps; p += plan_.k_step) {
            k_range(p, std::min(steps, p + plan_.k_step));
        }
        return rows_.size() * cols_.size();
    }

    // Of a block that is one pass over its panels, how many these are. Each may then be computed by any thread, once the first one has
    // packed A; asked before the first of them. 0: there is more to this block, or nothing.
    Index free_panels() {
        const Index steps = steps_of<Arithmetic>(q_.k);
        const bool one_pass = !rows_.empty() && steps > 0 && steps <= plan_.k_step && begin_range(0, steps) == 1 && !together_;
        first_packed_ = cols_.begin;
        return one_pass ? ceil_div(cols_.size(), panel_) : 0;
    }
    // Returns the elements of C.
    Index free_panel(Index panel) {
        const Index j = cols_.begin + panel * panel_;
        one_panel(rows_, j, plan_.pack_a && panel == 0);
        return rows_.size() * std::min(panel_, cols_.end - j);
    }
    const T* packed_a() const { return s_.packed_a; }
    // A as another thread packed it; only tiles that read it follow.
    void read_packed_a(const T* packed) { packed_a_ = packed; }

   private:
    // Steps [p0, p1) of k; returns the number of blocks of rows.
    Index begin_range(Index p0, Index p1) {
        p0_ = p0;
        p1_ = p1;
        const Index tiles = ceil_div(rows_.size(), max_rows);
        const Index blocks = rows_.size() <= min_row_block ? 1 : ceil_div(tiles, row_block<T>(p1 - p0, cols_.size()) / max_rows);
        one_reader_ = packs_again || blocks == 1;
        const bool free = !plan_.pack_a && !plan_.pack_on_the_way;
        const Index b_bytes = cols_.size() * (p1 - p0) * static_cast<Index>(sizeof(T));
        const Index c_bytes = rows_.size() * q_.c.ld * static_cast<Index>(sizeof(T));
        by_rows_ = free && c_bytes > streamed_bytes && b_bytes <= near_bytes;
        together_ = by_rows_ || (free && one_reader_ && (!plan_.pack_b || b_bytes <= direct_bytes));
        return by_rows_ ? 1 : blocks;
    }

    void k_range(Index p0, Index p1) {
        const Index blocks = begin_range(p0, p1);
        if (blocks == 1) {  // small products feel the divisions
            row_range(rows_, cols_);
            return;
        }
        // Of whole tiles, as high as all rows together allow.
        const Index height = rows_.size();
        const Index tiles = ceil_div(height, max_rows);
        const auto first_row = [&](Index block) { return rows_.begin + height * (tiles * block / blocks) / tiles; };
        const Index columns = plan_.pack_b && !one_reader_ ? column_block<T>(p1_ - p0_) : cols_.size();
        for (Index j = cols_.begin; j < cols_.end; j += columns) {
            const Range cols{j, std::min(cols_.end, j + columns)};
            for (Index block = 0; block < blocks; ++block) {
                row_range({first_row(block), first_row(block + 1)}, cols);
            }
        }
    }

    void row_range(Range rows, Range cols) {
        first_packed_ = cols.begin;
        if (together_) {
            all_panels(rows, cols);
            return;
        }
        for (Index j = cols.begin; j < cols.end; j += panel_) {
            one_panel(rows, j, plan_.pack_a && j == cols.begin);
        }
    }

    void one_panel(Range rows, Index j, bool packs_a) {
        TileSource source = panel_source(rows, j);
        Ahead<T> ahead = next_panel(rows, j);
        Index packed = rows.begin;  // up to this row
        for_heights(rows, [&](Index i, Index height, Index tiles) {
            while (tiles > 0) {
                // What is packed on the way is read while it is fresh.
                const Index count = packs_a || source == TileSource::rows_to_panel ? 1 : tiles;
                if (packs_a && i == packed) {
                    const Index together = q_.a.row == 1 ? std::min(tiles, tiles_together) : 1;
                    pack_a(i, height, together, rows.begin);
                    packed += together * height;
                }
                run_tiles(i, height, count, rows.begin, j, 1, source, ahead.tiles > 0 ? &ahead : nullptr);
                i += count * height;
                tiles -= count;
                if (source == TileSource::rows_to_panel) {
                    source = TileSource::panel;
                }
            }
        });
    }

    // Where nothing is done between panels and B stays near, those of a whole width are one call. Down a panel of a C that comes from
    // memory every line is in a page of its own.
    void all_panels(Range rows, Range cols) {
        const TileSource source = plan_.pack_b ? TileSource::panel : TileSource::rows;
        if (plan_.pack_b) {
            for (Index j = cols.begin; j < cols.end; j += panel_) {
                panel_source(rows, j);
            }
        }
        const Index whole = static_cast<std::uint32_t>(cols.size()) / static_cast<std::uint32_t>(panel_);
        const Index rest = cols.begin + whole * panel_;
        for_heights(rows, [&](Index i, Index height, Index tiles) {
            const Index count = by_rows_ ? 1 : tiles;
            for (; tiles > 0; tiles -= count, i += count * height) {
                if (whole > 0) {
                    run_tiles(i, height, count, rows.begin, cols.begin, whole, source);
                }
                if (rest < cols.end) {
                    run_tiles(i, height, count, rows.begin, rest, 1, source);
                }
            }
        });
    }

    // f(first row, height, tiles) for tiles below each other of nearly equal height: their cost is proportional to it.
    template <class F>
    void for_heights(Range rows, F&& f) const {
        const Index height = rows.size();
        if (long_tiles && p1_ - p0_ < long_k && height % common_rows == 0) {
            f(rows.begin, common_rows, height / common_rows);
            return;
        }
        const Index tiles = ceil_div(height, max_rows);
        const Index low = static_cast<std::uint32_t>(height) / static_cast<std::uint32_t>(tiles);
        const Index higher = height - low * tiles;  // so many tiles have a row more
        if (higher > 0) {
            f(rows.begin, low + 1, higher);
        }
        f(rows.begin + higher * (low + 1), low, tiles - higher);
    }

    // What the first tile of a panel reads; a panel that no tile can pack is packed here.
    TileSource panel_source(Range rows, Index j) {
        if (!plan_.pack_b) {
            return TileSource::rows;
        }
        if (!one_reader_ && rows.begin != rows_.begin) {
            return TileSource::panel;
        }
        const Index cols = std::min(panel_, cols_.end - j);
        const Index width = round_up(cols, lanes<T>);
        if (plan_.pack_on_the_way && (q_.b.slack || j + width <= q_.n)) {
            return rows.size() > max_rows ? TileSource::rows_to_panel : TileSource::rows;  // a panel that one tile reads needs no copy
        }
        Arithmetic::pack_b(q_, p0_, p1_ - p0_, j, cols, width, packed_panel(j));
        if (kept_ != nullptr) {
            kept_->add({p0_, p1_ - p0_, j, cols, width, packed_panel(j)});
        }
        return TileSource::panel;
    }

    // What the tiles of the panel at column j ask for: the next one where it was packed for another block of rows, or what it will be
    // packed from (AVX2: with AVX-512 that gave nothing).
    Ahead<T> next_panel(Range rows, Index j) const {
        if (Arithmetic::converts || !plan_.pack_b || j + panel_ >= cols_.end) {
            return {};
        }
        const bool packs = one_reader_ || rows.begin == rows_.begin;
        if (packs && (long_tiles || q_.b.padded || q_.k * q_.n * static_cast<Index>(sizeof(T)) <= near_bytes)) {
            return {};
        }
        const Index tiles = ceil_div(rows.size(), max_rows);
        const Index steps = p1_ - p0_;
        if (!packs) {
            const Index lines = steps / long_unroll;
            const Index line = std::min(cache_line_of<T>, ceil_div(panel_ * steps, std::max<Index>(1, tiles * lines)));
            return {packed_panel(j + panel_), tiles, lines, line, lines * line};
        }
        const T* from = q_.b.data + p0_ * q_.b.row + (j + panel_) * q_.b.col;
        if (q_.b.col == 1) {
            const Index lines = ceil_div(steps, tiles);
            return {from, tiles, lines, q_.b.row, lines * q_.b.row};
        }
        return {from, std::min(panel_, tiles), ceil_div(steps, cache_line_of<T>), cache_line_of<T>, q_.b.col};
    }

    // A panel that one block of rows reads is read only while it is fresh, and the next takes its place in the cache.
    T* packed_panel(Index j) const { return one_reader_ && !together_ ? s_.packed_b : s_.packed_b + (j - first_packed_) * (p1_ - p0_); }

    void pack_a(Index i, Index height, Index tiles, Index block_begin) {
        keep_nothing();
        const Index steps = p1_ - p0_;
        Arithmetic::pack_a(q_, p0_, steps, i, height, tiles, s_.packed_a + (i - block_begin) * steps);
    }

    // `count` tiles of `height` rows below each other, from row i0 on, in each of `panels` panels from column j on.
    void run_tiles(Index i0, Index height, Index count, Index block_begin, Index j, Index panels, TileSource source,
                   Ahead<T>* ahead = nullptr) {
        const Index cols = std::min(panel_, cols_.end - j);
        const Index vecs = ceil_div(cols, lanes<T>);
        const Index width = vecs * lanes<T>;
        const bool first = p0_ == 0 && !q_.accumulate;
        const bool last = p1_ == steps_of<Arithmetic>(q_.k);
        // Tiles that would write past the end of a row of C go through a scratch tile.
        const bool edge = !q_.c.padded && width != cols;

        TileArgs<T> args{};
        args.panels = panels;
        args.tiles = count;
        args.k = p1_ - p0_;
        TileRows layout = q_.a.row == 1 ? TileRows::unit : TileRows::apart;
        if (plan_.pack_a) {
            layout = TileRows::packed;
            args.a = packed_a_ + (i0 - block_begin) * args.k;
            args.a_k = height;
            args.a_tile = height * args.k;
        } else {
            args.a = q_.a.data + i0 * q_.a.row + p0_ * q_.a.col;
            args.a_k = q_.a.col;
            args.a_row = q_.a.row;
            args.a_tile = height * q_.a.row;
        }
        if (source == TileSource::panel) {
            args.b = packed_panel(j);
            args.ldb = width;
            args.b_panel = width * args.k;
        } else {
            args.b = q_.b.data + p0_ * Arithmetic::per_step * q_.b.row + j;
            args.ldb = q_.b.row;
            args.b_panel = width;
            args.packed = packed_panel(j);
        }
        args.c = q_.c.data + i0 * q_.c.ld + j;
        args.ldc = q_.c.ld;
        args.far_c = far_c_;
        args.ahead = ahead;
        if (first) {
            args.init = q_.bias != nullptr ? q_.bias + j : zeros<T>;
            args.init_panel = q_.bias != nullptr ? width : 0;
        } else {
            args.init = args.c;
            args.ldi = args.ldc;
            args.init_panel = width;
        }
        // relu ends in registers; the other activations follow while the tiles are in L1.
        args.end = TileEnd::store;
        if (last && q_.slope == Activation::relu) {
            args.end = TileEnd::relu_slope;
            args.slope = q_.slope_source.data + i0 * q_.slope_source.ld + j;
            args.lds = q_.slope_source.ld;
        } else if (last && q_.addend.data != nullptr) {
            args.end = q_.activation == Activation::relu && q_.pre.data == nullptr ? TileEnd::relu_of_sum : TileEnd::sum;
            args.slope = q_.addend.data + i0 * q_.addend.ld + j;
            args.lds = q_.addend.ld;
        } else if (last && q_.activation == Activation::relu && q_.pre.data == nullptr) {
            args.end = TileEnd::relu;
        }
        const TileFunction<T> tiles = Arithmetic::tile(height, vecs, layout, args.k, source);
        const bool finishes = last && (args.end == TileEnd::store || args.end == TileEnd::sum) &&
                              (q_.pre.data != nullptr || q_.activation != Activation::identity || q_.slope != Activation::identity);
        const bool takes = last && q_.writes_next.data != nullptr;
        if (!edge && !finishes && !takes) {
            tiles(args);
            if (kept_ != nullptr) {
                kept_->add(tiles, args);
            }
            return;
        }
        keep_nothing();
        args.panels = 1;
        for (Index p = 0; p < panels; ++p, j += width, args.move_right(width)) {
            TileArgs<T> at = args;
            Index rows = 0;
            for (Index i = i0, left = count; left > 0; i += rows, left -= at.tiles, at.move_down(at.tiles, height)) {
                at.tiles = takes ? 1 : std::min(left, edge_rows / height);
                rows = at.tiles * height;
                for (Index row = i; takes && row < i + rows; ++row) {
                    take_lines(q_.writes_next.row(row) + j, cols);
                }
                if (edge) {
                    through_edge(at, tiles, rows, cols);
                } else {
                    tiles(at);
                }
                if (finishes) {
                    finish(edge ? s_.edge : at.c, edge ? panel_ : at.ldc, i, j, rows, vecs, cols);
                }
                if (edge) {
                    copy(s_.edge, panel_, at.c, at.ldc, rows, cols);
                }
            }
        }
    }

    void keep_nothing() {
        if (kept_ != nullptr) {
            kept_->give_up();
        }
    }

    void through_edge(const TileArgs<T>& at, TileFunction<T> tiles, Index rows, Index cols) {
        TileArgs<T> inside = at;
        inside.c = s_.edge;
        inside.ldc = panel_;
        inside.far_c = false;
        if (at.init == at.c) {
            copy(at.c, at.ldc, s_.edge, panel_, rows, cols);
            inside.init = s_.edge;
            inside.ldi = panel_;
        }
        tiles(inside);
    }

    void finish(T* c, Index ldc, Index i0, Index j, Index rows, Index vecs, Index cols) {
        if (q_.pre.data != nullptr) {
            copy(c, ldc, q_.pre.data + i0 * q_.pre.ld + j, q_.pre.ld, rows, q_.pre.padded ? vecs * lanes<T> : cols);
        }
        if (q_.activation != Activation::identity) {
            activation_forward_tile(q_.activation, c, ldc, c, ldc, rows, vecs);
        }
        if (q_.slope != Activation::identity) {
            const T* source = q_.slope_source.data + i0 * q_.slope_source.ld + j;
            activation_backward_tile(q_.slope, source, q_.slope_source.ld, c, ldc, rows, vecs);
        }
    }

    static void copy(const T* from, Index ldf, T* to, Index ldt, Index rows, Index cols) {
        for (Index i = 0; i < rows; ++i) {
            copy_row(from + i * ldf, cols, to + i * ldt);
        }
    }

    const Product<T>& q_;
    const Plan plan_;
    Range rows_;
    Range cols_;
    Calls<T>* const kept_;  // where the calls are kept, or nowhere
    const Index panel_;     // columns of a panel
    const bool far_c_;      // C may not be in L2
    Scratch<T> s_;
    const T* packed_a_;  // what tiles read
    Index p0_ = 0;
    Index p1_ = 0;
    Index first_packed_ = 0;   // column
    bool one_reader_ = false;  // a packed panel of B is read by one block of rows, and fresh
    bool together_ = false;    // all panels of B at once,
    bool by_rows_ = false;     // for one row of tiles after the other
};

// How many threads along the rows and along the columns of C: the split whose largest part is smallest, where a part's cost is its
// products and the packing that it repeats.
struct Grid {
    int rows;
    int cols;
};

template <class Arithmetic, class T = typename Arithmetic::Element>
Grid choose_grid(const Product<T>& q, const Plan& plan, int threads) {
    // With AVX-512 a B that is not at hand is read and written panel after panel before the first of them is read again; sharing it is
    // worth more than sharing A, which waits in L2.
    const bool far_b = !packs_again && q.k * q.n * static_cast<Index>(sizeof(T)) > far_bytes;
    const double b_cost = far_b ? 2 * Arithmetic::a_cost : Arithmetic::b_cost;
    Grid best{1, 1};
    double best_cost = 0;
    for (int rows = 1; rows <= threads; ++rows) {
        const int cols = threads / rows;
        const auto height = static_cast<double>(ceil_div(q.m, rows));
        const auto width = static_cast<double>(ceil_div(ceil_div(q.n, panel_width<T>), cols) * panel_width<T>);
        const double pack = (plan.pack_b ? b_cost * width : 0.0) + (plan.pack_a ? Arithmetic::a_cost * height : 0.0);
        const double cost = height * width + pack;
        if (rows == 1 || cost < best_cost) {
            best = {rows, cols};
            best_cost = cost;
        }
    }
    return best;
}

template <class Arithmetic, class T = typename Arithmetic::Element>
void pack_again(const Product<T>& q, const typename Calls<T>::Panel& b) {
    Arithmetic::pack_b(q, b.p, b.steps, b.j, b.cols, b.width, b.to);
}

// A product that is more than a few calls is one call.
template <class Arithmetic, class T = typename Arithmetic::Element>
void keep_product(const Product<T>& q, T* scratch, const Calls<T>* calls) {
    Product<T> again = q;
    again.tape = nullptr;
    if (calls == nullptr || !calls->complete()) {
        q.tape->keep([=] { multiply(again, scratch); });
        return;
    }
    for (const typename Calls<T>::Call& call : *calls) {
        if (call.tiles != nullptr) {
            q.tape->keep([tiles = call.tiles, args = call.args] { tiles(args); });
        } else {
            q.tape->keep([again, panel = call.panel] { pack_again<Arithmetic>(again, panel); });
        }
    }
}

// By one thread; again, if it did just this before.
template <class Arithmetic, class T = typename Arithmetic::Element>
void multiply_small(const Product<T>& q, T* scratch) {
    static thread_local Memo<T>* memo = nullptr;  // what needs no call to make it is found sooner
    const Calls<T>* const known = memo != nullptr ? memo->find(q, scratch) : nullptr;
    if (known == nullptr) {
        thread_local const std::unique_ptr<Memo<T>> owner(new Memo<T>);
        memo = owner.get();
        Calls<T>& calls = memo->place(q);
        calls.begin(q, scratch);
        Block<Arithmetic>(q, make_plan<Arithmetic>(q), {0, q.m}, {0, q.n}, scratch, &calls).run();
        if (q.tape != nullptr) {
            keep_product<Arithmetic>(q, scratch, &calls);
        }
        return;
    }
    for (const typename Calls<T>::Call& call : *known) {
        if (call.tiles != nullptr) {
            call.tiles(call.args);
        } else {
            pack_again<Arithmetic>(q, call.panel);
        }
    }
    if (q.tape != nullptr) {
        keep_product<Arithmetic>(q, scratch, known);
    }
}

template <class T>
double work_of(const Product<T>& q) {
    return 2.0 * static_cast<double>(q.m) * static_cast<double>(round_up(q.n, lanes<T>)) * static_cast<double>(q.k);
}

// A product that the threads of a region share.
template <class Arithmetic>
class SharedProduct {
   public:
    using T = typename Arithmetic::Element;

    // `stride`: elements of scratch memory of each thread.
    SharedProduct(const Product<T>& q, int threads, T* scratch, Index stride)
        : q_(q),
          plan_(make_plan<Arithmetic>(q)),
          grid_(choose_grid<Arithmetic>(q, plan_, threads)),
          scratch_(scratch),
          stride_(stride),
          shares_(Bound::arithmetic, grid_.rows, grid_.cols, work_of(q)),
          parts_(shares_, is_gradient_of_weight(q), plan_.pack_a, *this) {}
    SharedProduct(const SharedProduct&) = delete;
    SharedProduct& operator=(const SharedProduct&) = delete;

    // Rows of such a C stay with the threads that compute them.
    static bool is_gradient_of_weight(const Product<T>& q) { return q.a.row == 1; }
    const Shares& shares() const { return shares_; }
    // Returns the multiply-adds that were done.
    Index run(int part) { return parts_.run(part) * q_.k; }
    Block<Arithmetic> operator()(int part, int memory) const {
        const Range rows = shares_.of_row(q_.m, part % grid_.rows);
        const Range cols = shares_.of_column(q_.n, part / grid_.rows, panel_width<T>);
        return Block<Arithmetic>(q_, plan_, rows, cols, scratch_ + memory * stride_);
    }

   private:
    const Product<T>& q_;
    const Plan plan_;
    const Grid grid_;
    T* const scratch_;
    const Index stride_;
    const Shares shares_;
    Parts<T, SharedProduct> parts_;
};

template <class Arithmetic, class T = typename Arithmetic::Element>
void multiply_with(const Product<T>& q, T* scratch) {
    const double work = work_of(q);
    const int threads = threads_for(work);
    if (threads == 1 && work <= remembered_work) {
        multiply_small<Arithmetic>(q, scratch);
        return;
    }
    if (threads == 1) {
        Block<Arithmetic>(q, make_plan<Arithmetic>(q), {0, q.m}, {0, q.n}, scratch).run();
        if (q.tape != nullptr) {
            keep_product<Arithmetic, T>(q, scratch, nullptr);
        }
        return;
    }
    SharedProduct<Arithmetic> product(q, threads, scratch, thread_scratch<T>(q.m, q.n, q.k));
    parallel_parts(product.shares(), [&](int part) { return product.run(part); });
}

// In one region, whose threads are waited for once. First the one whose rows stay with their threads, then the one of which a thread that
// is through takes panels of the others: these read the packed A of a part that nobody overwrites then.
template <class Arithmetic, class T = typename Arithmetic::Element>
void multiply_both_with(const Product<T>& first, const Product<T>& last, T* scratch) {
    const int threads = threads_for(std::min(work_of(first), work_of(last)));
    if (threads > 1) {
        const Index stride = std::max(thread_scratch<T>(first.m, first.n, first.k), thread_scratch<T>(last.m, last.n, last.k));
        SharedProduct<Arithmetic> one(first, threads, scratch, stride);
        SharedProduct<Arithmetic> other(last, threads, scratch, stride);
        if (one.shares().threads() == other.shares().threads() && SharedProduct<Arithmetic>::is_gradient_of_weight(first)) {
            parallel_parts(other.shares(), [&](int part) { return one.run(part) + other.run(part); });
            return;
        }
    }
    multiply_with<Arithmetic>(last, scratch);  // an input gradient while its weights are at hand
    multiply_with<Arithmetic>(first, scratch);
}

}  // namespace

// Steps of k of repeat_tile: its operands fill a part of an L1 of 32 KiB.
template <class T>
constexpr Index repeated_steps = 512 / static_cast<Index>(sizeof(T));

template <class T>
T repeat_tile(Index times, T seed) {
    alignas(cache_line) T a[max_rows * repeated_steps<T>];
    alignas(cache_line) T b[repeated_steps<T> * panel_width<T>];
    alignas(cache_line) T c[max_rows * panel_width<T>];
    std::fill(std::begin(a), std::end(a), seed);
    std::fill(std::begin(b), std::end(b), seed);
    TileArgs<T> args{};
    args.panels = 1;
    args.tiles = 1;
    args.k = repeated_steps<T>;
    args.a = a;
    args.a_k = max_rows;
    args.b = b;
    args.ldb = panel_width<T>;
    args.init = zeros<T>;
    args.c = c;
    args.ldc = panel_width<T>;
    TileFunction<T> tile = find_tile<T>(max_rows, max_vecs, TileRows::packed, repeated_steps<T>);
    for (Index t = 0; t < times; ++t) {
        asm volatile("" : "+r"(tile) : : "memory");  // none of the calls is like another
        tile(args);
    }
    return c[0];
}

template <class T>
double tile_work() {
    return 2.0 * static_cast<double>(max_rows * panel_width<T> * repeated_steps<T>);
}

template <class T>
Index product_scratch(Index m, Index n, Index k, int threads) {
    return threads * thread_scratch<T>(m, n, k);
}

template <class T>
void multiply(const Product<T>& q, T* scratch) {
    if (q.m == 0 || q.n == 0) {
        return;
    }
    if constexpr (bf16::built && std::is_same_v<T, float>) {
        if (q.precision == Precision::bf16) {
            multiply_with<Bf16>(q, scratch);
            return;
        }
    }
    multiply_with<Native<T>>(q, scratch);
}

template <class T>
void multiply_both(const Product<T>& first, const Product<T>& last, T* scratch) {
    const bool full = first.precision == Precision::full && last.precision == Precision::full;
    if (full && std::min({first.m, first.n, last.m, last.n}) > 0) {
        multiply_both_with<Native<T>>(first, last, scratch);
        return;
    }
    multiply(last, scratch);
    multiply(first, scratch);
}

#define FASTOPT_INSTANTIATE(T)                                                \
    template Index product_scratch<T>(Index, Index, Index, int);              \
    template void multiply<T>(const Product<T>&, T*);                         \
    template void multiply_both<T>(const Product<T>&, const Product<T>&, T*); \
    template T repeat_tile<T>(Index, T);                                      \
    template double tile_work<T>();
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
