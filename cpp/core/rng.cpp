#include "core/rng.hpp"

#include <algorithm>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fastopt {

namespace {

constexpr int rounds = 10;
constexpr int blocks = chunk_elements / 4;

#if defined(__AVX2__)

// Four blocks at a time, each word in the low half of a 64-bit lane. What the products leave in the high halves stays there: a product does
// not read it. Written out, because GCC multiplies by a constant in a dozen shifts and additions.
class FourBlocks {
   public:
    FourBlocks(const Stream& stream, std::uint64_t first_block)
        : c0_(_mm256_add_epi64(each(first_block), _mm256_setr_epi64x(0, 1, 2, 3))),
          c1_(each(first_block >> 32)),
          c2_(each(stream.step)),
          c3_(each(stream.layer)),
          key0_(each(stream.seed)),
          key1_(each((stream.seed ^ stream.step) >> 32)) {}

    void round() {
        const __m256i product0 = _mm256_mul_epu32(c0_, each(0xD2511F53u));
        const __m256i product1 = _mm256_mul_epu32(c2_, each(0xCD9E8D57u));
        c0_ = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1_), key0_);
        c1_ = product1;
        c2_ = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3_), key1_);
        c3_ = product0;
        key0_ = _mm256_add_epi32(key0_, each(0x9E3779B9u));
        key1_ = _mm256_add_epi32(key1_, each(0xBB67AE85u));
    }
    void store(std::uint32_t* words) const {
        const __m256i words01 = _mm256_blend_epi32(c0_, _mm256_slli_epi64(c1_, 32), 0xAA);
        const __m256i words23 = _mm256_blend_epi32(c2_, _mm256_slli_epi64(c3_, 32), 0xAA);
        const __m256i even = _mm256_unpacklo_epi64(words01, words23);  // blocks 0 and 2
        const __m256i odd = _mm256_unpackhi_epi64(words01, words23);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }

   private:
    static __m256i each(std::uint64_t value) { return _mm256_set1_epi64x(static_cast<long long>(value)); }

    __m256i c0_, c1_, c2_, c3_, key0_, key1_;
};

#endif

}  // namespace

void random_chunk(const Stream& stream, std::uint64_t chunk, std::uint32_t* words) {
#if defined(__AVX2__)
    for (int first = 0; first < blocks; first += 4) {
        FourBlocks four(stream, chunk * blocks + static_cast<std::uint64_t>(first));
#pragma GCC unroll 10
        for (int round = 0; round < rounds; ++round) {
            four.round();
        }
        four.store(words + 4 * first);
    }
#else
    for (int i = 0; i < blocks; ++i) {
        const Words block = random_words(stream, chunk * blocks + static_cast<std::uint64_t>(i));
        std::copy(block.begin(), block.end(), words + 4 * i);
    }
#endif
}

template <class I>
void permutation(Index n, std::uint64_t seed, std::uint64_t epoch, I* out) {
    // Layer numbers of networks are small; the last one is this function's own stream.
    const Stream stream{seed, epoch, 0xFFFFFFFFu};
    for (Index i = 0; i < n; ++i) {
        out[i] = static_cast<I>(i);
    }
    std::uint32_t words[chunk_elements];
    Index partner[chunk_elements];
    // A random number scaled to 0..i by a product. With 32 bits the bias is below 2^-16 up to 65 536 rows; longer ones take 64 bits.
    const bool short_draws = n <= 65536;
    const Index batch = short_draws ? chunk_elements : chunk_elements / 2;
    std::uint64_t chunk = 0;
    for (Index high = n - 1; high > 0; high -= batch, ++chunk) {
        const Index count = high < batch ? high : batch;
        random_chunk(stream, chunk, words);
        if (short_draws) {
            for (Index d = 0; d < chunk_elements; ++d) {
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
