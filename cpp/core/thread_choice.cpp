#include "core/thread_choice.hpp"

#include <algorithm>
#include <chrono>

namespace fastopt {

namespace {

// Steps of more work than this are shared without asking: a team's handing out is nothing beside them.
constexpr double surely_together = 2e7;
// Steps of less work have no part that a team would share.
constexpr double surely_alone = 4e5;

// Steps that a trial times; one before them wakes the team and fills its caches.
constexpr Index most_trial_steps = 32;
constexpr double trial_work = 2e8;
constexpr double block_seconds = 4e-3;   // between two looks at the clock
constexpr double first_patience = 0.02;  // until the other way is tried again; doubles each time it loses
constexpr double last_patience = 2.0;
constexpr double lost_share = 0.01;    // of all time may be lost in trials
constexpr double margin = 0.97;        // what a team must reach of one thread's time
constexpr double give_up = 4;          // a trial ends early when a step takes so many times longer
constexpr double wake_seconds = 1e-3;  // the first step of a trial may wait so long for threads that sleep

Index trial_steps(double work) { return std::clamp(static_cast<Index>(trial_work / work), Index{1}, most_trial_steps); }

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

void ThreadChoice::forget(double work, int threads) {
    work_ = work;
    threads_ = threads;
    seconds_[alone] = seconds_[together] = 0;
    best_ = alone;
    next_trial_ = 0;
    patience_ = first_patience;
}

// A trial begins only where there is room for it.
ThreadChoice::Block ThreadChoice::next_block(double now, Index room) const {
    const Way other = best_ == alone ? together : alone;
    if (seconds_[best_] > 0 && (seconds_[other] == 0 || now >= next_trial_) && room >= trial_steps(work_)) {
        return {other, 1 + trial_steps(work_), give_up * seconds_[best_]};
    }
    const Index steps = seconds_[best_] > 0 ? static_cast<Index>(block_seconds / seconds_[best_]) : 0;
    return {best_, std::max(trial_steps(work_), steps), 0};
}

void ThreadChoice::saw(const Block& block, Index steps, double seconds, double now) {
    const double each = seconds / static_cast<double>(steps);
    const bool trial = block.way != best_;
    if (!trial) {
        // A present way that became slower calls for a trial of the other.
        if (seconds_[best_] > 0 && each > 1.5 * seconds_[best_]) {
            next_trial_ = std::min(next_trial_, now + first_patience);
        }
        seconds_[best_] = seconds_[best_] == 0 ? each : 0.75 * seconds_[best_] + 0.25 * each;
        return;
    }
    seconds_[block.way] = each;
    const bool better = seconds_[together] < margin * seconds_[alone];
    const Way chosen = better ? together : alone;
    patience_ = chosen == best_ ? std::min(2 * patience_, last_patience) : first_patience;
    best_ = chosen;
    const double lost = chosen == block.way ? 0 : seconds - static_cast<double>(steps) * seconds_[best_];
    next_trial_ = now + std::max(patience_, lost / lost_share);
}

Index ThreadChoice::run_steps(Index steps, double work, StepFunction step, void* state) {
    Index done = 0;
    Index timed = 0;  // steps since `begin`
    double begin = 0;
    const auto run = [&](Index count, double limit) {
        double before = limit > 0 ? seconds_now() : 0;
        bool warming = limit > 0 && count > 1;
        for (const Index end = done + count; done < end; ++done, ++timed) {
            if (!step(state, done)) {
                return false;
            }
            if (limit > 0) {
                const double after = seconds_now();
                if (after - before > (warming ? limit + wake_seconds : limit)) {
                    ++done;
                    ++timed;
                    break;
                }
                before = after;
                if (warming) {
                    warming = false;
                    begin = after;
                    timed = -1;
                }
            }
        }
        return true;
    };
    const int threads = get_num_threads();
    if (cuts_small_work() || (threads > 1 && work > surely_together)) {
        with_team(threads, [&] { run(steps, 0); });
        return done;
    }
    if (threads == 1 || work < surely_alone) {
        const Alone scope;
        run(steps, 0);
        return done;
    }
    if (threads != threads_ || work > 2 * work_ || work < 0.5 * work_) {
        forget(work, threads);
    }
    bool goes_on = true;
    while (goes_on && done < steps) {
        begin = seconds_now();
        timed = 0;
        Block block = next_block(begin, done == 0 ? most_trial_steps : steps - done);
        block.steps = std::min(block.steps, steps - done);
        if (block.way == together) {
            with_team(threads, [&] { goes_on = run(block.steps, block.limit); });
        } else {
            const Alone scope;
            goes_on = run(block.steps, block.limit);
        }
        const double end = seconds_now();
        if (timed > 0) {
            saw(block, timed, end - begin, end);
        }
    }
    return done;
}

}  // namespace fastopt
