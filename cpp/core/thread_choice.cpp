#include "core/thread_choice.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <limits>
#include <utility>

namespace fastopt {

namespace {

// Steps of more work than this begin with a team: its handing out is nothing beside them. One thread is tried when the team's threads got
// less of their time than this share, because something else has the cores, when steps became slower twice in a row, and else after this
// time, if a step is not too long for it; then ever more seldom.
constexpr double together_first = 2e7;
constexpr double fair_share = 0.8;
constexpr double first_doubt = 0.1;
constexpr double longest_tried = 0.05;
constexpr double longest_patience = 4;
constexpr double watch_seconds = 0.02;  // the kernel notes down every 4 ms what a thread on another core got

// Steps that a trial times; one before them wakes the team and fills its caches.
constexpr Index most_trial_steps = 32;
constexpr double trial_work = 2e8;
constexpr double block_seconds = 4e-3;   // between two looks at the clock
constexpr double first_patience = 0.02;  // until the other way is tried again; doubles each time it loses
constexpr double last_patience = 0.25;
// After a pause everything is slow at first, caches and clocks: a step of 60 us took 150. Such times say nothing beside those of before it,
// and whatever way was tried then lost. Steps of more work than together_first are as long as that themselves.
constexpr double pause_seconds = 0.02;
constexpr double warm_seconds = 0.01;  // of work after it
constexpr double never = std::numeric_limits<double>::infinity();
constexpr double lost_share = 0.01;     // of all time may be lost in trials
constexpr double margin = 0.97;         // what a team must reach of one thread's time
constexpr double give_up = 4;           // a trial ends early when its steps take so many times longer,
constexpr Index hiccup = 2;             // and so many more such steps: one that somebody else interrupted says nothing;
constexpr double hopeless = 1.2;        // or when the fastest of some steps takes so many times as long as the present way's:
constexpr Index fewest_to_judge = 8;    // the less a trial loses, the sooner another may follow, and neighbours come and go.
constexpr int most_rounds = 4;          // a team that is slower, but not hopeless, may warm its caches in so many rounds of a trial
constexpr Index fewest_to_trim = 8;     // steps of a trial of which the slowest is left out
constexpr double wake_seconds = 1e-3;   // the first step of a trial may wait so long for threads that sleep,
constexpr double start_seconds = 0.02;  // and that of the first trial for threads that do not exist yet or share the leader's core

Index trial_steps(double work) { return std::clamp(static_cast<Index>(trial_work / work), Index{1}, most_trial_steps); }

}  // namespace

Clock Clock::of_system() {
    return {[] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); },
            [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }};
}

void ThreadChoice::forget(double work, int threads) {
    *this = ThreadChoice(clock_, begins_alone_);
    work_ = first_work_ = work;
    threads_ = threads;
    patience_ = first_patience;
    if (work > together_first && !begins_alone_) {
        best_ = together;
        next_trial_ = never;
    }
}

// What is known of steps of somewhat more or less work: else a longer step would look like threads that lost their cores.
void ThreadChoice::scale_to(double work) {
    const double factor = work / work_;
    work_ = work;
    for (double& seconds : seconds_) {
        seconds *= factor;
    }
    block_.scale(factor);
    trial_.scale(factor);
}

// A trial that a pause breaks off begins anew.
void ThreadChoice::notice_pause(double now) {
    if (work_ <= together_first && now - last_end_ > pause_seconds) {
        warm_at_ = now + warm_seconds;
        from_before_ = true;
        next_trial_ = std::min(next_trial_, std::max(earliest_trial_, warm_at_));
        trial_left_ = 0;
        block_ = {};
        watched_ = {};
    }
}

bool ThreadChoice::too_long_to_try() const { return work_ > together_first && seconds_[best_] > longest_tried; }

bool ThreadChoice::trial_is_due(double now) const { return seconds_[best_] > 0 && !from_before_ && now >= next_trial_; }

// Whether the threads of a team did not get their cores lately; asked after each block.
bool ThreadChoice::starved() {
    if (best_ == alone || seconds_[best_] == 0 || from_before_) {  // threads of a first block start, or wake on one core
        watched_ = {};
        return false;
    }
    watched_.seconds += block_.seconds;
    watched_.cpu_seconds += block_.cpu_seconds;
    if (watched_.seconds < watch_seconds) {
        return false;
    }
    const Block all = std::exchange(watched_, {});
    return all.cpu_seconds < fair_share * all.seconds * threads_;
}

Index ThreadChoice::block_steps() const {
    const Index steps = seconds_[best_] > 0 ? static_cast<Index>(block_seconds / seconds_[best_]) : 0;
    return std::max(trial_steps(work_), steps);
}

