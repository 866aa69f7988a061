// The only door to OpenMP. Regions never nest, exceptions are carried out, a fork finds no pool to hang on.
#pragma once

#include <memory>
#include <string>
#include <type_traits>

#include "core/team.hpp"
#include "core/types.hpp"

namespace fastopt {

void set_num_threads(int threads);
// The number set, or chosen at the first call; a limit that threadpoolctl sets on OpenMP in the calling thread lowers it.
int get_num_threads();
// From here on get_num_threads() of the calling thread gives what it gives now, whatever other threads set; until as many calls of the
// second function.
void keep_num_threads();
void free_num_threads();

// Threads worth using for `work` (see threads.cpp for the unit): 1 inside a region and for small work.
int threads_for(double work);

// Whether the calling thread leads a team, and so may hand out smaller work.
bool leads_team();

// Change how much work a thread must get, so that a test cuts small shapes too; 0: as built.
void set_work_per_thread(double work);
// Whether it was changed.
bool cuts_small_work();

// End the pool's threads, as before a fork; the next region starts them again.
void release_threads();

// Install the fork handler; called once when the module is loaded.
void install_fork_handler();

std::string openmp_version();

namespace detail {
void run_region(int threads, RegionBody body, void* state);
void lead_team(int threads, void (*lead)(void* state), void* state);
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

// Call f() on this thread with a team at hand: until it returns, `parallel` hands its parts to threads that wait for them. Without one when
// there are more threads than cores.
template <class F>
void with_team(int threads, F&& f) {
    using Body = std::remove_reference_t<F>;
    detail::lead_team(
        threads, [](void* state) { (*static_cast<Body*>(state))(); }, const_cast<void*>(static_cast<const void*>(std::addressof(f))));
}

// [begin, end) of the share of `thread` in `count` items, in multiples of `grain` items.
struct Range {
    Index begin;
    Index end;

    Index size() const { return end - begin; }
    bool empty() const { return begin >= end; }
};
inline Range share(Index count, int thread, int threads, Index grain = 1) {
    if (threads == 1) {
        return {0, count};
    }
    const Index grains = ceil_div(count, grain);
    const Index begin = grains * thread / threads * grain;
    const Index end = grains * (thread + 1) / threads * grain;
    return {begin < count ? begin : count, end < count ? end : count};
}

// f(begin, end) over disjoint ranges that cover 0..count, in multiples of `grain`; `work` is the cost of all of it.
template <class F>
void parallel_for(Index count, Index grain, double work, F&& f) {
    if (count <= 0) {
        return;
    }
    const Index pieces = ceil_div(count, grain);
    int threads = threads_for(work);
    if (threads > pieces) {
        threads = static_cast<int>(pieces);
    }
    parallel(threads, [&](int thread, int all) {
        const Range range = share(count, thread, all, grain);
        if (range.begin < range.end) {
            f(range.begin, range.end);
        }
    });
}

}  // namespace fastopt
