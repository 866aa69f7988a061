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
// Threads whose shares of so many items are what they were have nothing to plan anew.
constexpr Index finest_share = 1024;
// Of a weight, for each thread: of fewer some would get many more than others.
constexpr Index fewest_rows = 16;

template <class T>
void swap(T* a, T* b, Index count) {
    parallel_for(count, line_elements<T>, 4.0 * static_cast<double>(count),
                 [=](Index begin, Index end) { std::swap_ranges(a + begin, a + end, b + begin); });
}

// to = keep to + share from
template <class T>
void mix(T* to, T keep, const T* from, T share, Index count) {
    parallel_for(count, line_elements<T>, 4.0 * static_cast<double>(count), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            to[i] = keep * to[i] + share * from[i];
        }
    });
}

// A share of the way to `goal`, and there with all of it. What has arrived stays: the average of a constant is this constant.
template <class T>
void approach(T* value, const T* goal, T share, Index count) {
    parallel_for(count, line_elements<T>, 4.0 * static_cast<double>(count), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            value[i] = share == T(1) ? goal[i] : value[i] + share * (goal[i] - value[i]);
        }
    });
}

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
typename TrainStep<T>::Run TrainStep<T>::run_of(const SegmentInfo& info) const {
    return {info.offset,
            info.size,
            info.weight ? info.l1 + options_.l1 : 0,
            info.weight ? info.l2 + options_.l2 : 0,
            info.weight || optimizer_->decays_alike(),
            info.multiplier};
}

template <class T>
void TrainStep<T>::plan_runs() {
    for (const SegmentInfo& info : network_->parameter_layout().segments()) {
        if (!info.trainable) {
            continue;
        }
        const Run run = run_of(info);
        if (!runs_.empty()) {
            Run& last = runs_.back();
            const bool adjacent = round_up(last.offset + last.size, line_elements<T>) == run.offset;
            if (adjacent && last.alike(run)) {
                last.size = run.offset + run.size - last.offset;
                continue;
            }
        }
        runs_.push_back(run);
    }
}

// One update for all of a stage that are treated alike: what a rule works out before its loop takes as long as a few hundred parameters.
template <class T>
void TrainStep<T>::plan_parts(int threads) {
    const std::vector<SegmentInfo>& segments = network_->parameter_layout().segments();
    std::vector<StageParts> planned(static_cast<std::size_t>(threads), StageParts(static_cast<std::size_t>(network_->stages())));
    for (int thread = 0; thread < threads; ++thread) {
        for (Index stage = 0; stage < network_->stages(); ++stage) {
            std::vector<PartRun>& runs = planned[static_cast<std::size_t>(thread)][static_cast<std::size_t>(stage)];
            const Range own = network_->segments_of(stage);
            for (Index s = own.begin; s < own.end; ++s) {
                const SegmentInfo& info = segments[static_cast<std::size_t>(s)];
                const Range rows = Part{thread, threads}.template of<T>(info.shape[0], info.turn);
                const Index each = info.size / info.shape[0];
                if (info.trainable && !rows.empty()) {
                    add_part(runs, info, {info.offset + rows.begin * each, info.offset + rows.end * each});
                }
            }
        }
    }
    parts_ = std::move(planned);
}

// Of each weight the rows whose gradients a thread computed: these are in its own cache, and the slots stay in that of the thread that
// needs them. Where each core has an L3 of its own, gradients whose lines another thread read in the update before took a quarter longer:
// whoever writes a line must first get it back.
template <class T>
void TrainStep<T>::plan_shares(const Shares& shares) {
    const auto threads = static_cast<std::size_t>(shares.threads());
    const auto end_of = [&shares](std::size_t thread) { return shares.of_row(finest_share, static_cast<int>(thread)).end; };
    bool known = shares_of_.size() == threads;
    for (std::size_t thread = 0; thread < threads && known; ++thread) {
        known = shares_of_[thread] == end_of(thread);
    }
    if (known) {
        return;
    }
    shares_of_.clear();  // until there is memory for all of them
    shares_.resize(threads);
    for (std::size_t thread = 0; thread < threads; ++thread) {
        std::vector<PartRun>& runs = shares_[thread];
        for (PartRun& run : runs) {
            run.parts.clear();  // their memory stays
        }
        for (const SegmentInfo& info : network_->parameter_layout().segments()) {
            const bool by_rows = info.shape[0] >= fewest_rows * shares.threads();
            const Index items = by_rows ? info.shape[0] : info.size;
            const Index each = info.size / items;
            const Index grain = each % line_elements<T> == 0 ? 1 : line_elements<T>;
            const Range own = shares.of_row(items, static_cast<int>(thread), grain);
            if (info.trainable && !own.empty()) {
                add_part(runs, info, {info.offset + own.begin * each, info.offset + own.end * each});
            }
        }
    }
    for (std::size_t thread = 0; thread < threads; ++thread) {
        shares_of_.push_back(end_of(thread));
    }
}

