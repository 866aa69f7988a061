#include "core/team.hpp"

#include <algorithm>

#include "core/waiting.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastopt {

namespace {

int present_core() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

// Move to another core that this thread may run on, if there is one.
void leave_core(int core) {
#if defined(__linux__)
    cpu_set_t allowed;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return;
    }
    cpu_set_t others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof(others), &others) == 0) {
        sched_setaffinity(0, sizeof(allowed), &allowed);  // the move is done; what is allowed stays as it was
    }
#else
    (void)core;
#endif
}

// condition(), after as many pieces of the errand as it takes; while there are none it is asked once.
template <class Condition>
bool helped_until(Errand* errand, Condition&& condition) {
    while (!condition()) {
        if (errand == nullptr || !errand->help()) {
            return false;
        }
    }
    return true;
}

}  // namespace

Team::Team(int size) : size_(size), leader_core_(present_core()) {}

// A thread often wakes on the core of the one that woke it, and the scheduler parts them some 10 ms later; until then every part of work
// waits for two switches.
void Team::part_from_leader() {
    const int core = leader_core_.load(std::memory_order_relaxed);
    if (core >= 0 && core == present_core()) {
        leave_core(core);
    }
}

void Team::signal(int last, int threads, RegionBody body, void* state, Errand* errand) {
    ++turn_;
    for (int t = 1; t < last; ++t) {
        Signal& go = go_[static_cast<std::size_t>(t)];
        go.threads = threads;
        go.body = body;
        go.state = state;
        go.errand = errand;
        go.turn.store(turn_, std::memory_order_release);
    }
}

void Team::run(int threads, RegionBody body, void* state, Errand* errand) {
    finish();
    const int count = std::min(threads, size_);
    signal(count, count, body, state, errand);
    try {
        body(state, 0, count);
    } catch (...) {
        error_.keep(std::current_exception());
    }
    wait_for_others(count, errand);
    error_.rethrow();
}

void Team::start(int threads, RegionBody body, void* state) {
    started_ = std::min(threads, size_);
    signal(started_, started_, body, state, nullptr);
}

void Team::finish() {
    if (started_ > 0) {
        wait_for_others(started_, nullptr);
        started_ = 0;
        error_.rethrow();
    }
}

void Team::wait_for_others(int count, Errand* errand) {
    for (int t = 1; t < count; ++t) {
        const auto& done = done_[static_cast<std::size_t>(t)].turn;
        wait_until([&] { return helped_until(errand, [&] { return done.load(std::memory_order_acquire) == turn_; }); },
                   [&] { leader_core_.store(present_core(), std::memory_order_relaxed); });
    }
}

void Team::release() {
    wait_for_others(started_, nullptr);
    signal(size_, 0, nullptr, nullptr, nullptr);
}

void Team::serve(int thread) {
    const Signal& go = go_[static_cast<std::size_t>(thread)];
    auto& done = done_[static_cast<std::size_t>(thread)].turn;
    std::uint32_t seen = 0;
    Errand* errand = nullptr;
    part_from_leader();
    for (;;) {
        wait_until([&] { return helped_until(errand, [&] { return go.turn.load(std::memory_order_acquire) != seen; }); },
                   [&] { part_from_leader(); });
        seen = go.turn.load(std::memory_order_acquire);
        if (go.body == nullptr) {
            return;
        }
        errand = go.errand;
        try {
            go.body(go.state, thread, go.threads);
        } catch (...) {
            error_.keep(std::current_exception());
        }
        done.store(seen, std::memory_order_release);
    }
}

}  // namespace fastopt
