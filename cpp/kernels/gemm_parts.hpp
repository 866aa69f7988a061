// A product in parts, one for each thread, and who helps whom with them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/balance.hpp"
#include "core/threads.hpp"
#include "core/types.hpp"

namespace fastopt::gemm {

// Which panels of a part nobody has begun. Its own thread takes them from the front, others from the back.
template <class T>
class alignas(2 * cache_line) FreePanels {
   public:
    // Before the threads start.
    void offer(Index count) { open_.store(static_cast<std::uint64_t>(count) << half, std::memory_order_relaxed); }
    // The one at the front, or at the back; -1: there is none. What a panel is computed from was there before all, or comes with
    // `shared_a`. Others leave the last one: its own thread is about to begin it, and its lines would change their core for little.
    Index take_front() {
        const std::uint64_t open = take(1, 1);
        return open == none ? -1 : front(open);
    }
    Index take_back() {
        const std::uint64_t open = take(-(std::uint64_t{1} << half), 2);
        return open == none ? -1 : back(open) - 1;
    }
    // A as the first panel has packed it; null before that.
    void share_a(const T* packed) { packed_a_.store(packed, std::memory_order_release); }
    const T* shared_a() const { return packed_a_.load(std::memory_order_acquire); }

   private:
    static constexpr int half = 32;
    static constexpr std::uint64_t none = ~std::uint64_t{0};
    static Index front(std::uint64_t open) { return static_cast<Index>(open & 0xffffffffu); }
    static Index back(std::uint64_t open) { return static_cast<Index>(open >> half); }

    // What was open before one, of at least so many, was taken by adding `step`.
    std::uint64_t take(std::uint64_t step, Index least) {
        std::uint64_t open = open_.load(std::memory_order_relaxed);
        while (back(open) - front(open) >= least) {
            if (open_.compare_exchange_weak(open, open + step, std::memory_order_relaxed)) {
                return open;
            }
        }
        return none;
    }

    std::atomic<std::uint64_t> open_{0};  // the front, and the back in the upper half
    std::atomic<const T*> packed_a_{nullptr};
};

// Who is through with a part takes panels of the others that nobody has begun. Shares follow threads that are slower for long; what runs on
// a core for 100 us in between, or a host that stops it, would be waited for by all. Not where rows of C belong to whoever computes them,
// as those of a weight's gradient do to the thread that updates them: with cores that have an L3 each, such lines cost more than was won.
//
// make(part, memory) gives the block of a part in the scratch memory of another; see Block in gemm.cpp for what it offers.
template <class T, class Make>
class Parts {
   public:
    // By the thread that starts the region, whose threads then each `run` a part.
    Parts(const Shares& shares, bool rows_belong, bool packs_a, const Make& make)
        : make_(make), packs_a_(packs_a), helped_(!rows_belong && shares.threads() <= most ? shares.threads() : 0) {
        for (int part = 0; part < helped_; ++part) {
            panels_[static_cast<std::size_t>(part)].offer(make_(part, part).free_panels());
        }
    }
    // Returns the elements of C that were computed. What is in this part's scratch memory then is read by others until the region ends.
    Index run(int part) { return own(part) + others(part); }

   private:
    static constexpr int most = 8;  // what the first thread plans alone grows with their number

    Index own(int part) {
        auto block = make_(part, part);
        if (part >= helped_ || block.free_panels() == 0) {
            return block.run();
        }
        FreePanels<T>& panels = panels_[static_cast<std::size_t>(part)];
        Index done = 0;
        for (Index panel = panels.take_front(); panel >= 0; panel = panels.take_front()) {
            done += block.free_panel(panel);
            if (packs_a_ && panel == 0) {
                panels.share_a(block.packed_a());
            }
        }
        return done;
    }

    Index others(int part) {
        Index done = 0;
        for (int next = 1; next < helped_; ++next) {
            const int other = (part + next) % helped_;
            FreePanels<T>& panels = panels_[static_cast<std::size_t>(other)];
            const T* const packed_a = panels.shared_a();
            Index panel = packs_a_ && packed_a == nullptr ? -1 : panels.take_back();
            if (panel < 0) {
                continue;
            }
            auto block = make_(other, part);
            block.free_panels();
            block.read_packed_a(packed_a);
            for (; panel >= 0; panel = panels.take_back()) {
                done += block.free_panel(panel);
            }
        }
        return done;
    }

    const Make& make_;
    const bool packs_a_;
    const int helped_;  // parts whose panels others may take
    std::array<FreePanels<T>, most> panels_;
};

}  // namespace fastopt::gemm
