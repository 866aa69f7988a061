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

// to[p][0..width) = b(p, 0..cols), zeros behind; b(p, j) = b[p + j * ldb]: a transposition, done in square blocks of registers.
template <class T>
void pack_columns(const T* b, Index ldb, Index k, Index cols, Index width, T* to) {
    using Packet = typename simd::Vec<T>::Packet;
    constexpr Index block = simd::Vec<T>::packet_lanes;
    for (Index j = 0; j < width; j += block) {
        const Index columns = std::min(block, cols - j);
        Index p = 0;
        if (columns == block) {
            for (; p + block <= k; p += block) {
                simd::ei::PacketBlock<Packet, block> square;
#pragma GCC unroll 16
                for (Index i = 0; i < block; ++i) {
                    square.packet[i] = simd::ei::ploadu<Packet>(b + p + (j + i) * ldb);
                }
                simd::ei::ptranspose(square);
#pragma GCC unroll 16
                for (Index i = 0; i < block; ++i) {
                    simd::ei::pstoreu(to + (p + i) * width + j, square.packet[i]);
                }
            }
        }
        for (; p < k; ++p) {
            for (Index i = 0; i < block; ++i) {
                to[p * width + j + i] = i < columns ? b[p + (j + i) * ldb] : T(0);
            }
        }
    }
}

// to[p][0..height) = a(0..height, p), a(i, p) = a[i * lda + p]: the rows of one register tile side by side, by transposing squares of
// registers.
template <class T>
void pack_tile_rows(const T* a, Index lda, Index height, Index k, T* to) {
    using Packet = typename simd::Vec<T>::Packet;
    constexpr Index block = simd::Vec<T>::packet_lanes;
    for (Index p = 0; p < k; p += block) {
        const Index columns = std::min(block, k - p);
        for (Index i = 0; i < height; i += block) {
            const Index rows = std::min(block, height - i);
            if (columns < block) {
                for (Index q = 0; q < columns; ++q) {
                    for (Index r = 0; r < rows; ++r) {
                        to[(p + q) * height + i + r] = a[(i + r) * lda + p + q];
                    }
                }
                continue;
            }
            simd::ei::PacketBlock<Packet, block> square;
            for (Index r = 0; r < block; ++r) {
                square.packet[r] = simd::ei::ploadu<Packet>(a + (i + std::min(r, rows - 1)) * lda + p);
            }
            simd::ei::ptranspose(square);
            if (rows == block) {
                for (Index q = 0; q < block; ++q) {
                    simd::ei::pstoreu(to + (p + q) * height + i, square.packet[q]);
                }
            } else {
                alignas(cache_line) T line[block];
                for (Index q = 0; q < block; ++q) {
                    simd::ei::pstoreu(line, square.packet[q]);
                    std::memcpy(to + (p + q) * height + i, line, static_cast<std::size_t>(rows) * sizeof(T));
                }
            }
        }
    }
}

}  // namespace fastopt::gemm
