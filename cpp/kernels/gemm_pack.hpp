// Packing of panels: contiguous, zero-padded copies that the register tile reads in order.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/simd.hpp"

namespace fastopt::gemm {

// to[p][0..width) = b(p, 0..cols), zeros behind; b(p, j) = b[p * ldb + j].
template <class T>
void pack_rows(const T* b, Index ldb, Index k, Index cols, Index width, T* to) {
    constexpr Index lanes = simd::Vec<T>::lanes;
    const Index full = cols / lanes;
    const Index rest = cols - full * lanes;
    for (Index p = 0; p < k; ++p, b += ldb, to += width) {
        for (Index v = 0; v < full; ++v) {
            simd::store(to + v * lanes, simd::load(b + v * lanes));
        }
        if (rest > 0) {
            simd::store(to + full * lanes, simd::load_partial(b + full * lanes, rest));
        }
        for (Index v = full + (rest > 0); v < width / lanes; ++v) {
            simd::store(to + v * lanes, simd::zero<T>());
        }
    }
}

// The same for b(p, j) = b[p + j * ldb], with the last column behind instead of zeros: a transposition, by squares. `slack`: a whole
// cache line may be read from any element on.
template <class T>
void pack_columns(const T* b, Index ldb, bool slack, Index k, Index cols, Index width, T* to) {
    using Packet = typename simd::Vec<T>::Packet;
    constexpr Index block = simd::Vec<T>::packet_lanes;
    for (Index j = 0; j < width; j += block) {
        Index p = 0;
        const auto column = [&](Index r) FASTOPT_INLINE_LAMBDA { return b + std::min(j + r, cols - 1) * ldb + p; };
        if (j + block <= cols) {
            for (; p + block <= k; p += block) {
                simd::turn<T>(b + j * ldb + p, ldb, to + p * width + j, width);
            }
        }
        for (; p + block <= k; p += block) {
            simd::turn<T>(column, to + p * width + j, width);
        }
        if (p < k && slack) {
            alignas(cache_line) T rest[block * block];
            simd::turn<T>(column, rest, block);
            for (Index q = 0; p < k; ++p, ++q) {
                simd::ei::pstoreu(to + p * width + j, simd::ei::ploadu<Packet>(rest + q * block));
            }
        }
        for (; p < k; ++p) {
            for (Index i = 0; i < block; ++i) {
                to[p * width + j + i] = *column(i);
            }
        }
    }
}

// Rows that are asked for ahead: they may lie too far apart for the hardware to guess.
constexpr Index rows_ahead = 8;

// The rows of one register tile side by side: to[p][0..height) = a(0..height, p). Whole packets are stored in rising order, so what one
// writes behind its row the next replaces; the last writes up to a packet behind the end.

// a(i, p) = a[i * lda + p], height <= Most: squares of registers are transposed.
template <Index Most, class T>
void pack_tile_rows(const T* a, Index lda, Index height, Index k, T* to) {
    using Packet = typename simd::Vec<T>::Packet;
    constexpr Index block = simd::Vec<T>::packet_lanes;
    constexpr Index squares = ceil_div(Most, block);
    Index p = 0;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        // The first eight rows and the last eight: nothing is written behind a row.
        if (height >= 8) {
            for (; p + block <= k; p += block, to += block * height) {
                for (const Index first : {Index{0}, height - 8}) {
#pragma GCC unroll 1
                    for (Index q = 0; q < block; q += 4) {
                        simd::turn_eight([&](Index r) FASTOPT_INLINE_LAMBDA { return a + (first + r) * lda + p + q; },
                                         to + q * height + first, height);
                    }
                }
            }
        }
    }
#endif
    for (; p + block <= k; p += block) {
        alignas(cache_line) T square[squares][block * block];
        for (Index s = 0; s < squares && s * block < height; ++s) {
            simd::turn<T>([&](Index r) FASTOPT_INLINE_LAMBDA { return a + std::min(s * block + r, height - 1) * lda + p; }, square[s],
                          block);
        }
#pragma GCC unroll 16
        for (Index q = 0; q < block; ++q, to += height) {
            for (Index s = 0; s < squares && s * block < height; ++s) {
                simd::ei::pstoreu(to + s * block, simd::ei::ploadu<Packet>(square[s] + q * block));
            }
        }
    }
    for (; p < k; ++p, to += height) {
        for (Index i = 0; i < height; ++i) {
            to[i] = a[i * lda + p];
        }
    }
}

// a(i, p) = a[i + p * lda], of which `readable` elements from each a(0, p) on may be read; of `tiles` tiles below each other.
template <class T>
void copy_tile_rows(const T* a, Index lda, Index height, Index tiles, Index readable, Index k, T* to) {
    using Packet = typename simd::Vec<T>::Packet;
    constexpr Index block = simd::Vec<T>::packet_lanes;
    const Index packets = ceil_div(height, block);
    const Index beyond = packets * block - height;  // read and written behind a row of a tile
    // So many tiles may be read like that, and so many rows written: where a tile ends the next one has begun already.
    const Index wide_tiles = std::clamp<Index>((readable - beyond) / height, 0, tiles);
    const Index wide_rows = k - ceil_div(beyond, height);
    for (Index p = 0; p < k; ++p, a += lda, to += height) {
        const T* from = a;
        T* at = to;
        Index left = tiles;
        for (const Index exact = p < wide_rows ? tiles - wide_tiles : tiles; left > exact; --left, from += height, at += height * k) {
            __builtin_prefetch(from + rows_ahead * lda);
            for (Index s = 0; s < packets; ++s) {
                simd::ei::pstoreu(at + s * block, simd::ei::ploadu<Packet>(from + s * block));
            }
        }
        for (; left > 0; --left, from += height, at += height * k) {
            std::memcpy(at, from, static_cast<std::size_t>(height) * sizeof(T));
        }
    }
}

}  // namespace fastopt::gemm
