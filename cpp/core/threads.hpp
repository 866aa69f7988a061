// The only door to OpenMP. Regions never nest, exceptions are carried out, a fork finds no pool to hang on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>

#include "core/balance.hpp"
#include "core/errand.hpp"
#include "core/range.hpp"
#include "core/team.hpp"
#include "core/types.hpp"

namespace fastopt {

void set_num_threads(int threads);
// The number set, or found when the process was last looked at (by the first call, if not before); a limit that threadpoolctl sets on
// OpenMP in the calling thread lowers it.
int get_num_threads();
// Finds it anew: a process may move to other cores, and workers that were forked go to theirs.
void look_at_cores();
// From here on get_num_threads() of the calling thread gives what it gives now, whatever other threads set; until as many calls of the
// second function.
void keep_num_threads();
void free_num_threads();
// While one lives.
class SameThreads {
   public:
    SameThreads() { keep_num_threads(); }
    SameThreads(const SameThreads&) = delete;
    SameThreads& operator=(const SameThreads&) = delete;
    ~SameThreads() { free_num_threads(); }
};

namespace detail {
// Work is counted in floating-point operations that a core does about 50 to 100 of per nanosecond; memory-bound callers convert
// their bytes. One thread more is worth it when each gets this much: a region costs 0.4 us and its end another 0.2 us.
extern std::atomic<double> work_per_thread;
// Of that, what a member of a team must get: its start and end cost 0.2 us together.
constexpr double share_in_team = 0.1;
int threads_for_shared(double work);
}  // namespace detail

// Threads worth using for `work`: 1 inside a region and for small work. What a thread knows of itself takes a call to find, so what is too
// small whoever asks is answered here.
inline int threads_for(double work) {
    return work < 2 * detail::share_in_team * detail::work_per_thread.load(std::memory_order_relaxed) ? 1
                                                                                                      : detail::threads_for_shared(work);
}

// Whether the calling thread leads a team, and so may hand out smaller work.
bool leads_team();
// Whether the calling thread does everything alone, as in a region.
bool is_alone();

// Change how much work a thread must get, so that a test cuts small shapes too; 0: as built.
void set_work_per_thread(double work);
// Whether it was changed.
bool cuts_small_work();

// End the pool's threads, as before a fork; the next region starts them again.
void release_threads();

// Install the fork handlers; called once when the module is loaded.
void install_fork_handler();

namespace detail {
extern std::atomic<std::uint32_t> forks;
}
// Forks between the process that loaded the module and this one, and the thread that this one began with. Other threads of its parent are
// not here, and what they held nobody gives back.
inline std::uint32_t forks_behind() { return detail::forks.load(std::memory_order_relaxed); }
std::thread::id forked_thread();

std::string openmp_version();

namespace detail {
void run_region(int threads, RegionBody body, void* state);
void lead_team(int threads, void (*lead)(void* state), void* state);
void start_others(int threads, RegionBody body, void* state);
}  // namespace detail

// Call f(thread, threads) once per thread. What f computes must not depend on the number of threads.
template <class F>
void parallel(int threads, F&& f) {
    if (threads <= 1) {
        f(0, 1);
        return;
    }
    using Body = std::remove_reference_t<F>;
    detail::run_region(
        threads, [](void* state, int thread, int count) { (*static_cast<Body*>(state))(thread, count); },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

// By the leader of a team: f(thread, threads) once per thread, as `parallel`, but only its own part is done when this returns. f lives on
// until `wait_for_others`. Another call may follow before that when all threads have met in the f before; any other region waits.
template <class F>
void parallel_ahead(int threads, F& f);
void wait_for_others();

// While it lives, everything that the calling thread does it does alone.
class Alone {
   public:
    Alone();
    ~Alone();
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;

   private:
    bool before_;
};

template <class F>
void parallel_ahead(int threads, F& f) {
    detail::start_others(
        threads, [](void* state, int thread, int count) { (*static_cast<F*>(state))(thread, count); },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
    const Alone alone;
    f(0, threads);
}

// While it lives, threads of teams that the calling thread leads do pieces of this errand while they wait; at its end nothing of it is
// left.
class HasErrand {
   public:
    explicit HasErrand(Errand& errand);
    ~HasErrand();
    HasErrand(const HasErrand&) = delete;
    HasErrand& operator=(const HasErrand&) = delete;

   private:
    Errand* before_;
};

// Call f() on this thread with a team at hand: until it returns, `parallel` hands its parts to threads that wait for them. Without one when
// there are more threads than cores.
template <class F>
void with_team(int threads, F&& f) {
    using Body = std::remove_reference_t<F>;
    detail::lead_team(
        threads, [](void* state) { (*static_cast<Body*>(state))(); }, const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

// As `parallel`, for f(part): a part for each thread that `shares` knows, which returns how much it did.
template <class F>
void parallel_parts(const Shares& shares, F&& f) {
    bool all = false;
    parallel(shares.threads(), [&](int thread, int count) {
        if (thread == 0) {
            all = count == shares.threads();
        }
        // Fewer threads than asked for may come; then each takes several parts.
        for (int part = thread; part < shares.threads(); part += count) {
            shares.timed(part, [&] { return static_cast<double>(f(part)); });
        }
    });
    if (all) {
        shares.learn();
    }
}

namespace detail {
using RangeBody = void (*)(void* state, Range range);
void run_ranges(Index count, Index grain, int threads, double work, RangeBody body, void* state);

// One copy of f, for one thread and for several.
template <class F>
[[gnu::noinline]] void on_range(F& f, Range range) {
    f(range.begin, range.end);
}
}  // namespace detail

// f(begin, end) over disjoint ranges that cover 0..count, in multiples of `grain`; `work` is the cost of all of it.
template <class F>
void parallel_for(Index count, Index grain, double work, F&& f) {
    if (count <= 0) {
        return;
    }
    int threads = threads_for(work);
    if (threads > 1) {
        threads = static_cast<int>(std::min<Index>(threads, ceil_div(count, grain)));
    }
    if (threads == 1) {
        detail::on_range(f, {0, count});
        return;
    }
    using Body = std::remove_reference_t<F>;
    detail::run_ranges(
        count, grain, threads, work, [](void* state, Range range) { detail::on_range(*static_cast<Body*>(state), range); },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

}  // namespace fastopt
