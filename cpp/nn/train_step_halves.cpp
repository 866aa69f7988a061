// Steps of a small network on two threads that share its first two layers by units (nn/halves.hpp).
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/threads.hpp"
#include "kernels/take_lines.hpp"
#include "nn/train_step.hpp"

namespace fastopt {

namespace {

// Steps of a run that pay for sending parameters and slots to their owners and bringing them home.
constexpr Index fewest_steps = 16;
// The layer that is updated last, and with it, where both threads keep the later ones too, all that a thread owns.
constexpr Index last_updated = 1;

}  // namespace

template <class T>
bool TrainStep<T>::may_take_halves(Index rows) const {
    return network_->in_halves(rows) && network_->trains_apart() && updates_at_once() && !has_averages() &&
           get_num_threads() == Halves<T>::threads;
}

template <class T>
double TrainStep<T>::least_team_work(Index steps, Index rows) const {
    return steps > fewest_steps && may_take_halves(rows) ? Halves<T>::least_work : ThreadChoice::surely_alone;
}

// The last step of a run goes another way, which leaves everything where others look for it: weights, gradients and outputs of layers.
template <class T>
bool TrainStep<T>::takes_halves(Index rows) {
    const bool possible = steps_left_ > 0 && may_take_halves(rows) && leads_team() && !is_alone();
    return possible && ((halves_ != nullptr && halves_->away()) || steps_left_ >= (cuts_small_work() ? 1 : fewest_steps));
}

// As the step before went, with nothing new to prepare: small networks feel that.
template <class T>
bool TrainStep<T>::goes_on_in_halves(const Data<T>& data, Index rows) {
    return halves_ != nullptr && halves_->away() && halves_->holds(data, rows) && data.weight == nullptr && rows == scaled_rows_ &&
           takes_halves(rows);
}

// The other thread may still read what a step of another kind changes first: scales of rows.
template <class T>
void TrainStep<T>::let_halves_end() {
    if (halves_ != nullptr && halves_->away()) {
        wait_for_others();
    }
}

template <class T>
void TrainStep<T>::bring_home() {
    halves_ahead_ = 0;
    if (halves_ == nullptr || !halves_->away()) {
        return;
    }
    gathered_in_halves_ = false;
    std::exception_ptr error;
    try {
        wait_for_others();
    } catch (...) {
        error = std::current_exception();
    }
    halves_->bring_home(slots_);
    if (error) {
        std::rethrow_exception(error);
    }
}

template <class T>
void TrainStep<T>::forget_lost_call() {
    const std::uint32_t lost = network_->mutex().lost_calls();
    if (lost == lost_calls_) {
        return;
    }
    lost_calls_ = lost;
    next_batch_.errand().forget();
    bring_home();
    halves_ = nullptr;
    for (StageParts& layers : half_parts_) {
        layers.clear();
    }
    scaled_rows_ = -1;
}

template <class T>
void TrainStep<T>::plan_halves() {
    auto halves = std::make_unique<Halves<T>>(*network_, loss_->wants_padding(network_->outputs()), loss_->passes_one_output());
    const std::vector<SegmentInfo>& segments = network_->parameter_layout().segments();
    for (int thread = 0; thread < Halves<T>::threads; ++thread) {
        StageParts& layers = half_parts_[static_cast<std::size_t>(thread)];
        layers.assign(static_cast<std::size_t>(halves->layers()), {});
        for (Index layer = 0; layer < halves->layers(); ++layer) {
            const auto when = static_cast<std::size_t>(halves->sends_all() ? last_updated : layer);
            for (const auto& own : halves->own(thread, layer)) {
                add_part(layers[when], segments[static_cast<std::size_t>(own.segment)], own.elements);
            }
        }
    }
    halves_ = std::move(halves);  // now that there was memory for all of it
}

template <class T>
void TrainStep<T>::update_half(const StepInfo& info, int thread, Index layer) {
    const std::vector<PartRun>& parts = half_parts_[static_cast<std::size_t>(thread)][static_cast<std::size_t>(layer)];
    if (!parts.empty()) {
        update_parts(info, halves_->sends(layer) ? halves_->own_memory(thread) : flat_memory(), parts);
    }
}

// Of the third layer what a thread updates next and the other has read.
template <class T>
void TrainStep<T>::take_last_lines(int thread) {
    const StageParts& layers = half_parts_[static_cast<std::size_t>(thread)];
    for (auto layer = static_cast<std::size_t>(halves_->sent_layers()); takes_lines_ahead && layer < layers.size(); ++layer) {
        for (const PartRun& run : layers[layer]) {
            for (const Range& part : run.parts) {
                take_lines(network_->parameters() + part.begin, part.size());
            }
        }
    }
}

template <class T>
LossValue TrainStep<T>::step_in_halves(const Batch& batch, double learning_rate, const Ahead& ahead) {
    half_.whole = false;
    tell_half_step(batch, learning_rate, ahead);
    parallel_ahead(Halves<T>::threads, half_step_);
    return whole_half();
}

// One that the other thread knows of: nothing has changed since it was told.
template <class T>
LossValue TrainStep<T>::step_told_in_halves() {
    --halves_ahead_;
    --steps_left_;
    network_->count_step();
    half_step_.go_on();
    half_.whole = false;
    const Alone alone;
    do_half_or_give_up(half_step_, 0, Halves<T>::threads);
    return whole_half();
}

template <class T>
LossValue TrainStep<T>::whole_half() {
    if (!half_.whole) {
        bring_home();  // throws what the other thread could not do
    }
    ++steps_in_halves_;
    steps_meeting_once_ += half_step_.meets_once ? 1 : 0;
    return half_.loss;
}

template <class T>
void TrainStep<T>::tell_half_step(const Batch& batch, double learning_rate, const Ahead& ahead) {
    if (halves_ == nullptr) {
        plan_halves();
    }
    if (!halves_->holds(*batch.data, batch.rows)) {
        wait_for_others();
        halves_->reserve(*batch.data, batch.rows);
        gathered_in_halves_ = false;
    }
    if (!halves_->away()) {
        halves_->send(slots_);
    }
    HalfStep& step = half_step_;  // the other thread has its copy of the one before
    step = {};
    step.self = this;
    step.data = batch.data;
    step.order = batch.order;
    step.row_scale = batch.row_scale;
    step.learning_rate = learning_rate;
    step.t = t_ + 1;
    step.gathered = std::exchange(gathered_in_halves_, false);
    step.weight = batch.weight;
    step.batch = &batch;
    if (halves_->takes_next(batch.next)) {
        // Where each thread has all weights that it reads, no rule moves scalars on, and nothing can fail: all calls are made again.
        step.meets_once = halves_->sends_all() && batch.weight == nullptr && scalars_.empty() && network_->profile() == nullptr &&
                          halves_->repeats(step.gathered);
        step.next = batch.next;
        step.begins_next = steps_left_ > 1;  // else it goes another way
        gathered_in_halves_ = true;
        if (step.meets_once && halves_->repeats_all()) {
            halves_ahead_ = std::max<Index>(0, std::min(steps_left_ - 2, ahead.steps));
            step.ahead = {halves_ahead_, ahead.rates};
        }
    }
    step.turn = meeting_.begin(meetings_of_step * static_cast<std::uint64_t>(1 + halves_ahead_));
}

// Thread 1 goes on as far as it has been told.
template <class T>
void TrainStep<T>::do_halves(HalfStep step, int thread, int threads) {
    while (do_half_or_give_up(step, thread, threads) && thread > 0 && step.ahead.steps > 0) {
        step.go_on();
    }
}

// A thread with an error leaves the others waiting for nothing.
template <class T>
bool TrainStep<T>::do_half_or_give_up(const HalfStep& step, int thread, int threads) {
    try {
        return do_half(step, thread, threads);
    } catch (...) {
        meeting_.give_up(step.turn + meetings_of_step * static_cast<std::uint64_t>(1 + step.ahead.steps) - 1, thread);
        throw;
    }
}

// One thread may be in the next step already, up to the meeting there, when the other is still busy with its updates, or where they meet
// once with all that follows their partial sums. Until that meeting neither writes what the other one reads: each begins with weights that
// it owns. False ends the steps that were told together.
template <class T>
bool TrainStep<T>::do_half(const HalfStep& step, int thread, int threads) {
    Halves<T>& halves = *halves_;
    Profile* laps = thread == 0 ? network_->profile() : nullptr;
    std::exception_ptr error =
        meeting_.arrive_after(step.turn, thread, [&] { halves.begin(thread, *step.data, step.order, step.gathered, laps); });
    const bool early = !error && meeting_.has_arrived(step.turn, 1 - thread);
    if (early) {
        halves.ask_for_sums(thread);  // they come while the next rows are gathered
    }
    if (!error && step.next.count > 0) {
        halves.gather_next(thread, *step.data, step.next, laps);
    }
    const bool begun = meeting_.wait(step.turn, threads);
    lap(laps, Phase::wait, 0, halves.rows());
    if (error) {
        std::rethrow_exception(error);
    }
    if (!begun) {
        return false;
    }
    if (!early) {
        halves.ask_for_sums(thread);
    }
    if (step.meets_once) {
        const bool one_pass = halves.ends_in_one_output();
        if (one_pass) {
            loss_->one_output(halves.one_output(thread, step.row_scale));
        } else {
            loss_of_half(step, thread, laps);
        }
        const double loss = mean_of_rows<T>(nullptr, static_cast<double>(halves.rows()), halves.rows(), halves.row_loss(thread)).value;
        if (thread == 0) {
            half_.loss = {loss, static_cast<double>(halves.rows())};
            half_.whole = true;
            t_ = std::isfinite(loss) ? step.t : t_;
        }
        if (!std::isfinite(loss)) {
            return false;
        }
        if (one_pass) {
            halves.backward_behind_one_output(thread);
        } else {
            halves.backward(thread, laps);
        }
        halves.weight_gradient(thread, 0, laps);
        update_halves(step, info_of(step.t, step.learning_rate), thread, laps);
        return true;
    }
    const std::uint64_t read = step.turn + 1;
    bool finite = false;
    error = meeting_.arrive_after(read, thread, [&] {
        loss_of_half(step, thread, laps);
        const Batch& batch = *step.batch;
        const LossValue loss = mean_of_rows(batch.weight, batch.total_weight, batch.rows, halves.row_loss(thread));
        finite = std::isfinite(loss.value);
        if (thread == 0) {
            half_.loss = loss;
            if (finite) {
                half_.info = begin_update(step.learning_rate, 0);
            }
        }
        if (finite) {
            halves.backward(thread, laps);
        }
    });
    if (error) {
        std::rethrow_exception(error);
    }
    if (finite) {
        halves.weight_gradient(thread, 0, laps);
    }
    // Nothing changes before both are sure of their part, and have read the weights of a third layer.
    const bool whole = meeting_.wait(read, threads);
    if (thread == 0) {
        half_.whole = whole;
    }
    if (whole && finite) {
        take_last_lines(thread);
        update_halves(step, half_.info, thread, laps);
    }
    return whole && finite;
}

template <class T>
void TrainStep<T>::loss_of_half(const HalfStep& step, int thread, Profile* laps) {
    Halves<T>& halves = *halves_;
    halves.forward(thread, laps);
    evaluate_rows<T>(*loss_, 0, halves.rows(), halves.output(thread), halves.target(thread), step.row_scale, halves.row_loss(thread),
                     halves.output_gradient(thread));
    clear_weightless<T>(step.weight, halves.output_gradient(thread));
    lap(laps, Phase::loss, 0, halves.rows());
}

// First what both may read: while a store waits until the other core gives up its line, those behind it wait as well, and at the end of a
// step the signal to begin the next one.
template <class T>
void TrainStep<T>::update_halves(const HalfStep& step, const StepInfo& info, int thread, Profile* laps) {
    Halves<T>& halves = *halves_;
    const auto update = [&](Index layer) {
        if (layer > 0) {
            halves.weight_gradient(thread, layer, laps);
        }
        update_half(info, thread, layer);
        lap(laps, Phase::update);
    };
    for (Index layer = halves.layers(); layer-- > 2;) {
        update(layer);
    }
    update(0);
    update(last_updated);
    halves.end(thread);
    if (step.begins_next && thread > 0) {
        halves.begin_ahead(thread);
    }
}

#define FASTOPT_INSTANTIATE(T)                                                           \
    template bool TrainStep<T>::may_take_halves(Index) const;                            \
    template double TrainStep<T>::least_team_work(Index, Index) const;                   \
    template bool TrainStep<T>::takes_halves(Index);                                     \
    template bool TrainStep<T>::goes_on_in_halves(const Data<T>&, Index);                \
    template void TrainStep<T>::let_halves_end();                                        \
    template void TrainStep<T>::bring_home();                                            \
    template void TrainStep<T>::forget_lost_call();                                      \
    template void TrainStep<T>::plan_halves();                                           \
    template void TrainStep<T>::update_half(const StepInfo&, int, Index);                \
    template void TrainStep<T>::take_last_lines(int);                                    \
    template LossValue TrainStep<T>::step_in_halves(const Batch&, double, const Ahead&); \
    template LossValue TrainStep<T>::step_told_in_halves();                              \
    template LossValue TrainStep<T>::whole_half();                                       \
    template void TrainStep<T>::tell_half_step(const Batch&, double, const Ahead&);      \
    template void TrainStep<T>::do_halves(HalfStep, int, int);                           \
    template bool TrainStep<T>::do_half_or_give_up(const HalfStep&, int, int);           \
    template bool TrainStep<T>::do_half(const HalfStep&, int, int);                      \
    template void TrainStep<T>::loss_of_half(const HalfStep&, int, Profile*);            \
    template void TrainStep<T>::update_halves(const HalfStep&, const StepInfo&, int, Profile*);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)
#undef FASTOPT_INSTANTIATE

}  // namespace fastopt
