#include "nn/train_step.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "core/threads.hpp"

namespace fastopt {

namespace {

// Rows of an order that are widened at once. In each step alone these would be stores to lines that other threads have read.
constexpr Index widened_rows = 4096;

}  // namespace

template <class T>
TrainStep<T>::TrainStep(std::shared_ptr<Network<T>> network, std::shared_ptr<const Loss<T>> loss,
                        std::shared_ptr<const Optimizer<T>> optimizer, const TrainOptions& options)
    : network_(std::move(network)),
      loss_(std::move(loss)),
      optimizer_(std::move(optimizer)),
      options_(options),
      lost_calls_(network_->mutex().lost_calls()) {
    if (loss_ != nullptr) {
        loss_->check_outputs(network_->outputs());
    }
    plan_runs();
    const Index total = network_->parameter_layout().total();
    for (std::size_t s = 0; s < optimizer_->slot_names().size(); ++s) {
        slots_.emplace_back(total);
    }
    if (options_.ema > 0) {
        average_parameters_ = Buffer<T>(total);
        average_buffers_ = Buffer<T>(network_->buffer_layout().total());
    }
    if (options_.accumulate > 1) {
        accumulated_ = Buffer<T>(total);
    }
    Index chunks = 0;
    for (const Run& run : runs_) {
        chunks = std::max(chunks, norm_chunks(run.size));
    }
    partial_norms_ = Buffer<double>(chunks);
    reset();
}

template <class T>
void TrainStep<T>::reset() {
    t_ = 0;
    const std::vector<double> initial = optimizer_->initial_scalars();
    scalars_.assign(initial.begin(), initial.end());  // in place: others look at this memory
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        std::fill(slots_[s].data(), slots_[s].data() + slots_[s].size(), static_cast<T>(optimizer_->initial_slot(static_cast<int>(s))));
    }
    std::fill(average_parameters_.data(), average_parameters_.data() + average_parameters_.size(), T(0));
    std::fill(average_buffers_.data(), average_buffers_.data() + average_buffers_.size(), T(0));
    waiting_ = {0, 0};
}

template <class T>
LossValue TrainStep<T>::step(const Data<T>& data, const Rows& rows, double learning_rate, const Rows& next, Index behind,
                             const Ahead& ahead) {
    const std::uint64_t before = network_->training_step();
    try {
        const LossValue loss = halves_ahead_ > 0 ? step_told_in_halves() : step_of(data, rows, learning_rate, next, behind, ahead);
        if (!std::isfinite(loss.value)) {
            bring_home();
            network_->undo_forward();
        }
        return loss;
    } catch (...) {  // memory ran out
        if (network_->training_step() != before) {
            network_->undo_forward();
        }
        throw;
    }
}

template <class T>
LossValue TrainStep<T>::step_of(const Data<T>& data, const Rows& rows, double learning_rate, const Rows& next, Index behind,
                                const Ahead& ahead) {
    check(loss_ != nullptr, "this trainer has a loss written in Python");
    check_training_point();
    steps_left_ = std::max<Index>(steps_left_ - 1, 0);
    if (goes_on_in_halves(data, rows.count)) {
        network_->count_step();
        const Index* order = gathered_in_halves_ ? nullptr : order_of(rows, behind);
        return step_in_halves(alike(data, order, rows.count, next), learning_rate, ahead);
    }
    let_halves_end();
    if (network_->in_blocks(rows.count)) {
        bring_home();
        return step_in_blocks(data, order_of(rows, behind), rows.count, learning_rate);
    }
    const Batch batch = prepare(data, order_of(rows, behind), rows.count, rows.count, next);
    const int threads = network_->begin_step(rows.count);
    if (takes_halves(rows.count)) {
        return step_in_halves(batch, learning_rate, ahead);
    }
    bring_home();
    return threads > 1 ? step_apart(batch, threads, learning_rate) : step_shared(batch, learning_rate);
}