// Elements of a segment join the run of those that are treated alike.
template <class T>
void TrainStep<T>::add_part(std::vector<PartRun>& runs, const SegmentInfo& info, Range part) const {
    const Run run = run_of(info);
    const auto known = std::find_if(runs.begin(), runs.end(), [&](const PartRun& other) { return other.run.alike(run); });
    if (known == runs.end()) {
        runs.push_back({run, {part}});
    } else if (!known->parts.empty() && round_up(known->parts.back().end, line_elements<T>) == part.begin) {
        known->parts.back().end = part.end;
    } else {
        known->parts.push_back(part);
    }
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

// Collect micro-batches, each weighing as much as its rows; true when the gradients are ready for an update.
template <class T>
bool TrainStep<T>::accumulate(double weight) {
    if (options_.accumulate <= 1) {
        return true;
    }
    const Index total = network_->parameter_layout().total();
    auto& [weights, count] = waiting_;
    if (count == 0) {
        std::fill(accumulated_.data(), accumulated_.data() + total, T(0));
        weights = 0;
    }
    mix(accumulated_.data(), T(1), network_->gradients(), static_cast<T>(weight), total);
    weights += weight;
    const bool complete = ++count >= static_cast<double>(options_.accumulate);
    if (complete) {
        finish_accumulation();
    }
    lap(network_->profile(), Phase::accumulate);
    return complete;
}

template <class T>
void TrainStep<T>::finish_accumulation() {
    const double inverse = waiting_[0] > 0 ? 1 / waiting_[0] : 0;
    waiting_ = {0, 0};
    mix(network_->gradients(), T(0), accumulated_.data(), static_cast<T>(inverse), network_->parameter_layout().total());
}

template <class T>
bool TrainStep<T>::flush(double learning_rate) {
    if (waiting_[1] == 0) {
        return false;
    }
    finish_accumulation();
    apply(learning_rate);
    return true;
}

template <class T>
Segment<T> TrainStep<T>::flat_memory() const {
    Segment<T> out;
    out.w = network_->parameters();
    out.g = network_->gradients();
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        out.slots[s] = slots_[s].data();
    }
    out.size = network_->parameter_layout().total();
    return out;
}

template <class T>
Segment<T> TrainStep<T>::segment(const Run& run) const {
    Segment<T> out = flat_memory();
    out.w += run.offset;
    out.g += run.offset;
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        out.slots[s] += run.offset;
    }
    out.size = run.size;
    treat_as(run, out);
    return out;
}

template <class T>
void TrainStep<T>::treat_as(const Run& run, Segment<T>& segment) const {
    segment.multiplier = run.multiplier;
    segment.decay = run.decay;
    segment.transform = {run.l1, run.l2, options_.clip_value, 1};
}

template <class T>
double TrainStep<T>::gradient_norm_squared() {
    double sum = 0;
    for (const Run& run : runs_) {
        sum += squared_norm(segment(run), partial_norms_.data());
    }
    return sum;
}

template <class T>
void TrainStep<T>::update(double learning_rate) {
    check_training_point();
    apply(learning_rate);
}

template <class T>
StepInfo TrainStep<T>::info_of(Index t, double learning_rate, double norm_squared) {
    StepInfo info{t, learning_rate, scalars_.data(), norm_squared};
    optimizer_->begin(info);
    return info;
}

