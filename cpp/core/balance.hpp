// Shares of long work for threads that are not equally fast.
//
// What others run on the second hyperthread of a core takes up to half of it, for milliseconds or for minutes, and of equal parts the
// slower one is waited for. So the threads of a long region note how long they took, and the next one gives each what it can do in the same
// time. What is computed must not depend on who computes it.
#pragma once

#include <array>
#include <chrono>

#include "core/range.hpp"
#include "core/team.hpp"

namespace fastopt {

// What a region waits for: others slow the arithmetic of a core and its way to memory differently.
enum class Bound { arithmetic, memory };

// How fast the threads of one kind of regions are, beside each other.
class Balance {
   public:
    static constexpr int most = Team::most;

    double speed(int thread) const { return speed_[static_cast<std::size_t>(thread)]; }
    void set_speed(int thread, double speed) { speed_[static_cast<std::size_t>(thread)] = speed; }

    // What a thread did, in any unit, and how long it took; by itself.
    void took(int thread, double amount, double seconds) { taken_[static_cast<std::size_t>(thread)] = {amount, seconds}; }
    // When all threads of a region have said it. Nothing is learned from one in which somebody had nothing to do, or nothing was
    // left of it.
    void learn(int threads);

    // Of the regions that the calling thread starts.
    static Balance& own(Bound bound);

   private:
    // A line for each thread: nobody waits on a line that another writes.
    struct alignas(2 * cache_line) Taken {
        double amount = 0;
        double seconds = 0;
    };

    static constexpr std::array<double, most> equal() {
        std::array<double, most> speeds{};
        for (double& speed : speeds) {
            speed = 1;
        }
        return speeds;
    }

    std::array<double, most> speed_ = equal();
    std::array<Taken, most> taken_;
};

// Who gets what of a region. Its threads stand in a grid: thread t in row t % rows and column t / rows.
class Shares {
   public:
    // By the thread that starts the region; `work` is in the unit of threads_for. Short ones are shared equally.
    Shares(Bound bound, int rows, int cols, double work);

    int threads() const { return rows_ * cols_; }
    // Of `count` items, in multiples of `grain`, what belongs to a row, and to a column.
    Range of_row(Index count, int row, Index grain = 1) const { return of(count, grain, row, rows_, 1); }
    Range of_column(Index count, int column, Index grain = 1) const { return of(count, grain, column, cols_, rows_); }

    // f() by a thread of the region; it returns how much it did.
    template <class F>
    void timed(int thread, F&& f) const {
        using Clock = std::chrono::steady_clock;
        const Clock::time_point start = balance_ != nullptr ? Clock::now() : Clock::time_point{};
        const double amount = f();
        if (balance_ != nullptr) {
            balance_->took(thread, amount, std::chrono::duration<double>(Clock::now() - start).count());
        }
    }
    // By the thread that started it, when as many threads as there are parts have been through `timed`.
    void learn() const {
        if (balance_ != nullptr) {
            balance_->learn(threads());
        }
    }

   private:
    // The threads of line `line` of `lines` are those with number / step % lines == line.
    Range of(Index count, Index grain, int line, int lines, int step) const {
        return balance_ == nullptr || lines == 1 ? share(count, line, lines, grain) : weighed(count, grain, line, lines, step);
    }
    Range weighed(Index count, Index grain, int line, int lines, int step) const;

    Balance* balance_;  // null: equally
    int rows_;
    int cols_;
};

}  // namespace fastopt
