// Where the threads of one region of `parallel` wait for each other in the middle of it.
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

    // Before a region, by the thread that starts it; its threads hand the number to `after`.
    std::uint32_t begin() {
        failed_.store(false, std::memory_order_relaxed);
        return ++turn_;
    }

    // f(), then wait until all `threads` threads have done theirs. An exception of f goes on after the meeting; false when another thread
    // had one.
    template <class F>
    bool after(std::uint32_t turn, int thread, int threads, F&& f) {
        std::exception_ptr error;
        try {
            f();
        } catch (...) {
            error = std::current_exception();
            failed_.store(true, std::memory_order_relaxed);
        }
        arrived_[static_cast<std::size_t>(thread)].turn.store(turn, std::memory_order_release);
        for (int other = 0; other < threads; ++other) {
            wait_until([&] { return arrived_[static_cast<std::size_t>(other)].turn.load(std::memory_order_acquire) == turn; }, [] {});
        }
        if (error) {
            std::rethrow_exception(error);
        }
        return !failed_.load(std::memory_order_relaxed);
    }

   private:
    // A line for each thread: nobody waits on a line that another writes.
    struct alignas(2 * cache_line) Arrived {
        std::atomic<std::uint32_t> turn{0};
    };

    std::uint32_t turn_ = 0;
    std::atomic<bool> failed_{false};
    std::array<Arrived, most> arrived_;
};

}  // namespace fastopt
