// A stopwatch of training. Whoever ends a phase calls `lap`: the time since the lap before it falls to that phase, so the laps of a
// thread leave nothing out. A null pointer is a profile that is off: one predictable branch for each phase and no clock.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/types.hpp"

namespace fastopt {

// What a lap can fall to: the phases of a step, of which the middle ones exist once per layer, and what lies between steps.
enum class Phase {
    gather,
    forward,
    loss,
    weight_gradient,
    input_gradient,
    wait,
    accumulate,
    norm,
    update,
    average,
    snapshot,
    order,
    evaluation,
    callbacks,
    python,
};
constexpr int phase_count = static_cast<int>(Phase::python) + 1;

const char* phase_name(Phase phase);
constexpr bool has_layers(Phase phase) {
    return phase == Phase::forward || phase == Phase::weight_gradient || phase == Phase::input_gradient;
}

class Profile {
   public:
    using Clock = std::chrono::steady_clock;

    struct Cell {
        Clock::duration time{0};
        Index calls = 0;
        Index rows = 0;   // sum over the calls
        Index whole = 0;  // the last one that it was a part of
    };

    explicit Profile(Index layers) : layers_(layers), cells_(static_cast<std::size_t>(phase_count * layers)), last_(Clock::now()) {}

    Index layers() const { return layers_; }
    const Cell& cell(Phase phase, Index layer) const { return cells_[index(phase, layer)]; }
    // Time that has passed without a lap belongs to nothing.
    void resume() { last_ = Clock::now(); }
    void lap(Phase phase, Index layer, Index rows) {
        const Clock::time_point now = Clock::now();
        Cell& cell = cells_[index(phase, layer)];
        cell.time += now - last_;
        if (rows_of_whole_ == 0 || cell.whole != whole_) {
            ++cell.calls;
            cell.rows += rows_of_whole_ == 0 ? rows : rows_of_whole_;
            cell.whole = whole_;
        }
        last_ = now;
    }
    // Laps up to the second one are of parts of so many rows: all of a phase count as one.
    void begin_parts(Index rows) {
        rows_of_whole_ = rows;
        ++whole_;
    }
    void end_parts() { rows_of_whole_ = 0; }

    // What a lap costs on this machine, in seconds: each lap's time contains it once.
    static double lap_seconds();

   private:
    std::size_t index(Phase phase, Index layer) const { return static_cast<std::size_t>(static_cast<int>(phase) * layers_ + layer); }

    Index layers_;
    std::vector<Cell> cells_;
    Clock::time_point last_;
    Index rows_of_whole_ = 0;  // 0: laps are of no parts
    Index whole_ = 0;
};

inline void lap(Profile* profile, Phase phase, Index layer = 0, Index rows = 0) {
    if (profile != nullptr) {
        profile->lap(phase, layer, rows);
    }
}

}  // namespace fastopt
