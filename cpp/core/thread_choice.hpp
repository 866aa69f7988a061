// One thread or a team, for steps that are repeated many times: what is faster is measured while they run.
//
// Results do not depend on the number of threads, so the choice may change at any step. A second core that another process keeps busy, or
// that lies far away, makes a team slower than one thread by any factor; no size of the work tells. Large steps begin with the team, and
// one thread is tried soon when the threads do not get their cores, else seldom: a host that takes a core away does not tell.
#pragma once

#include <type_traits>

#include "core/threads.hpp"

namespace fastopt {

// Where times come from; a test brings its own.
struct Clock {
    double (*seconds)();
    double (*cpu_seconds)();  // of all threads of the process
    static Clock of_system();
};

class ThreadChoice {
   public:
    // `begins_alone`: large steps too, and for a while, because threads of another library may keep the cores busy between calls.
    explicit ThreadChoice(Clock clock = Clock::of_system(), bool begins_alone = false) : clock_(clock), begins_alone_(begins_alone) {}

    // Steps of less work have no part that a team would share.
    static constexpr double surely_alone = 4e5;

    // Do step(0), step(1), ... until `steps` are done or one returns false; returns how many returned true. `work` of one step is in the
    // unit of threads_for; of less than `least` it is done alone.
    template <class F>
    Index run(Index steps, double work, F&& step, double least = surely_alone) {
        using Step = std::remove_reference_t<F>;
        return run_steps(
            steps, work, least, [](void* state, Index number) { return (*static_cast<Step*>(state))(number); },
            const_cast<void*>(static_cast<const void*>(std::addressof(step))));
    }
    // In a step: so many are done by the same threads after it, unless it returns false.
    Index steps_ahead() const { return steps_ahead_; }

   private:
    using StepFunction = bool (*)(void* state, Index step);
    enum Way { alone, together };
    // Steps that are timed together, in one call or several.
    struct Block {
        Index steps = 0;
        double seconds = 0;
        double slowest = 0;
        double fastest = 0;
        double cpu_seconds = 0;  // of all threads, where it is asked for
        void add(double step) {
            ++steps;
            seconds += step;
            slowest = step > slowest ? step : slowest;
            fastest = steps == 1 || step < fastest ? step : fastest;
        }
        void scale(double factor) {
            seconds *= factor;
            slowest *= factor;
            fastest *= factor;
            cpu_seconds *= factor;
        }
        double mean() const { return seconds / static_cast<double>(steps); }
        // Beside steps that take so long.
        double lost(double step) const { return seconds - static_cast<double>(steps) * step; }
        double mean_but_slowest() const { return (seconds - slowest) / static_cast<double>(steps - 1); }
    };

    Index run_steps(Index steps, double work, double least, StepFunction step, void* state);
    void forget(double work, int threads);
    void scale_to(double work);
    bool starved();
    Way other() const { return best_ == alone ? together : alone; }
    void notice_pause(double now);
    bool trial_is_due(double now) const;
    bool too_long_to_try() const;
    Index block_steps() const;
    void saw_steps(Index steps, double seconds, double cpu_seconds, double now);
    void saw_trial_step(double seconds);
    bool still_warming() const;
    void end_trial(double now);

    Clock clock_;
    bool begins_alone_;
    Index steps_ahead_ = 0;
    double work_ = 0;        // of the steps that the times are of,
    double first_work_ = 0;  // of the first of them
    int threads_ = 0;
    double seconds_[2] = {0, 0};  // a step, by way; 0: unknown
    Way best_ = alone;
    int slow_blocks_ = 0;  // the last ones, in a row
    Block block_;
    Block watched_;         // steps of a team whose share of the cores is looked at
    Block trial_;           // all of a trial, with getting threads and letting them go
    Index trial_left_ = 0;  // steps of the other way that are still to be tried; 0: no trial
    int rounds_ = 0;        // of the trial that are over
    double next_trial_ = 0;
    double earliest_trial_ = 0;
    double patience_ = 0;
    double last_end_ = 0;       // of a call
    double warm_at_ = 0;        // when what a pause has cost is over
    bool from_before_ = false;  // what is known of the present way is of before the pause
};

}  // namespace fastopt
