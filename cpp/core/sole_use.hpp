// A mutex that says so when its holder asks again, instead of waiting for itself: what a signal handler may do in the middle of a call.
// While it is held, get_num_threads() of its holder does not change: memory that a call made for so many threads is enough to its end.
#pragma once

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "core/threads.hpp"

namespace fastopt {

class SoleUse {
   public:
    void lock() {
        if (holder_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
            throw std::runtime_error("the network is in the middle of a call of this thread; a signal handler cannot use it");
        }
        mutex_.lock();
        hold();
    }
    // Takes it when nobody holds it, this thread included; else false.
    bool try_lock() {
        if (holder_.load(std::memory_order_relaxed) == std::this_thread::get_id() || !mutex_.try_lock()) {
            return false;
        }
        hold();
        return true;
    }
    void unlock() {
        free_num_threads();
        holder_.store(std::thread::id(), std::memory_order_relaxed);
        mutex_.unlock();
    }

   private:
    void hold() {
        holder_.store(std::this_thread::get_id(), std::memory_order_relaxed);
        keep_num_threads();
    }

    std::mutex mutex_;
    std::atomic<std::thread::id> holder_{};
};

}  // namespace fastopt
