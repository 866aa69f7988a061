#include "core/rng.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
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

constexpr int blocks_together = Lanes::count;

// words[i] * range[i] / 2^32 of as many.
inline void scale(const std::uint32_t* words, const std::uint32_t* range, std::uint32_t* to) {
    constexpr int lanes = 2 * Lanes::count;
    for (int i = 0; i < 4 * blocks_together; i += lanes) {
        Lanes::Vector w;
        Lanes::Vector r;
        std::memcpy(&w, words + i, sizeof(w));
        std::memcpy(&r, range + i, sizeof(r));
        const Lanes::Vector even = Lanes::high(Lanes::product(w, r));
        const Lanes::Vector odd = Lanes::high(Lanes::product(Lanes::high(w), Lanes::high(r)));
        const Lanes::Vector scaled = Lanes::pairs(even, odd);
        std::memcpy(to + i, &scaled, sizeof(scaled));
    }
}

// Of `blocks_together` blocks.
inline void random_blocks(const Stream& stream, std::uint64_t first_block, std::uint32_t* words) {
    SomeBlocks some(stream, first_block);
#pragma GCC unroll 10
    for (int round = 0; round < rounds; ++round) {
        some.round();
    }
    some.store(words);
}

#else

constexpr int blocks_together = 1;

inline void scale(const std::uint32_t* words, const std::uint32_t* range, std::uint32_t* to) {
    for (int i = 0; i < 4 * blocks_together; ++i) {
        to[i] = static_cast<std::uint32_t>((std::uint64_t{words[i]} * range[i]) >> 32);
    }
}

inline void random_blocks(const Stream& stream, std::uint64_t first_block, std::uint32_t* words) {
    const Words block = random_words(stream, first_block);
    std::copy(block.begin(), block.end(), words);
}

#endif

}  // namespace

void random_chunk(const Stream& stream, std::uint64_t chunk, std::uint32_t* words) {
    for (int first = 0; first < blocks; first += blocks_together) {
        random_blocks(stream, chunk * blocks + static_cast<std::uint64_t>(first), words + 4 * first);
    }
}

namespace {

// Some of the draws of a permutation: the first row changes places with one of all, the next with one of those before it. A random number
// is scaled to its range by a product. With 32 bits the bias is below 2^-16 up to 65 536 rows; longer ones take 64 bits.
template <bool Short>
struct Draws {
    static constexpr Index count = 4 * blocks_together;
    static constexpr Index words_each = Short ? 1 : 2;
    std::conditional_t<Short, std::uint32_t, std::uint64_t> partner[count];

    // From draw `first` on, one of 0..last, then one of 0..last - 1.
    void draw(const Stream& stream, Index first, Index last) {
        std::uint32_t words[count * words_each];
        for (Index word = 0; word < count * words_each; word += count) {
            random_blocks(stream, static_cast<std::uint64_t>((first * words_each + word) / 4), words + word);
        }
        if constexpr (Short) {
            std::uint32_t range[count];
            for (Index d = 0; d < count; ++d) {
                range[d] = static_cast<std::uint32_t>(last + 1) - static_cast<std::uint32_t>(d);
            }
            scale(words, range, partner);
        } else {
            asm("" : "+m"(words));  // in memory: taken out of vector registers one by one they cost more
            for (Index d = 0; d < count; ++d) {
                const std::uint64_t random = std::uint64_t{words[2 * d]} << 32 | words[2 * d + 1];
                const auto range = static_cast<std::uint64_t>(last - d + 1);
                partner[d] = static_cast<std::uint64_t>((static_cast<unsigned __int128>(random) * range) >> 64);
            }
        }
    }
};

// Fisher and Yates. Some draws are made ahead: the processor works on their numbers while places are changed, and rows of a long
// permutation are on their way.
template <bool Short, class I>
void shuffle(const Stream& stream, I* out, Index n) {
    constexpr Index count = Draws<Short>::count;
    constexpr Index ahead = Short ? 3 : 1;
    Draws<Short> draws[ahead + 1];
    const auto draw = [&](Index number) {
        const Index last = n - 1 - number * count;
        if (last <= 0) {
            return;
        }
        Draws<Short>& some = draws[number % (ahead + 1)];
        some.draw(stream, number * count, last);
        if constexpr (!Short) {
            for (Index d = 0; d < std::min(count, last); ++d) {
                __builtin_prefetch(out + some.partner[d], 1);
            }
        }
    };
    for (Index number = 0; number < ahead; ++number) {
        draw(number);
    }
    Index number = 0;
    for (Index last = n - 1; last > 0; last -= count, ++number) {
        draw(number + ahead);
        const auto& partner = draws[number % (ahead + 1)].partner;
        if (last >= count) {
#pragma GCC unroll 8
            for (Index d = 0; d < count; ++d) {
                std::swap(out[last - d], out[partner[d]]);
            }
        } else {
            for (Index d = 0; d < last; ++d) {
                std::swap(out[last - d], out[partner[d]]);
            }
        }
    }
}

}  // namespace

template <class I>
void permutation(Index n, std::uint64_t seed, std::uint64_t epoch, I* out) {
    // Layer numbers of networks are small; the last one is this function's own stream.
    const Stream stream{seed, epoch, 0xFFFFFFFFu};
    for (Index i = 0; i < n; ++i) {
        out[i] = static_cast<I>(i);
    }
    n <= 65536 ? shuffle<true>(stream, out, n) : shuffle<false>(stream, out, n);
}

template void permutation<std::int32_t>(Index, std::uint64_t, std::uint64_t, std::int32_t*);
template void permutation<Index>(Index, std::uint64_t, std::uint64_t, Index*);

}  // namespace fastopt
