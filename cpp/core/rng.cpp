#include "core/rng.hpp"

#include <utility>

namespace fastopt {

// All ten rounds of a block in one 64-bit lane, the words in its low half: GCC vectorises the loop over blocks so, and takes six times as
// long (AVX2: twice) when the words lie in 32-bit lanes or the rounds are the outer loop.
void random_chunk(const Stream& stream, std::uint64_t chunk, std::uint32_t* words) {
    constexpr int blocks = 16;
    constexpr std::uint64_t low = 0xFFFFFFFFu;
    std::uint64_t out[4][blocks];
    const std::uint64_t step = stream.step & low;
    const auto first_key0 = static_cast<std::uint32_t>(stream.seed);
    const std::uint32_t first_key1 = static_cast<std::uint32_t>(stream.seed >> 32) ^ static_cast<std::uint32_t>(stream.step >> 32);
    for (int i = 0; i < blocks; ++i) {
        const std::uint64_t block = chunk * blocks + static_cast<std::uint64_t>(i);
        std::uint64_t c0 = block & low;
        std::uint64_t c1 = block >> 32;
        std::uint64_t c2 = step;
        std::uint64_t c3 = stream.layer;
        std::uint32_t key0 = first_key0;
        std::uint32_t key1 = first_key1;
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round) {
            const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * static_cast<std::uint32_t>(c0);
            const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * static_cast<std::uint32_t>(c2);
            c0 = (product1 >> 32) ^ c1 ^ key0;
            c1 = product1 & low;
            c2 = (product0 >> 32) ^ c3 ^ key1;
            c3 = product0 & low;
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        out[0][i] = c0;
        out[1][i] = c1;
        out[2][i] = c2;
        out[3][i] = c3;
    }
    for (int i = 0; i < blocks; ++i) {
        for (int word = 0; word < 4; ++word) {
            words[4 * i + word] = static_cast<std::uint32_t>(out[word][i]);
        }
    }
}

template <class I>
void permutation(Index n, std::uint64_t seed, std::uint64_t epoch, I* out) {
    // Layer numbers of networks are small; the last one is this function's own stream.
    const Stream stream{seed, epoch, 0xFFFFFFFFu};
    for (Index i = 0; i < n; ++i) {
        out[i] = static_cast<I>(i);
    }
    std::uint32_t words[64];
    Index partner[64];
    // A random number scaled to 0..i by a product. With 32 bits the bias is below 2^-16 up to 65 536 rows; longer ones take 64 bits.
    const bool short_draws = n <= 65536;
    const Index batch = short_draws ? 64 : 32;
    std::uint64_t chunk = 0;
    for (Index high = n - 1; high > 0; high -= batch, ++chunk) {
        const Index count = high < batch ? high : batch;
        random_chunk(stream, chunk, words);
        if (short_draws) {
            for (Index d = 0; d < 64; ++d) {
                partner[d] = static_cast<Index>((std::uint64_t{words[d]} * static_cast<std::uint64_t>(high - d + 1)) >> 32);
            }
        } else {
            for (Index d = 0; d < count; ++d) {
                const std::uint64_t random = std::uint64_t{words[2 * d]} << 32 | words[2 * d + 1];
                partner[d] = static_cast<Index>((static_cast<unsigned __int128>(random) * static_cast<std::uint64_t>(high - d + 1)) >> 64);
            }
        }
        for (Index d = 0; d < count; ++d) {
            std::swap(out[high - d], out[partner[d]]);
        }
    }
}

template void permutation<std::int32_t>(Index, std::uint64_t, std::uint64_t, std::int32_t*);
template void permutation<Index>(Index, std::uint64_t, std::uint64_t, Index*);

}  // namespace fastopt
