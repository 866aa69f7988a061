#include "kernels/gemm_bf16.hpp"

#include <algorithm>

#if defined(FASTOPT_BF16)

namespace fastopt::gemm::bf16 {

namespace {

using simd::Vec;
constexpr Index lanes = Vec<float>::lanes;
using Square = simd::ei::PacketBlock<__m512, lanes>;

constexpr __mmask16 none = 0;
constexpr __mmask16 all = 0xFFFF;
__mmask16 first(Index count) { return static_cast<__mmask16>((1U << std::clamp<Index>(count, 0, lanes)) - 1U); }

// 32 floats as bfloat16 in their order: 16 pairs.
FASTOPT_BF16 inline __m512i round_pairs(__m512 low, __m512 high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }

// The order that puts element i of two lines of 16 beside each other.
__m512i two_lines() {
    return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                            16, 0);
}

// 16 pairs (even[i], odd[i]), of what the masks let through; `order` is two_lines().
FASTOPT_BF16 inline void pack_vec(const float* even, const float* odd, __mmask16 in_even, __mmask16 in_odd, __m512i order, float* to) {
    const __m512i rounded = round_pairs(_mm512_maskz_loadu_ps(in_even, even), _mm512_maskz_loadu_ps(in_odd, odd));
    _mm512_storeu_ps(to, _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, rounded)));
}

// Pairs across two rows when rows are the stride: `vecs` Vecs of which `cols` elements exist, to[s * step].
FASTOPT_BF16 void pack_rows(const float* from, Index ld, Index cols, Index k, Index count, Index vecs, float* to, Index step) {
    const __m512i order = two_lines();
    const Index full = cols / lanes;
    const __mmask16 rest = first(cols - full * lanes);
    for (Index s = 0; s < count; ++s, from += 2 * ld, to += step) {
        const bool both = 2 * s + 1 < k;
        const float* odd = from + (both ? ld : 0);
        const __mmask16 second = both ? all : none;
        for (Index v = 0; v < full; ++v) {
            pack_vec(from + v * lanes, odd + v * lanes, all, second, order, to + v * lanes);
        }
        if (full < vecs) {
            pack_vec(from + full * lanes, odd + full * lanes, rest, rest & second, order, to + full * lanes);
        }
    }
}

// Pairs along k when k is the stride: the pairs of `lines` lines side by side, whole Vecs, to[s * step].
FASTOPT_BF16 void pack_lines(const float* from, Index ld, Index lines, Index k, Index count, float* to, Index step) {
    for (Index s = 0; s < count; s += lanes) {
        const __mmask16 low = first(k - 2 * s);
        const __mmask16 high = first(k - 2 * s - lanes);
        Square square;
#pragma GCC unroll 16
        for (Index i = 0; i < lanes; ++i) {
            const bool inside = i < lines;
            const float* line = from + (inside ? i : 0) * ld + 2 * s;
            const __m512 a = _mm512_maskz_loadu_ps(inside ? low : none, line);
            const __m512 b = _mm512_maskz_loadu_ps(inside ? high : none, line + lanes);
            square.packet[i] = _mm512_castsi512_ps(round_pairs(a, b));
        }
        simd::ei::ptranspose(square);
        const Index some = std::min(lanes, count - s);
        for (Index q = 0; q < some; ++q) {
            _mm512_storeu_ps(to + (s + q) * step, square.packet[q]);
        }
    }
}

// Rows of b are float32, two for each step, rounded on the way.
template <int Rows, int Vecs, TileSource Source>
FASTOPT_BF16 void one_tile(const TileArgs<float>& args) {
    Vec<float> sum[Rows][Vecs];
    start_tile<float, Rows, Vecs>(args, sum);
    const float* a = args.a;
    const float* b = args.b;
    const Index ldb = args.ldb;
    [[maybe_unused]] float* packed = args.packed;
    [[maybe_unused]] const __m512i order = two_lines();
    for (Index s = args.k; s > 0; --s) {
        __m512bh panel[Vecs];
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            const __m512 line = _mm512_loadu_ps(b + j * lanes);
            if constexpr (Source == TileSource::panel) {
                panel[j] = reinterpret_cast<__m512bh>(line);
            } else {
                const __m512i rounded = round_pairs(line, _mm512_loadu_ps(b + ldb + j * lanes));
                panel[j] = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(order, rounded));
            }
        }
        if constexpr (Source == TileSource::rows_to_panel) {
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                _mm512_storeu_ps(packed + j * lanes, reinterpret_cast<__m512>(panel[j]));
                __builtin_prefetch(b + prefetch_rows * ldb + j * lanes);
                __builtin_prefetch(b + (prefetch_rows + 1) * ldb + j * lanes);
            }
            packed += Vecs * lanes;
        }
