#include "core/team.hpp"

#include <algorithm>
#include <thread>

namespace fastopt {

namespace {

// Looks at a signal before the core is offered to others: some 20 microseconds, longer than the serial stretches of a step.
constexpr int patience = 1000;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

template <class Condition>
void wait_until(Condition&& condition) {
    for (int look = 0; !condition(); ++look) {
        if (look < patience) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
}

}  // namespace

void Team::run(int threads, RegionBody body, void* state) {
    const int count = std::min(threads, size_);
    body_ = body;
    state_ = state;
    threads_ = count;
    ++turn_;
    for (int t = 1; t < count; ++t) {
        go_[static_cast<std::size_t>(t)].turn.store(turn_, std::memory_order_release);
    }
    try {
        body(state, 0, count);
    } catch (...) {
        error_.keep(std::current_exception());
    }
    for (int t = 1; t < count; ++t) {
        wait_until([&] { return done_[static_cast<std::size_t>(t)].turn.load(std::memory_order_acquire) == turn_; });
    }
    error_.rethrow();
}

void Team::release() {
    body_ = nullptr;
    ++turn_;
    for (int t = 1; t < size_; ++t) {
        go_[static_cast<std::size_t>(t)].turn.store(turn_, std::memory_order_release);
    }
}

void Team::serve(int thread) {
    const auto& go = go_[static_cast<std::size_t>(thread)].turn;
    auto& done = done_[static_cast<std::size_t>(thread)].turn;
    std::uint32_t seen = 0;
    for (;;) {
        wait_until([&] { return go.load(std::memory_order_acquire) != seen; });
        seen = go.load(std::memory_order_acquire);
        if (body_ == nullptr) {
            return;
        }
        try {
            body_(state_, thread, threads_);
        } catch (...) {
            error_.keep(std::current_exception());
        }
        done.store(seen, std::memory_order_release);
    }
}

}  // namespace fastopt
