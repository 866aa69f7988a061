// TrainStep: from gradients to weights. Which parameters are treated alike, and by which thread; accumulation, clipping, the fused update,
// averages and penalties.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/threads.hpp"
#include "nn/train_step.hpp"

namespace fastopt {

namespace {

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

#define FASTOPT_INSTANTIATE(T)                                                                                         \
    template TrainStep<T>::Run TrainStep<T>::run_of(const SegmentInfo&) const;                                         \
    template void TrainStep<T>::plan_runs();                                                                           \
    template void TrainStep<T>::plan_parts(int);                                                                       \
    template void TrainStep<T>::plan_shares(const Shares&);                                                            \
    template void TrainStep<T>::add_part(std::vector<PartRun>&, const SegmentInfo&, Range) const;                      \
    template bool TrainStep<T>::accumulate(double);                                                                    \
    template void TrainStep<T>::finish_accumulation();                                                                 \
    template bool TrainStep<T>::flush(double);                                                                         \
    template Segment<T> TrainStep<T>::flat_memory() const;                                                             \
    template Segment<T> TrainStep<T>::segment(const Run&) const;                                                       \
    template void TrainStep<T>::treat_as(const Run&, Segment<T>&) const;                                               \
    template double TrainStep<T>::gradient_norm_squared();                                                             \
    template void TrainStep<T>::update(double);                                                                        \
    template StepInfo TrainStep<T>::info_of(Index, double, double);                                                    \
    template StepInfo TrainStep<T>::begin_update(double, double);                                                      \
    template void TrainStep<T>::apply(double);                                                                         \
    template void TrainStep<T>::update_parts(const StepInfo&, const Segment<T>&, const std::vector<PartRun>&, double); \
    template void TrainStep<T>::average();                                                                             \
    template void TrainStep<T>::move_averages();                                                                       \
    template double TrainStep<T>::penalty();                                                                           \
    template void TrainStep<T>::check_training_point() const;                                                          \
    template bool TrainStep<T>::swap_evaluation_point();
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)
#undef FASTOPT_INSTANTIATE

}  // namespace fastopt