#pragma GCC unroll 14
        for (int i = 0; i < Rows; ++i) {
            const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_ps(a[i]));
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) {
                sum[i][j].p[0] = _mm512_dpbf16_ps(sum[i][j].p[0], x, panel[j]);
            }
        }
        a += args.a_k;
        b += Source == TileSource::panel ? ldb : 2 * ldb;
    }
    finish_tile<float, Rows, Vecs>(args, sum);
}

template <int Rows, int Vecs, TileSource Source>
FASTOPT_BF16 void tile(const TileArgs<float>& args) {
    TileArgs<float> top = args;
    for (Index p = args.panels; p > 0; --p, top.move_right(Vecs * lanes)) {
        TileArgs<float> at = top;
        for (Index t = args.tiles; t > 0; --t, at.move_down(1, Rows)) {
            one_tile<Rows, Vecs, Source>(at);
        }
    }
}

template <int Vecs, TileSource Source, int First, int... Rows>
constexpr std::array<TileFunction<float>, sizeof...(Rows)> tile_column(std::integer_sequence<int, Rows...>) {
    return {&tile<First + Rows, Vecs, Source>...};
}

template <int Rows, TileSource Source, int... Vecs>
constexpr std::array<TileFunction<float>, sizeof...(Vecs)> tile_row(std::integer_sequence<int, Vecs...>) {
    return {&tile<Rows, Vecs + 1, Source>...};
}

// A tile of `First` rows or more.
template <TileSource Source, int First>
TileFunction<float> find_high(int rows, int vecs) {
    using Rows = std::make_integer_sequence<int, max_rows - First + 1>;
    static constexpr auto narrow = tile_column<1, Source, First>(Rows{});
    static constexpr auto wide = tile_column<max_vecs, Source, First>(Rows{});
    const auto row = static_cast<std::size_t>(rows - First);
    return vecs == 1 ? narrow[row] : wide[row];
}

template <TileSource Source>
TileFunction<float> find(int rows, int vecs) {
    static constexpr auto one = tile_row<1, Source>(std::make_integer_sequence<int, tile_vecs(1)>{});
    static constexpr auto two = tile_row<2, Source>(std::make_integer_sequence<int, tile_vecs(2)>{});
    const auto vec = static_cast<std::size_t>(vecs - 1);
    if (rows <= 2) {
        return rows == 1 ? one[vec] : two[vec];
    }
    return find_high<Source, 3>(rows, vecs);
}

}  // namespace

bool supported() {
    // Asks the operating system too, as cpu.cpp does for the rest of AVX-512.
    static const bool found = __builtin_cpu_supports("avx512bf16") != 0;
    return found;
}

void pack_b(const Operand<float>& b, Index k, Index s0, Index s1, Index j0, Index cols, Index width, float* to) {
    const float* from = b.data + 2 * s0 * b.row + j0 * b.col;
    if (b.col == 1) {
        pack_rows(from, b.row, cols, k - 2 * s0, s1 - s0, width / lanes, to, width);
        return;
    }
    for (Index j = 0; j < width; j += lanes) {
        pack_lines(from + j * b.col, b.col, cols - j, k - 2 * s0, s1 - s0, to + j, width);
    }
}

void pack_a(const Operand<float>& a, Index k, Index s0, Index s1, Index i0, Index height, float* to) {
    const float* from = a.data + i0 * a.row + 2 * s0 * a.col;
    if (a.col == 1) {
        pack_lines(from, a.row, height, k - 2 * s0, s1 - s0, to, height);
    } else {
        pack_rows(from, a.col, height, k - 2 * s0, s1 - s0, 1, to, height);
    }
}

TileFunction<float> find_tile(int rows, int vecs, TileSource source) {
    switch (source) {
        case TileSource::rows:
            return find<TileSource::rows>(rows, vecs);
        case TileSource::rows_to_panel:
            return find_high<TileSource::rows_to_panel, high_rows>(rows, vecs);
        default:
            return find<TileSource::panel>(rows, vecs);
    }
}

}  // namespace fastopt::gemm::bf16

#else

namespace fastopt::gemm::bf16 {

bool supported() { return false; }

}  // namespace fastopt::gemm::bf16

#endif
