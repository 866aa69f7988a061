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

#if defined(__AVX512F__)

struct Lanes {
    using Vector = __m512i;
    static constexpr int count = 8;
    static Vector each(std::uint64_t value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
    static Vector from(std::uint64_t first) { return _mm512_add_epi64(each(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)); }
    static Vector product(Vector a, Vector b) { return _mm512_mul_epu32(a, b); }
    static Vector sum(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
    static Vector high(Vector a) { return _mm512_srli_epi64(a, 32); }
    static Vector differ(Vector a, Vector b, Vector c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
    static Vector pairs(Vector low, Vector high) { return _mm512_mask_blend_epi32(0xAAAA, low, _mm512_slli_epi64(high, 32)); }
    static void store(Vector words01, Vector words23, std::uint32_t* to) {
        const Vector even = _mm512_unpacklo_epi64(words01, words23);  // blocks 0, 2, 4 and 6
        const Vector odd = _mm512_unpackhi_epi64(words01, words23);
        _mm512_storeu_si512(to, _mm512_permutex2var_epi64(even, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd));
        _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi64(even, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), odd));
    }
};

#elif defined(__AVX2__)

struct Lanes {
    using Vector = __m256i;
    static constexpr int count = 4;
    static Vector each(std::uint64_t value) { return _mm256_set1_epi64x(static_cast<long long>(value)); }
    static Vector from(std::uint64_t first) { return _mm256_add_epi64(each(first), _mm256_setr_epi64x(0, 1, 2, 3)); }
    static Vector product(Vector a, Vector b) { return _mm256_mul_epu32(a, b); }
    static Vector sum(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
    static Vector high(Vector a) { return _mm256_srli_epi64(a, 32); }
    static Vector differ(Vector a, Vector b, Vector c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
    static Vector pairs(Vector low, Vector high) { return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xAA); }
    static void store(Vector words01, Vector words23, std::uint32_t* to) {
        const Vector even = _mm256_unpacklo_epi64(words01, words23);  // blocks 0 and 2
        const Vector odd = _mm256_unpackhi_epi64(words01, words23);
        _mm256_storeu_si256(reinterpret_cast<Vector*>(to), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(reinterpret_cast<Vector*>(to + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }
};

#endif

#if defined(__AVX2__)

// A block in each 64-bit lane, each word in its low half. What the products leave in the high halves stays there: a product does not read
// it. Written out, because GCC multiplies by a constant in a dozen shifts and additions.
class SomeBlocks {
   public:
    SomeBlocks(const Stream& stream, std::uint64_t first_block)
        : c0_(Lanes::from(first_block)),
          c1_(Lanes::each(first_block >> 32)),
          c2_(Lanes::each(stream.step)),
          c3_(Lanes::each(stream.layer)),
          key0_(Lanes::each(stream.seed)),
          key1_(Lanes::each((stream.seed ^ stream.step) >> 32)) {}

    void round() {
        const Lanes::Vector product0 = Lanes::product(c0_, Lanes::each(0xD2511F53u));
        const Lanes::Vector product1 = Lanes::product(c2_, Lanes::each(0xCD9E8D57u));
        c0_ = Lanes::differ(Lanes::high(product1), c1_, key0_);
        c1_ = product1;
        c2_ = Lanes::differ(Lanes::high(product0), c3_, key1_);
        c3_ = product0;
        key0_ = Lanes::sum(key0_, Lanes::each(0x9E3779B9u));
        key1_ = Lanes::sum(key1_, Lanes::each(0xBB67AE85u));
    }
    void store(std::uint32_t* words) const { Lanes::store(Lanes::pairs(c0_, c1_), Lanes::pairs(c2_, c3_), words); }

   private:
    Lanes::Vector c0_, c1_, c2_, c3_, key0_, key1_;
};

#endif

}  // namespace

void random_chunk(const Stream& stream, std::uint64_t chunk, std::uint32_t* words) {
#if defined(__AVX2__)
    for (int first = 0; first < blocks; first += Lanes::count) {
        SomeBlocks some(stream, chunk * blocks + static_cast<std::uint64_t>(first));
#pragma GCC unroll 10
        for (int round = 0; round < rounds; ++round) {
            some.round();
        }
        some.store(words + 4 * first);
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
