// Philox 4x32-10, a counter-based generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
// A number is a function of (seed, step, layer, element) only, so masks and weights do not depend on threads or order.
#pragma once

#include <array>
#include <cstdint>

#include "core/types.hpp"

namespace fastopt {

struct Stream {
    std::uint64_t seed = 0;
    std::uint64_t step = 0;
    std::uint32_t layer = 0;
};

using Words = std::array<std::uint32_t, 4>;

inline Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
        const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
        counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(product1),
                   static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(product0)};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// The four words of elements 4*block .. 4*block+3.
inline Words random_words(const Stream& stream, std::uint64_t block) {
    const Words counter{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), static_cast<std::uint32_t>(stream.step),
                        stream.layer};
    return philox(counter, static_cast<std::uint32_t>(stream.seed),
                  static_cast<std::uint32_t>(stream.seed >> 32) ^ static_cast<std::uint32_t>(stream.step >> 32));
}

// Uniform in [0, 1), 32 bits of it.
inline double uniform_of(std::uint32_t word) { return word * 0x1p-32; }
inline double uniform_at(const Stream& stream, std::uint64_t element) { return uniform_of(random_words(stream, element / 4)[element % 4]); }

// Words of so many consecutive elements, from chunk_elements * chunk on: much faster than one by one.
constexpr Index chunk_elements = 64;
void random_chunk(const Stream& stream, std::uint64_t chunk, std::uint32_t* words);

// Fisher-Yates permutation of 0..n-1, a function of (n, seed, epoch); in 32 or 64 bits.
template <class I>
void permutation(Index n, std::uint64_t seed, std::uint64_t epoch, I* out);

}  // namespace fastopt
