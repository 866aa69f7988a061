// A mutex that says so when its holder asks again, instead of waiting for itself: what a signal handler may do in the middle of a call.
// While it is held, get_num_threads() of its holder does not change: memory that a call made for so many threads is enough to its end.
// In a forked child nobody waits for a thread that is not there.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "core/threads.hpp"

namespace fastopt {

class SoleUse {
   public:
    SoleUse() = default;
    SoleUse(const SoleUse&) = delete;
    SoleUse& operator=(const SoleUse&) = delete;
    ~SoleUse() { delete state_.load(); }

    void lock() {
        State& state = present();
        if (state.holder.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
            throw std::runtime_error("the network is in the middle of a call of this thread; a signal handler cannot use it");
        }
        state.mutex.lock();
        hold(state);
    }
    // The same two for a context of Python, which a signal handler may enter while its thread holds the lock. False when it is not free
    // after so long.
    bool enter(double seconds) {
        State& state = present();
        if (state.holder.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
            ++state.entered_again;
            return true;
        }
        if (!state.mutex.try_lock_for(std::chrono::duration<double>(seconds))) {
            return false;
        }
        hold(state);
        return true;
    }
    void leave() {
        State& state = *state_.load(std::memory_order_relaxed);
        if (state.entered_again > 0) {
            --state.entered_again;
            return;
        }
        unlock();
    }
    // Takes it when nobody holds it, this thread included; else false.
    bool try_lock() {
        State& state = present();
        if (state.holder.load(std::memory_order_relaxed) == std::this_thread::get_id() || !state.mutex.try_lock()) {
            return false;
        }
        hold(state);
        return true;
    }
    void unlock() {
        State& state = *state_.load(std::memory_order_relaxed);
        free_num_threads();
        state.holder.store(std::thread::id(), std::memory_order_relaxed);
        state.mutex.unlock();
    }
    // Calls that forks left in the middle; what is under this lock may be as they left it.
    std::uint32_t lost_calls() const { return lost_calls_.load(std::memory_order_relaxed); }

   private:
    struct State {
        explicit State(std::uint32_t number) : forks(number) {}
        std::timed_mutex mutex;
        std::atomic<std::thread::id> holder{};
        int entered_again = 0;      // by the holder
        const std::uint32_t forks;  // before it was made
    };

    static void hold(State& state) {
        state.holder.store(std::this_thread::get_id(), std::memory_order_relaxed);
        keep_num_threads();
    }

    // After a fork a fresh one, unless the thread that forked holds the old one, which it will give back. Whoever else held that is not
    // here.
    State& present() {
        State* known = state_.load(std::memory_order_acquire);
        const std::uint32_t forks = forks_behind();
        if (known->forks == forks) {
            return *known;
        }
        const std::thread::id holder = known->holder.load(std::memory_order_relaxed);
        if (holder == forked_thread()) {
            return *known;
        }
        auto fresh = std::make_unique<State>(forks);
        if (!state_.compare_exchange_strong(known, fresh.get(), std::memory_order_acq_rel)) {
            return *known;  // another thread of this process was first
        }
        if (holder != std::thread::id()) {
            lost_calls_.fetch_add(1, std::memory_order_relaxed);
        }
        return *fresh.release();  // the old one stays where it is, locked
    }

    std::atomic<State*> state_{new State(forks_behind())};
    std::atomic<std::uint32_t> lost_calls_{0};
};

}  // namespace fastopt
