// Work that nobody waits for yet, in small pieces, for threads that wait for others.
#pragma once

#include <atomic>

#include "core/types.hpp"

namespace fastopt {

class Errand {
   public:
    using Piece = void (*)(void* state, Index piece);

    // piece(state, i) once for each i in 0..pieces, in any order, by any thread; it throws nothing. What was offered before is over: see
    // `finish` and `withdraw`.
    void offer(Index pieces, Piece piece, void* state) {
        piece_ = piece;
        state_ = state;
        offered_ = true;
        open_.store(pieces, std::memory_order_relaxed);
        free_.store(pieces, std::memory_order_release);
    }
    // Do a piece that nobody has; false when there is none.
    bool help() {
        Index left = free_.load(std::memory_order_acquire);
        while (left > 0) {
            if (free_.compare_exchange_weak(left, left - 1, std::memory_order_acquire)) {
                piece_(state_, left - 1);
                open_.fetch_sub(1, std::memory_order_release);
                return true;
            }
        }
        return false;
    }
    // By the thread that offered it: do what is left and wait for the pieces that others have. False when nothing was offered, or it was
    // withdrawn.
    bool finish();
    // By that thread too: give up the pieces that nobody has, and wait for the others.
    void withdraw();

    // In a child of a process whose threads had it: none of them is here to end its piece.
    void forget() {
        free_.store(0, std::memory_order_relaxed);
        open_.store(0, std::memory_order_relaxed);
        offered_ = false;
    }

   private:
    void wait_for_others();

    Piece piece_ = nullptr;
    void* state_ = nullptr;
    bool offered_ = false;
    alignas(2 * cache_line) std::atomic<Index> free_{0};  // pieces that nobody has
    std::atomic<Index> open_{0};                          // pieces that are not done
};

}  // namespace fastopt