void ThreadChoice::saw_steps(Index steps, double seconds, double cpu_seconds, double now) {
    block_.steps += steps;
    block_.seconds += seconds;
    block_.cpu_seconds += cpu_seconds;
    const bool enough = block_.steps >= block_steps() || block_.seconds >= 2 * block_seconds;
    if (!enough || block_.steps == 0) {  // a step that failed is none
        return;
    }
    if (seconds_[best_] > 0 && now < warm_at_) {  // the first block counts, or nothing would be known
        block_ = {};
        return;
    }
    const double each = block_.mean();
    // A present way that became slower, or a team without its cores, calls for a trial of the other; a first block has threads to start.
    slow_blocks_ = seconds_[best_] > 0 && each > 1.5 * seconds_[best_] ? slow_blocks_ + 1 : 0;
    const bool slower = slow_blocks_ >= (work_ > together_first ? 2 : 1);  // the largest steps are blocks of their own
    if (const bool without_cores = starved(); without_cores || (seconds_[best_] > 0 && slower)) {
        next_trial_ = std::min(next_trial_, std::max(earliest_trial_, now + first_patience));
    }
    block_ = {};
    // Cores may lie elsewhere after a pause, near each other or far apart.
    const bool first = seconds_[best_] == 0;
    seconds_[best_] = first || from_before_ ? each : 0.75 * seconds_[best_] + 0.25 * each;
    from_before_ = false;
    if (first && (begins_alone_ || (next_trial_ == never && !too_long_to_try()))) {
        next_trial_ = now + first_doubt;
    }
}

// The first step wakes threads; it counts only when it ends the trial.
void ThreadChoice::saw_trial_step(double seconds) {
    const bool first = trial_left_ > trial_steps(work_);
    const double slow = give_up * seconds_[best_];
    const double patience = seconds_[other()] == 0 ? start_seconds : wake_seconds;
    const double limit = first ? slow + patience : slow * static_cast<double>(block_.steps + 1 + hiccup);
    trial_left_ = block_.seconds + seconds > limit ? 0 : trial_left_ - 1;
    if (!first || trial_left_ == 0) {
        block_.add(seconds);
    }
    if (block_.steps >= fewest_to_judge && block_.fastest > hopeless * seconds_[best_]) {
        trial_left_ = 0;
    }
    if (trial_left_ == 0 && still_warming()) {
        ++rounds_;
        trial_left_ = most_trial_steps;
        block_ = {};
    }
}

bool ThreadChoice::still_warming() const {
    if (other() != together || block_.steps < most_trial_steps || rounds_ + 1 >= most_rounds) {
        return false;
    }
    const double ratio = block_.mean_but_slowest() / seconds_[best_];
    return ratio >= margin && ratio <= hopeless;
}

void ThreadChoice::end_trial(double now) {
    const Way tried = other();
    const bool first = seconds_[tried] == 0;
    seconds_[tried] = block_.steps < fewest_to_trim ? block_.mean() : block_.mean_but_slowest();
    const Way chosen = seconds_[together] < margin * seconds_[alone] ? together : alone;
    const double most = chosen == together && work_ > together_first ? longest_patience : last_patience;
    patience_ = chosen == best_ ? std::min(2 * patience_, most) : first_patience;
    best_ = chosen;
    slow_blocks_ = 0;
    // What it takes to start threads is lost once, so the first trial counts without it.
    const double lost = chosen == tried ? 0 : (first ? block_ : trial_).lost(seconds_[best_]);
    earliest_trial_ = now + lost / lost_share;
    next_trial_ = best_ == together && too_long_to_try() ? never : std::max(earliest_trial_, now + patience_);
    block_ = {};
}

Index ThreadChoice::run_steps(Index steps, double work, double least, StepFunction step, void* state) {
    Index done = 0;
    bool goes_on = true;
    const auto run = [&](Index count) {
        for (const Index end = done + count; goes_on && done < end;) {
            steps_ahead_ = end - done - 1;
            goes_on = step(state, done);
            done += goes_on ? 1 : 0;
        }
    };
    const int threads = get_num_threads();
    const auto by = [&](Way way, const auto& body) {
        if (way == together) {
            with_team(threads, body);
        } else {
            const Alone scope;
            body();
        }
    };
    if (cuts_small_work()) {
        by(together, [&] { run(steps); });
        return done;
    }
    if (threads == 1 || work < least) {
        by(alone, [&] { run(steps); });
        return done;
    }
    if (threads != threads_ || work >= 2 * first_work_ || work <= 0.5 * first_work_) {
        forget(work, threads);
    } else if (work != work_) {
        scale_to(work);
    }
    while (goes_on && done < steps) {
        const Index before = done;
        double begin = clock_.seconds();
        notice_pause(begin);
        if (trial_left_ == 0 && trial_is_due(begin)) {
            trial_left_ = 1 + trial_steps(work_);
            trial_ = {};
            block_ = {};
            rounds_ = 0;
        }
        if (trial_left_ == 0) {
            double cpu = clock_.cpu_seconds();
            by(best_, [&] {
                do {
                    const Index first = done;
                    run(std::min(block_steps(), steps - done));
                    const double end = clock_.seconds();
                    const double cpu_end = clock_.cpu_seconds();
                    saw_steps(done - first, end - begin, cpu_end - cpu, end);
                    begin = end;
                    cpu = cpu_end;
                } while (goes_on && done < steps && !trial_is_due(begin));
            });
            last_end_ = begin;
            continue;
        }
        double last = begin;  // the time of a step includes getting the team, when each call has few
        by(other(), [&] {
            while (goes_on && trial_left_ > 0 && done < steps) {
                run(1);
                const double now = clock_.seconds();
                saw_trial_step(now - last);
                last = now;
            }
        });
        const double end = last_end_ = clock_.seconds();
        trial_.steps += done - before;
        trial_.seconds += end - begin;
        if (trial_left_ == 0) {
            end_trial(end);
        }
    }
    return done;
}

}  // namespace fastopt
