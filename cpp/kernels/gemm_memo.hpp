// What small products come down to, remembered from one step to the next: a small network makes the same products of operands in the same
// places in every step, and working out which tiles they take was 4 200 of the 58 000 instructions of a step of 8-32-32-1; now 1 000.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/gemm.hpp"
#include "kernels/gemm_tile.hpp"

namespace fastopt::gemm {

template <class T>
bool same(const Operand<T>& a, const Operand<T>& b) {
    return a.data == b.data && a.row == b.row && a.col == b.col && a.padded == b.padded && a.slack == b.slack;
}

// Whether two products take the same tiles of the same memory; what a remembered one does not have (see Calls) is not asked for.
template <class T>
bool same(const Product<T>& p, const Product<T>& q) {
    return p.c.data == q.c.data && same(p.a, q.a) && same(p.b, q.b) && p.c.ld == q.c.ld && p.c.padded == q.c.padded && p.m == q.m &&
           p.n == q.n && p.k == q.k && p.bias == q.bias && p.accumulate == q.accumulate && p.activation == q.activation &&
           p.slope == q.slope && p.slope_source.data == q.slope_source.data && p.slope_source.ld == q.slope_source.ld &&
           p.addend.data == q.addend.data && p.addend.ld == q.addend.ld && q.pre.data == nullptr && q.writes_next.data == nullptr;
}

// The calls of one product by one thread, in order: panels of B that are packed, and tiles. Products that do more (packing of A, edges,
// activations outside of registers, lines asked for ahead) are not kept.
template <class T>
class Calls {
   public:
    struct Panel {
        Index p, steps, j, cols, width;
        T* to;
    };
    struct Call {
        TileFunction<T> tiles;  // or none: a panel is packed
        TileArgs<T> args;
        Panel panel;
    };

    void begin(const Product<T>& product, const T* scratch) {
        product_ = product;
        scratch_ = scratch;
        count_ = 0;
        complete_ = product.pre.data == nullptr && product.writes_next.data == nullptr;
    }
    void add(TileFunction<T> tiles, const TileArgs<T>& args) {
        if (args.ahead != nullptr || !room()) {
            give_up();
            return;
        }
        calls_[count_].tiles = tiles;
        calls_[count_++].args = args;
    }
    void add(const Panel& panel) {
        if (!room()) {
            give_up();
            return;
        }
        calls_[count_].tiles = nullptr;
        calls_[count_++].panel = panel;
    }
    void give_up() { complete_ = false; }

    bool are_of(const Product<T>& product, const T* scratch) const { return complete_ && scratch == scratch_ && same(product_, product); }
    bool complete() const { return complete_; }
    const Call* begin() const { return calls_.data(); }
    const Call* end() const { return calls_.data() + count_; }

   private:
    static constexpr std::size_t most = 8;
    bool room() const { return count_ < most; }

    Product<T> product_;
    const T* scratch_ = nullptr;
    std::size_t count_ = 0;
    bool complete_ = false;
    std::array<Call, most> calls_;
};

// The last products of a thread: as many as a few networks have, four for each value of a hash. With one, two products of a step could
// take each other's place in every step.
template <class T>
class Memo {
   public:
    // The calls of this product, or null.
    const Calls<T>* find(const Product<T>& product, const T* scratch) {
        for (const Calls<T>& calls : bucket_of(product).ways) {
            if (calls.are_of(product, scratch)) {
                return &calls;
            }
        }
        return nullptr;
    }
    // Those whose place it takes: such as are of no use, if there are any.
    Calls<T>& place(const Product<T>& product) {
        Bucket& bucket = bucket_of(product);
        for (Calls<T>& calls : bucket.ways) {
            if (!calls.complete()) {
                return calls;
            }
        }
        return bucket.ways[bucket.next++ % bucket.ways.size()];
    }

   private:
    struct Bucket {
        std::array<Calls<T>, 4> ways;
        std::size_t next = 0;
    };
    Bucket& bucket_of(const Product<T>& product) {
        const auto c = reinterpret_cast<std::uintptr_t>(product.c.data);
        const auto b = reinterpret_cast<std::uintptr_t>(product.b.data);
        return buckets_[((c * 0x9E3779B97F4A7C15u) ^ (b * 0xC2B2AE3D27D4EB4Fu)) >> (64 - bits)];
    }

    static constexpr int bits = 4;
    std::array<Bucket, std::size_t{1} << bits> buckets_;
};

}  // namespace fastopt::gemm