// The loss of rows of a batch, which are gathered, and its gradient.
template <class T>
void TrainStep<T>::loss_of_rows(const Batch& batch, Range rows, int thread) {
    Profile* profile = thread == 0 ? network_->profile() : nullptr;
    network_->forward_rows(rows, thread);
    evaluate_rows<T>(*loss_, rows.begin, rows.end, network_->output(), batch.target, batch.row_scale, batch.row_loss,
                     network_->output_gradient(batch.rows));
    clear_weightless<T>(batch.weight == nullptr ? nullptr : batch.weight + rows.begin,
                        network_->output_gradient(batch.rows).row_range(rows.begin, rows.size()));
    lap(profile, Phase::loss, 0, batch.rows);
}

template <class T>
LossValue TrainStep<T>::loss_of_batch(const Batch& batch) {
    return mean_of_rows(batch.weight, batch.total_weight, batch.rows, batch.row_loss);
}

// One layer after the other; threads share its products.
template <class T>
LossValue TrainStep<T>::step_shared(const Batch& batch, double learning_rate) {
    const Range all{0, batch.rows};
    if (batch.gathered) {
        lap(network_->profile(), Phase::gather);
    } else {
        gather_rows(batch, all, 0);
    }
    if (NextBatch<T>::wants(*batch.data, batch.next.count) && !network_->in_blocks(batch.next.count) && leads_team()) {
        next_batch_.begin(*batch.data, batch.next, std::max(network_->capacity(), batch.next.count));
    }
    loss_of_rows(batch, all, 0);
    const LossValue loss = loss_of_batch(batch);
    if (std::isfinite(loss.value)) {
        network_->backward(false);
        if (accumulate(loss.weight)) {
            apply(learning_rate);
        }
    }
    return loss;
}

// Each thread takes rows of its own through all layers and back. When all have, it takes its part of every weight gradient and updates
// what that is of while both are in L1, unless the update depends on all of them.
template <class T>
LossValue TrainStep<T>::step_apart(const Batch& batch, int threads, double learning_rate) {
    const bool at_once = updates_at_once();
    Profile* profile = network_->profile();
    struct {
        LossValue loss{0, 0};
        StepInfo info;
        std::atomic<Verdict> verdict{Verdict::unknown};
    } shared;  // by thread 0, after the meeting
    const auto begin = [this, learning_rate, at_once, &shared](int all) {
        if (parts_.size() != static_cast<std::size_t>(all)) {  // fewer threads than asked for may have come
            plan_parts(all);
        }
        if (at_once) {
            shared.info = begin_update(learning_rate, 0);
        }
    };
    const std::uint64_t turn = meeting_.begin();
    parallel(threads, [this, batch, at_once, profile, turn, &shared, &begin](int thread, int all) {
        Profile* laps = thread == 0 ? profile : nullptr;
        const bool whole = meeting_.after(turn, thread, all, [&] {
            const Range mine = share(batch.rows, thread, all, Network<T>::row_grain);
            gather_rows(batch, mine, thread);
            loss_of_rows(batch, mine, thread);
            network_->backward_rows(mine, thread);
        });
        if (!whole) {
            return;
        }
        lap(laps, Phase::wait, 0, batch.rows);
        const LossValue loss = loss_of_batch(batch);  // by each: it takes no longer than to wait for one of them
        if (thread == 0) {
            shared.loss = loss;
        }
        if (!std::isfinite(loss.value)) {
            return;
        }
        if (thread == 0) {
            try {
                begin(all);
            } catch (...) {
                shared.verdict.store(Verdict::leave, std::memory_order_release);
                throw;
            }
            shared.verdict.store(Verdict::update, std::memory_order_release);
        }
        const Part part{thread, all, at_once};
        const auto verdict = [&shared] {
            Verdict found = Verdict::unknown;
            wait_until([&] { return (found = shared.verdict.load(std::memory_order_acquire)) != Verdict::unknown; }, [] {});
            return found;
        };
        for (Index stage = network_->stages(); stage-- > 0;) {
            if (!network_->weight_gradient(stage, part) || !at_once) {
                continue;
            }
            if (verdict() == Verdict::update) {
                update_parts(shared.info, flat_memory(), parts_[static_cast<std::size_t>(thread)][static_cast<std::size_t>(stage)]);
            }
            lap(laps, Phase::update);
        }
    });
    lap(profile, Phase::wait, 0, batch.rows);
    if (std::isfinite(shared.loss.value)) {
        if (at_once) {
            average();
        } else if (accumulate(shared.loss.weight)) {
            apply(learning_rate);
        }
    }
    return shared.loss;
}

