// A lock for long calls of several threads, which take turns in the order in which they asked: whoever gives its turn away for a moment and
// asks again comes after those that wait. A thread that has it may take it again, and any thread may give it back.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "core/threads.hpp"

namespace fastopt {

class Turn {
   public:
    // A place in the queue.
    struct Waiter {};

    // Before anything else that a thread asks here: in a forked child a turn that another thread of its parent had is nobody's. Whether
    // it was so. Threads are told apart by what the one that forked is called: a new thread may be called as one of the parent's was.
    bool begins_after_fork() {
        if (forks_ == forks_behind()) {
            return false;
        }
        forks_ = forks_behind();
        auto fresh = std::make_unique<State>();
        const bool foreign = state_->depth > 0 && state_->owner != forked_thread();
        if (state_->depth > 0 && !foreign) {
            fresh->owner = state_->owner;
            fresh->depth = state_->depth;
        }
        state_.release();  // its mutex may be held by a thread that is not in this process
        state_ = std::move(fresh);
        return foreign;
    }
    // When it is this thread's already, or nobody has or waits for it.
    bool try_enter() {
        const std::lock_guard<std::mutex> lock(state_->mutex);
        const std::thread::id me = std::this_thread::get_id();
        if (state_->depth > 0 ? state_->owner != me : !state_->waiting.empty()) {
            return false;
        }
        state_->owner = me;
        ++state_->depth;
        return true;
    }
    // Else a thread asks once, waits as often as it likes, and gives up when it no longer does.
    void ask(const Waiter& waiter) {
        const std::lock_guard<std::mutex> lock(state_->mutex);
        state_->waiting.push_back(&waiter);
    }
    // Whether it has come to its turn after so long.
    bool wait(const Waiter& waiter, double seconds) {
        std::unique_lock<std::mutex> lock(state_->mutex);
        const auto free = [&] { return state_->depth == 0 && state_->waiting.front() == &waiter; };
        if (!state_->changed.wait_for(lock, std::chrono::duration<double>(seconds), free)) {
            return false;
        }
        state_->waiting.pop_front();
        state_->owner = std::this_thread::get_id();
        state_->depth = 1;
        return true;
    }
    void give_up(const Waiter& waiter) {
        const std::lock_guard<std::mutex> lock(state_->mutex);
        state_->waiting.erase(std::find(state_->waiting.begin(), state_->waiting.end(), &waiter));
        state_->changed.notify_all();
    }
    void leave() {
        const std::lock_guard<std::mutex> lock(state_->mutex);
        if (--state_->depth == 0) {
            state_->changed.notify_all();
        }
    }
    // Threads that wait.
    int waiting() const {
        const std::lock_guard<std::mutex> lock(state_->mutex);
        return static_cast<int>(state_->waiting.size());
    }

   private:
    struct State {
        std::mutex mutex;
        std::condition_variable changed;
        std::deque<const Waiter*> waiting;
        std::thread::id owner;
        int depth = 0;
    };

    std::unique_ptr<State> state_ = std::make_unique<State>();
    std::uint32_t forks_ = forks_behind();
};

}  // namespace fastopt