template <class T>
StepInfo TrainStep<T>::begin_update(double learning_rate, double norm_squared) {
    return info_of(++t_, learning_rate, norm_squared);
}

template <class T>
void TrainStep<T>::apply(double learning_rate) {
    Profile* profile = network_->profile();
    double scale = 1;
    double norm_squared = 0;
    if (options_.clip_norm > 0 || optimizer_->needs_norm()) {
        norm_squared = gradient_norm_squared();
        if (options_.clip_norm > 0) {
            scale = std::min(1.0, options_.clip_norm / (std::sqrt(norm_squared) + 1e-6));
            norm_squared *= scale * scale;
        }
        lap(profile, Phase::norm);
    }
    const double work = optimizer_->work(network_->parameter_layout().total());
    if (const int threads = threads_for(work); threads > 1) {
        const Shares shares(Bound::arithmetic, threads, 1, work);
        plan_shares(shares);
        const StepInfo info = begin_update(learning_rate, norm_squared);
        parallel(threads, [&](int thread, int count) {
            for (int part = thread; part < threads; part += count) {  // fewer may come than asked for
                update_parts(info, flat_memory(), shares_[static_cast<std::size_t>(part)], scale);
            }
        });
    } else {
        const StepInfo info = begin_update(learning_rate, norm_squared);
        for (const Run& run : runs_) {
            Segment<T> part = segment(run);
            part.transform.scale = scale;
            optimizer_->update(info, part);
        }
    }
    lap(profile, Phase::update);
    average();
}

template <class T>
void TrainStep<T>::update_parts(const StepInfo& info, const Segment<T>& memory, const std::vector<PartRun>& runs, double scale) {
    for (const PartRun& mine : runs) {
        if (mine.parts.empty()) {
            continue;
        }
        Segment<T> part = memory;
        treat_as(mine.run, part);
        part.transform.scale = scale;
        part.parts = mine.parts.data();
        part.part_count = static_cast<Index>(mine.parts.size());
        optimizer_->update(info, part);
    }
}

template <class T>
void TrainStep<T>::average() {
    if (options_.ema > 0) {
        move_averages();
        lap(network_->profile(), Phase::average);
    }
}

// The first update starts the average; before it there is nothing worth averaging.
template <class T>
void TrainStep<T>::move_averages() {
    const T share = t_ == 1 ? T(1) : static_cast<T>(1 - options_.ema);
    approach(average_parameters_.data(), network_->parameters(), share, average_parameters_.size());
    approach(average_buffers_.data(), network_->buffers(), share, average_buffers_.size());
}

template <class T>
double TrainStep<T>::penalty() {
    bring_home();
    double sum = 0;
    for (const Run& run : runs_) {
        if (run.l1 == 0 && run.l2 == 0) {
            continue;
        }
        const T* w = network_->parameters() + run.offset;
        double absolute = 0;
        double square = 0;
        for (Index i = 0; i < run.size; ++i) {
            const auto value = static_cast<double>(w[i]);
            absolute += std::abs(value);
            square += value * value;
        }
        sum += (run.l1 > 0 ? run.l1 * absolute : 0) + (run.l2 > 0 ? run.l2 * square : 0);  // the other may be infinite
    }
    return sum;
}

template <class T>
void TrainStep<T>::check_training_point() const {
    check(!swapped_, "the network holds the weights to evaluate at; training goes on when that ends");
}

// The average and the weights change places, so that evaluation needs no third copy; twice is back to the bit.
template <class T>
bool TrainStep<T>::swap_evaluation_point() {
    if (t_ == 0) {
        return false;
    }
    if (options_.ema > 0) {
        swap(network_->parameters(), average_parameters_.data(), average_parameters_.size());
        swap(network_->buffers(), average_buffers_.data(), average_buffers_.size());
        swapped_ = !swapped_;
        return true;
    }
    if (const int slot = optimizer_->evaluation_slot(); slot >= 0) {
        for (const Run& run : runs_) {
            swap(network_->parameters() + run.offset, slots_[static_cast<std::size_t>(slot)].data() + run.offset, run.size);
        }
        swapped_ = !swapped_;
        return true;
    }
    return false;
}

template class TrainStep<float>;
template class TrainStep<double>;

}  // namespace fastopt
