// A mutex that says so when its holder asks again, instead of waiting for itself: what a signal handler may do in the middle of a call.
#pragma once

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace fastopt {

class SoleUse {
   public:
    void lock() {
        if (holder_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
            throw std::runtime_error("the network is in the middle of a call of this thread; a signal handler cannot use it");
        }
        mutex_.lock();
        holder_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    }
    // Takes it when nobody holds it, this thread included; else false.
    bool try_lock() {
        if (holder_.load(std::memory_order_relaxed) == std::this_thread::get_id() || !mutex_.try_lock()) {
            return false;
        }
        holder_.store(std::this_thread::get_id(), std::memory_order_relaxed);
        return true;
    }
    void unlock() {
        holder_.store(std::thread::id(), std::memory_order_relaxed);
        mutex_.unlock();
    }

   private:
    std::mutex mutex_;
    std::atomic<std::thread::id> holder_{};
};

}  // namespace fastopt
