// Steps of a small network on two threads that share its first two layers by units (nn/halves.hpp).
#include <algorithm>
#include <cmath>

#include "core/threads.hpp"
#include "nn/train_step.hpp"

namespace fastopt {

namespace {

// Steps of a run that pay for sending the first layer's weights to their owners and bringing them home.
constexpr Index fewest_steps = 16;

}  // namespace

// The last step of a run goes another way, which leaves everything where others look for it: weights, gradients and outputs of layers.
template <class T>
bool TrainStep<T>::takes_halves(Index rows) {
    const bool possible = steps_left_ > 0 && leads_team() && get_num_threads() == Halves<T>::threads && network_->in_halves(rows) &&
                          updates_at_once() && !has_averages();
    return possible && ((halves_ != nullptr && halves_->away()) || steps_left_ >= (cuts_small_work() ? 1 : fewest_steps));
}

template <class T>
void TrainStep<T>::bring_home() {
    if (halves_ != nullptr) {
        halves_->bring_home(slots_);
    }
}

template <class T>
void TrainStep<T>::plan_halves() {
    const std::vector<SegmentInfo>& segments = network_->parameter_layout().segments();
    first_weight_ = run_of(segments[static_cast<std::size_t>(halves_->first_weight_segment())]);
    for (int thread = 0; thread < Halves<T>::threads; ++thread) {
        StageParts& layers = half_parts_[static_cast<std::size_t>(thread)];
        layers.resize(static_cast<std::size_t>(network_->stages()));
        for (Index layer = 0; layer < network_->stages(); ++layer) {
            for (const auto& own : halves_->own(thread, layer)) {
                add_part(layers[static_cast<std::size_t>(layer)], segments[static_cast<std::size_t>(own.segment)], own.elements);
            }
        }
    }
}

template <class T>
void TrainStep<T>::update_half(const StepInfo& info, int thread, Index layer) {
    if (layer == 0) {
        Segment<T> weight = halves_->first_weight(thread);
        treat_as(first_weight_, weight);
        const Range all{0, weight.size};
        weight.parts = &all;
        weight.part_count = 1;
        optimizer_->update(info, weight);
    }
    update_parts(info, half_parts_[static_cast<std::size_t>(thread)][static_cast<std::size_t>(layer)]);
}

template <class T>
LossValue TrainStep<T>::step_in_halves(const Batch& batch, double learning_rate) {
    if (halves_ == nullptr) {
        halves_ = std::make_unique<Halves<T>>(*network_);
        plan_halves();
    }
    halves_->reserve(*batch.data, batch.rows);
    if (!halves_->away()) {
        halves_->send(slots_);
    }
    struct alignas(2 * cache_line) {
        StepInfo info;
        bool finite = false;
        LossValue loss{0, 0};
    } shared;  // by thread 0
    const std::uint64_t sums = meeting_.begin(2);
    // What thread 1 reads of this is in one line.
    alignas(cache_line) const auto body = [this, data = batch.data, order = batch.order, scale = batch.row_scale, sums, &batch, &shared,
                                           learning_rate](int thread, int all) {
        const std::uint64_t read = sums + 1;
        Halves<T>& halves = *halves_;
        Profile* laps = thread == 0 ? network_->profile() : nullptr;
        if (!meeting_.after(sums, thread, all, [&] { halves.begin(thread, *data, order, laps); })) {
            return;
        }
        lap(laps, Phase::wait, 0, halves.rows());
        const std::exception_ptr error = meeting_.arrive_after(read, thread, [&] {
            halves.forward(thread, laps);
            evaluate_rows<T>(*loss_, 0, halves.rows(), halves.output(thread), halves.target(thread), scale, halves.row_loss(thread),
                             halves.output_gradient(thread));
            if (thread == 0) {
                shared.loss =
                    mean_of_rows(batch.weight, batch.total_weight, batch.rows, halves.row_loss(0), halves.row_scratch(0));
                shared.finite = std::isfinite(shared.loss.value);
                if (shared.finite) {
                    shared.info = begin_update(learning_rate, 0);
                }
            }
            lap(laps, Phase::loss, 0, halves.rows());
            halves.backward(thread, laps);
        });
        if (error) {
            std::rethrow_exception(error);
        }
        for (Index layer = 0; layer < network_->stages(); ++layer) {
            halves.weight_gradient(thread, layer, laps);
            // Nothing changes before both are sure of their part, and have read the weights of the last layer.
            if (layer == 0 && !(meeting_.wait(read, all) && shared.finite)) {
                return;
            }
            update_half(shared.info, thread, layer);
            lap(laps, Phase::update);
        }
    };
    try {
        parallel(Halves<T>::threads, body);
    } catch (...) {
        bring_home();
        throw;
    }
    lap(network_->profile(), Phase::wait, 0, batch.rows);
    ++steps_in_halves_;
    return shared.loss;
}

#define FASTOPT_INSTANTIATE(T)                                                       \
    template bool TrainStep<T>::takes_halves(Index);                                 \
    template void TrainStep<T>::bring_home();                                        \
    template void TrainStep<T>::plan_halves();                                       \
    template void TrainStep<T>::update_half(const StepInfo&, int, Index);            \
    template LossValue TrainStep<T>::step_in_halves(const Batch&, double);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
