#include "core/threads.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "core/cores.hpp"
#include "core/denormals.hpp"

namespace fastopt {

namespace {

constexpr double default_work_per_thread = 1e6;

int positive_number(const char* text) {
    if (text == nullptr) {
        return 0;
    }
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    return end != text && value > 0 ? static_cast<int>(std::min(value, 4096L)) : 0;
}

int default_threads() {
    if (const int asked = positive_number(std::getenv("FASTOPT_NUM_THREADS")); asked > 0) {
        return asked;
    }
    static const int quota = quota_cores();
    int threads = affinity_cores();
    if (quota > 0) {
        threads = std::min(threads, quota);
    }
    if (const int asked = positive_number(std::getenv("OMP_NUM_THREADS")); asked > 0) {
        threads = asked;
    }
    return threads;
}

// The number that omp_get_max_threads gives while nobody has asked OpenMP for another one.
int openmp_threads() {
    const int asked = positive_number(std::getenv("OMP_NUM_THREADS"));
    return asked > 0 ? asked : omp_get_num_procs();
}

// threadpoolctl limits an OpenMP library by omp_set_num_threads, for the calling thread, and puts the old number back afterwards. We never
// call that function: a number other than this one is a limit from outside. What cannot be told apart is a limit of exactly this number
// where the user asked us for more.
const int unlimited = openmp_threads();

std::atomic<int> asked_threads{0};       // by set_num_threads
std::atomic<int> found_threads{0};       // where nobody asked
thread_local bool pool_started = false;  // OpenMP keeps a pool for each thread that has asked for one
thread_local bool inside_region = false;
struct Kept {
    int threads = 0;
    int times = 0;
};
thread_local Kept kept;

std::thread::id first_thread;  // of a forked child

// The team that the calling thread leads.
thread_local Team* team = nullptr;
// What its threads do while they wait, if anything.
thread_local Errand* errand = nullptr;

}  // namespace

void set_num_threads(int threads) { asked_threads.store(std::max(1, threads)); }

void look_at_cores() { found_threads.store(default_threads(), std::memory_order_relaxed); }

int get_num_threads() {
    if (kept.times > 0) {
        return kept.threads;
    }
    int threads = asked_threads.load(std::memory_order_relaxed);
    threads = threads > 0 ? threads : found_threads.load(std::memory_order_relaxed);
    if (threads == 0) {
        look_at_cores();
        threads = found_threads.load(std::memory_order_relaxed);
    }
    const int limit = omp_get_max_threads();
    return limit == unlimited ? threads : std::min(threads, limit);
}

void keep_num_threads() {
    kept.threads = get_num_threads();
    ++kept.times;
}
void free_num_threads() { --kept.times; }

std::atomic<std::uint32_t> detail::forks{0};
std::thread::id forked_thread() { return first_thread; }

std::atomic<double> detail::work_per_thread{default_work_per_thread};

void set_work_per_thread(double work) { detail::work_per_thread.store(work > 0 ? work : default_work_per_thread); }

bool cuts_small_work() { return detail::work_per_thread.load(std::memory_order_relaxed) != default_work_per_thread; }

bool leads_team() { return team != nullptr; }
bool is_alone() { return inside_region; }

int detail::threads_for_shared(double work) {
    const double share = work_per_thread.load(std::memory_order_relaxed) * (leads_team() ? share_in_team : 1);
    if (work < 2 * share || inside_region) {
        return 1;
    }
    return static_cast<int>(std::min<double>(get_num_threads(), work / share));
}

void release_threads() {
    if (std::exchange(pool_started, false) && !inside_region) {
        omp_pause_resource_all(omp_pause_soft);
    }
}

void install_fork_handler() {
#if defined(__unix__) || defined(__APPLE__)
    static const int installed = pthread_atfork([] { release_threads(); }, nullptr,
                                                [] {
                                                    first_thread = std::this_thread::get_id();
                                                    found_threads.store(0, std::memory_order_relaxed);
                                                    detail::forks.fetch_add(1, std::memory_order_relaxed);
                                                });
    (void)installed;
#endif
}

void wait_for_others() {
    if (team != nullptr) {
        team->finish();
    }
}

Alone::Alone() : before_(inside_region) { inside_region = true; }
Alone::~Alone() { inside_region = before_; }

std::string openmp_version() { return std::to_string(_OPENMP); }

HasErrand::HasErrand(Errand& mine) : before_(errand) { errand = &mine; }
HasErrand::~HasErrand() {
    errand->withdraw();
    errand = before_;
    if (leads_team()) {  // a signal handler trained in the middle of a step: the threads of that step wait with this errand, which goes
        detail::run_region(
            Team::most, [](void*, int, int) {}, nullptr);
    }
}

namespace detail {

void run_region(int threads, RegionBody body, void* state) {
    if (inside_region) {
        body(state, 0, 1);
        return;
    }
    if (team != nullptr) {
        Team* const led = team;
        const Alone alone;
        led->run(threads, body, state, errand);
        return;
    }
    pool_started = true;
    FirstError error;
    const FloatControl control = float_control();
#pragma omp parallel num_threads(threads)
    {
        inside_region = true;
        const WithFloatControl as_leader(control);  // other libraries may share the pool
        try {
            body(state, omp_get_thread_num(), omp_get_num_threads());
        } catch (...) {
            error.keep(std::current_exception());
        }
        inside_region = false;
    }
    error.rethrow();
}

void start_others(int threads, RegionBody body, void* state) { team->start(threads, body, state); }

void lead_team(int threads, void (*lead)(void* state), void* state) {
    const bool worthwhile = threads > 1 && threads <= Team::most && (threads <= affinity_cores() || cuts_small_work());
    if (!worthwhile || inside_region || team != nullptr) {
        lead(state);
        return;
    }
    pool_started = true;
    FirstError error;
    // A member that starts late finds its first turn waiting.
    Team members(threads);
    const FloatControl control = float_control();
#pragma omp parallel num_threads(threads)
    {
        if (omp_get_thread_num() > 0) {
            inside_region = true;
            const WithFloatControl as_leader(control);
            members.serve(omp_get_thread_num());
            inside_region = false;
        } else {
            // Without a member too few nobody would do its parts.
            team = omp_get_num_threads() == threads ? &members : nullptr;
            try {
                lead(state);
                wait_for_others();
            } catch (...) {
                error.keep(std::current_exception());
            }
            team = nullptr;
            members.release();
        }
    }
    error.rethrow();
}

void run_ranges(Index count, Index grain, int threads, double work, RangeBody body, void* state) {
    const Shares shares(Bound::memory, threads, 1, work);
    parallel_parts(shares, [=, &shares](int part) {
        const Range range = shares.of_row(count, part, grain);
        if (!range.empty()) {
            body(state, range);
        }
        return range.size();
    });
}

}  // namespace detail

}  // namespace fastopt