// Short numbers are widened, some thousand at a time, into memory that lasts until the next call.
template <class T>
const Index* TrainStep<T>::order_of(const Rows& rows, Index behind) {
    if (rows.narrow == nullptr) {
        return rows.wide;
    }
    const std::int32_t* const known = widened_.narrow;
    if (known == nullptr || rows.narrow < known || rows.narrow + rows.count > known + widened_.count) {
        widened_ = {rows.narrow, rows.count + std::min(behind, std::max<Index>(0, widened_rows - rows.count))};
        batch_order_.reserve(widened_.count);
        widened_.copy_to(batch_order_.data());
    }
    return batch_order_.data() + (rows.narrow - widened_.narrow);
}

// A batch of as many rows as the one before, of which none has a weight.
template <class T>
typename TrainStep<T>::Batch TrainStep<T>::alike(const Data<T>& data, const Index* order, Index rows, const Rows& next) const {
    Batch batch;
    batch.data = &data;
    batch.order = order;
    batch.rows = rows;
    batch.next = next;
    batch.total_weight = static_cast<double>(rows);
    batch.row_loss = loss_scratch_.data();
    batch.row_scale = loss_scratch_.data() + rows;
    return batch;
}

// What a step needs in memory, of which inputs and targets are for `held` rows at once, and what belongs to no single row.
template <class T>
typename TrainStep<T>::Batch TrainStep<T>::prepare(const Data<T>& data, const Index* order, Index rows, Index held, const Rows& next) {
    network_->input(held);
    if (2 * rows > loss_scratch_.size()) {
        scaled_rows_ = -1;
        loss_scratch_.reserve(2 * rows);
    }
    Batch batch = alike(data, order, rows, next);
    batch.gathered = next_batch_.finish();
    if (batch.gathered) {
        network_->exchange_input(next_batch_.inputs());
        std::swap(targets_, next_batch_.targets());
    }
    batch.target = targets_.reserve(data, held);
    batch.weight = data.weight;
    if (data.weight != nullptr && order != nullptr) {
        weights_.resize(static_cast<std::size_t>(rows));
        for (Index i = 0; i < rows; ++i) {
            weights_[static_cast<std::size_t>(i)] = data.weight[order[i]];
        }
        batch.weight = weights_.data();
    }
    if (batch.weight != nullptr || rows != scaled_rows_) {
        batch.total_weight = scale_rows(batch.weight, rows, batch.row_scale);
        scaled_rows_ = batch.weight == nullptr ? rows : -1;
    }
    return batch;
}

template <class T>
void TrainStep<T>::gather_rows(const Batch& batch, Range rows, int thread) {
    const Range inputs = network_->input_rows(rows);
    const Index* first = batch.order == nullptr ? nullptr : batch.order + inputs.begin;
    gather<T>(batch.data->x, first, inputs.begin, network_->input_of(thread).row_range(inputs.begin, inputs.size()));
    targets_.gather_rows(*batch.data, batch.order, rows);
    lap(thread == 0 ? network_->profile() : nullptr, Phase::gather, 0, batch.rows);
}

template class TrainStep<float>;
template class TrainStep<double>;

}  // namespace fastopt
