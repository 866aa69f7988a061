#include "core/rng.hpp"

#include <utility>

namespace fastopt {

void random_chunk(const Stream& stream, std::uint64_t chunk, std::uint32_t* words) {
    constexpr int blocks = 16;
    std::uint32_t c0[blocks];
    std::uint32_t c1[blocks];
    std::uint32_t c2[blocks];
    std::uint32_t c3[blocks];
    for (int i = 0; i < blocks; ++i) {
        const std::uint64_t block = chunk * blocks + static_cast<std::uint64_t>(i);
        c0[i] = static_cast<std::uint32_t>(block);
        c1[i] = static_cast<std::uint32_t>(block >> 32);
        c2[i] = static_cast<std::uint32_t>(stream.step);
        c3[i] = stream.layer;
    }
    std::uint32_t key0 = static_cast<std::uint32_t>(stream.seed);
    std::uint32_t key1 = static_cast<std::uint32_t>(stream.seed >> 32) ^ static_cast<std::uint32_t>(stream.step >> 32);
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < blocks; ++i) {
            const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c0[i];
            const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * c2[i];
            c0[i] = static_cast<std::uint32_t>(product1 >> 32) ^ c1[i] ^ key0;
            c1[i] = static_cast<std::uint32_t>(product1);
            c2[i] = static_cast<std::uint32_t>(product0 >> 32) ^ c3[i] ^ key1;
            c3[i] = static_cast<std::uint32_t>(product0);
        }
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    for (int i = 0; i < blocks; ++i) {
        words[4 * i] = c0[i];
        words[4 * i + 1] = c1[i];
        words[4 * i + 2] = c2[i];
        words[4 * i + 3] = c3[i];
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
