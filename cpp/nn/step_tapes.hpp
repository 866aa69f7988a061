// Forward and backward of a training step by one thread, from one step to the next: the second of two alike is kept, and those after it
// make its calls again without asking the layers.
#pragma once

#include <array>
#include <cstddef>

#include "core/types.hpp"
#include "kernels/tape.hpp"

namespace fastopt {

class StepTapes {
   public:
    // What may differ between steps of a network; all other operands stay where they are, or `forget` is called.
    struct Place {
        Index rows = 0;
        const void* input = nullptr;
        const void* scratch = nullptr;
        bool operator==(const Place& other) const { return rows == other.rows && input == other.input && scratch == other.scratch; }
    };

    // Whether a step that begins plays.
    bool begin_again(const Place& place) {
        if (!complete_ || !(place == kept_)) {
            return false;
        }
        use_ = Use::play;
        seen_ = {};
        ++steps_played_;
        return true;
    }
    // One begins. What is unlike the last, as the short batch at the end of an epoch, is not worth keeping.
    void begin(const Place& place) {
        if (begin_again(place)) {
            return;
        }
        if (place == seen_) {
            use_ = Use::keep;
            complete_ = false;
            kept_ = place;
            forward_.clear();
            backward_.clear();
        } else {
            use_ = Use::none;
            seen_ = place;
        }
    }
    // This step neither keeps nor plays.
    void leave() {
        if (use_ != Use::none) {
            use_ = Use::none;
        }
    }
    void forget() {
        leave();
        complete_ = false;
        seen_ = {};
    }

    bool plays() const { return use_ == Use::play; }
    Index steps_played() const { return steps_played_; }
    const Tape& forward() const { return forward_; }
    const Tape& backward() const { return backward_; }
    // Where the calls of this step are kept, or null.
    Tape* forward_to_keep() { return use_ == Use::keep ? &forward_ : nullptr; }
    Tape* backward_to_keep() { return use_ == Use::keep ? &backward_ : nullptr; }
    // Both are through.
    void end() {
        complete_ = complete_ || use_ == Use::keep;
        leave();
    }

   private:
    enum class Use { none, keep, play };

    Use use_ = Use::none;
    Index steps_played_ = 0;
    bool complete_ = false;  // the tapes are of a whole step
    Place kept_;
    Place seen_;  // of the last step that began here, when it was neither kept nor played
    Tape forward_;
    Tape backward_;
};

// The same for a thread that shares steps with another one, with things in between that differ from step to step: a tape for each part of a
// step. All operands stay where they are, or `forget` is called.
class PartTapes {
   public:
    static constexpr int most = 7;

    // Memory for what parts usually hold: some begin where it is too late to have none.
    void reserve() {
        for (Tape& tape : tapes_) {
            tape.reserve();
        }
    }
    void forget() { complete_ = false; }
    // A step begins; `asks`: it asks the layers whatever is kept, and nothing is kept of it.
    void begin(bool asks) {
        use_ = asks ? Use::none : complete_ ? Use::play : Use::keep;
        if (use_ == Use::keep) {
            for (Tape& tape : tapes_) {
                tape.clear();
            }
        }
    }
    bool plays() const { return use_ == Use::play; }
    // Whether the next step plays, unless it asks.
    bool complete() const { return complete_; }
    // Its part `number` again, or ask(where to keep it, or null).
    template <class F>
    void part(int number, F&& ask) {
        Tape& tape = tapes_[static_cast<std::size_t>(number)];
        if (plays()) {
            tape.play();
        } else {
            ask(use_ == Use::keep ? &tape : nullptr);
        }
    }
    // All parts are through.
    void end() { complete_ = complete_ || use_ == Use::keep; }

   private:
    enum class Use { none, keep, play };

    Use use_ = Use::none;
    bool complete_ = false;
    std::array<Tape, most> tapes_;
};

}  // namespace fastopt
