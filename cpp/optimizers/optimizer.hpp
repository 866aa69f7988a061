// What an update rule is: slots that live beside the parameters, scalars that live with the step, and one fused pass over a segment.
// The loop, threads, tails and everything done to the gradient first are in elementwise.hpp; a rule is one small file with its line of
// maths.
#pragma once

#include <string>
#include <vector>

#include "core/config.hpp"
#include "core/registry.hpp"
#include "core/threads.hpp"
#include "core/types.hpp"

namespace fastopt {

constexpr int max_slots = 4;

// What every segment of one step has in common. t counts from 1.
struct StepInfo {
    Index t = 1;
    double learning_rate = 0;
    double* scalars = nullptr;
    double norm_squared = 0;  // of the whole gradient, for rules with needs_norm
    double of_step[3] = {};   // what the rule's begin worked out for all segments
};

// From the gradient of the data loss to the gradient of the objective, in the pass that uses it:
// clamp(g + l1 sign(w) + 2 l2 w, +-clip_value) * scale. `scale` is that of clipping by global norm.
struct GradientTransform {
    double l1 = 0;
    double l2 = 0;
    double clip_value = 0;  // 0: off
    double scale = 1;

    bool active() const { return l1 != 0 || l2 != 0 || clip_value != 0 || scale != 1; }
};

template <class T>
struct Segment {
    T* w = nullptr;
    const T* g = nullptr;
    T* slots[max_slots] = {};
    Index size = 0;
    double multiplier = 1;  // of the learning rate
    bool decay = true;      // whether weight decay applies
    GradientTransform transform = {};
    // When there are any, only these elements, by the calling thread.
    const Range* parts = nullptr;
    Index part_count = 0;
};

template <class T>
class Optimizer {
   public:
    virtual ~Optimizer() = default;

    virtual std::vector<std::string> slot_names() const = 0;
    virtual std::vector<std::string> scalar_names() const { return {}; }
    virtual double initial_slot(int) const { return 0; }
    virtual std::vector<double> initial_scalars() const { return {}; }
    // Weight decay, if there is any, is the same for weights and for all other parameters: one pass can take them together.
    virtual bool decays_alike() const { return true; }
    virtual bool needs_norm() const { return false; }

    // Once per step, before its segments: moves info.scalars on and fills info.of_step.
    virtual void begin(StepInfo&) const {}
    virtual void update(const StepInfo& info, const Segment<T>& segment) const = 0;
    // Of an update of so many elements, for threads_for: 4 operations a byte. The passes are bound by memory, and a second thread pays from
    // about 40 kB on.
    double work(Index size) const { return 4.0 * sizeof(T) * (3 + 2 * static_cast<double>(slot_count())) * static_cast<double>(size); }
    virtual int slot_count() const = 0;
    // The slot that holds the weights to evaluate at; -1 when they are the parameters themselves.
    virtual int evaluation_slot() const { return -1; }
};

// Elements of partial results that squared_norm needs for a segment of this size.
Index norm_chunks(Index size);

// Squared norm of the transformed gradient (without `scale`), in fixed chunks summed by a fixed tree. `partial`: norm_chunks doubles.
template <class T>
double squared_norm(const Segment<T>& segment, double* partial);

template <class T>
const Registry<Optimizer<T>>& optimizer_registry();

}  // namespace fastopt
