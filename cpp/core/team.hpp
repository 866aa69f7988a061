// Threads that wait for parts of work by spinning: handing out a part and getting it back costs two cache lines on their way between
// cores, a few hundred nanoseconds less than a region of OpenMP.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>

#include "core/errand.hpp"
#include "core/types.hpp"

namespace fastopt {

// Exceptions must not leave a thread of a region: the first one is kept and thrown again by the caller's thread.
class FirstError {
   public:
    void keep(std::exception_ptr error) noexcept {
        if (!taken_.exchange(true)) {
            error_ = error;
        }
    }
    void rethrow() {
        if (error_) {
            const std::exception_ptr error = error_;
            error_ = nullptr;
            taken_.store(false);
            std::rethrow_exception(error);
        }
    }

   private:
    std::atomic<bool> taken_{false};
    std::exception_ptr error_;
};

// body(state, thread, threads) computes one thread's part.
using RegionBody = void (*)(void* state, int thread, int threads);

// Thread 0 calls `run` and, at the end, `release`; the others are in `serve` from the start.
class Team {
   public:
    static constexpr int most = 64;

    // By the thread that leads.
    explicit Team(int size);

    // Who waits does pieces of the errand meanwhile, if there is one, until the next call.
    void run(int threads, RegionBody body, void* state, Errand* errand);
    // The two halves of that, for a leader that does its own part in between and need not know when the others are through: another start
    // may follow before that, if by then all of them have begun with the one before (they have met). `finish` waits, as `run` and
    // `release` do first.
    void start(int threads, RegionBody body, void* state);
    void finish();
    void release();
    void serve(int thread);

   private:
    // One line for each direction and thread: nobody waits on a line that another writes, and what there is to do comes with the signal.
    struct alignas(2 * cache_line) Signal {
        std::atomic<std::uint32_t> turn{0};
        int threads = 0;
        RegionBody body = nullptr;  // null: go home
        void* state = nullptr;
        Errand* errand = nullptr;
    };

    void signal(int last, int threads, RegionBody body, void* state, Errand* errand);
    void wait_for_others(int count, Errand* errand);
    void part_from_leader();

    const int size_;
    std::atomic<int> leader_core_;  // -1: unknown
    std::uint32_t turn_ = 0;
    int started_ = 0;  // threads of a region that has been started and not waited for
    std::array<Signal, most> go_;
    std::array<Signal, most> done_;
    FirstError error_;
};

}  // namespace fastopt
