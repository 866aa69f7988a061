// Where the threads of one region of `parallel` wait for each other in the middle of it, once or several times.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>

#include "core/team.hpp"
#include "core/waiting.hpp"

namespace fastopt {

class Meeting {
   public:
    static constexpr int most = Team::most;

    // Before a region that meets so many times, by the thread that starts it; its threads hand the number to `after`, and one more each
    // time.
    std::uint64_t begin(std::uint64_t times = 1) {
        if (failed_.load(std::memory_order_relaxed)) {  // else nothing to write: the others read it
            failed_.store(false, std::memory_order_relaxed);
        }
        const std::uint64_t first = turn_ + 1;
        turn_ += times;
        return first;
    }

    // f(), then wait until all `threads` threads have done theirs. An exception of f goes on after the meeting; false when another thread
    // had one.
    template <class F>
    bool after(std::uint64_t turn, int thread, int threads, F&& f) {
        const std::exception_ptr error = arrive_after(turn, thread, f);
        const bool whole = wait(turn, threads);
        if (error) {
            std::rethrow_exception(error);
        }
        return whole;
    }

    // The two halves of that, when there is something to do in between: f(), of which the others may know, and its exception; and the wait.
    template <class F>
    std::exception_ptr arrive_after(std::uint64_t turn, int thread, F&& f) {
        std::exception_ptr error;
        try {
            f();
        } catch (...) {
            error = std::current_exception();
            failed_.store(true, std::memory_order_relaxed);
        }
        arrived_[static_cast<std::size_t>(thread)].turn.store(turn, std::memory_order_release);
        return error;
    }
    // A thread comes no more up to this turn, because of an error: the others need not wait for it.
    void give_up(std::uint64_t last, int thread) {
        failed_.store(true, std::memory_order_relaxed);
        arrived_[static_cast<std::size_t>(thread)].turn.store(last, std::memory_order_release);
    }
    // Whether this thread has arrived, as far as one look tells.
    bool has_arrived(std::uint64_t turn, int thread) const {
        return arrived_[static_cast<std::size_t>(thread)].turn.load(std::memory_order_acquire) >= turn;
    }
    bool wait(std::uint64_t turn, int threads) {
        for (int other = 0; other < threads; ++other) {
            const auto& there = arrived_[static_cast<std::size_t>(other)].turn;
            // One that is already on its way to the next meeting has been here.
            wait_until([&] { return there.load(std::memory_order_acquire) >= turn; }, [] {});
        }
        return !failed_.load(std::memory_order_relaxed);
    }

   private:
    // A line for each thread: nobody waits on a line that another writes.
    struct alignas(2 * cache_line) Arrived {
        std::atomic<std::uint64_t> turn{0};
    };

    std::uint64_t turn_ = 0;  // by the thread that starts a region
    alignas(2 * cache_line) std::atomic<bool> failed_{false};
    std::array<Arrived, most> arrived_;
};

}  // namespace fastopt
