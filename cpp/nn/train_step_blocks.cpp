// Steps on a large batch of a small network, in blocks of rows (nn/row_blocks.hpp).
#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/threads.hpp"
#include "nn/train_step.hpp"

namespace fastopt {

namespace {

// Work between two looks for a user's interrupt, in the unit of threads_for: some 10 ms of a thread.
constexpr double work_between_looks = 1e9;

// out = the sum of `groups` rows of `count` elements, in their order.
template <class T>
void add_groups(const T* rows, Index groups, Index count, T* out) {
    parallel_for(count, line_elements<T>, 4.0 * static_cast<double>(groups * count), [=](Index begin, Index end) {
        std::copy(rows + begin, rows + end, out + begin);
        for (Index g = 1; g < groups; ++g) {
            const T* const row = rows + g * count;
            for (Index i = begin; i < end; ++i) {
                out[i] += row[i];
            }
        }
    });
}

// Its end comes however it ends.
template <class T>
class InBlocks {
   public:
    InBlocks(Network<T>& network, const RowBlocks& blocks, int threads) : network_(network) {
        network_.begin_blocks(blocks, threads);
        if (Profile* profile = network_.profile()) {
            profile->begin_parts(blocks.rows);
        }
    }
    InBlocks(const InBlocks&) = delete;
    InBlocks& operator=(const InBlocks&) = delete;
    ~InBlocks() {
        end_parts();
        network_.end_blocks(made_);
    }
    void end_parts() {
        if (Profile* profile = network_.profile()) {
            profile->end_parts();
        }
    }
    void was_made() { made_ = true; }

   private:
    Network<T>& network_;
    bool made_ = false;
};

}  // namespace

// `rows` of the batch, in the place of a thread in what the network keeps, forward, back, and to `gradients`.
template <class T>
void TrainStep<T>::do_block(const Batch& batch, Range rows, Range place, T* gradients, int thread) {
    Profile* profile = thread == 0 ? network_->profile() : nullptr;
    const auto mine = [&](const auto& m) { return m.row_range(place.begin, place.size()); };
    const Index* const order = batch.order == nullptr ? nullptr : batch.order + rows.begin;
    gather<T>(batch.data->x, order, rows.begin, mine(network_->input_of(thread)));
    targets_.gather_rows(*batch.data, batch.order, rows, place.begin);
    lap(profile, Phase::gather);
    network_->forward_block(place, rows.begin, thread);
    Target<T> target = batch.target;
    target.dense = target.dense.data == nullptr ? target.dense : mine(target.dense);
    target.classes += target.classes == nullptr ? 0 : place.begin;
    const Matrix<T> gradient = mine(network_->output_gradient(place.end));
    evaluate_rows<T>(*loss_, 0, rows.size(), mine(network_->output()), target, batch.row_scale + rows.begin, batch.row_loss + rows.begin,
                     gradient);
    clear_weightless<T>(batch.weight == nullptr ? nullptr : batch.weight + rows.begin, gradient);
    lap(profile, Phase::loss);
    network_->backward_rows(place, thread);
    network_->add_weight_gradients(place, gradients, thread);
}

template <class T>
LossValue TrainStep<T>::step_in_blocks(const Data<T>& data, const Index* order, Index rows, double learning_rate) {
    const RowBlocks blocks = network_->blocks_of(rows);
    const Index total = network_->parameter_layout().total();
    const double work = network_->work_in_blocks(rows);
    const int threads = static_cast<int>(std::min<Index>(threads_for(work), RowBlocks::groups));
    const Index at_once = std::clamp<Index>(static_cast<Index>(work_between_looks * threads / work * static_cast<double>(blocks.blocks)), 1,
                                            blocks.blocks);  // blocks of each group
    group_gradients_.reserve(RowBlocks::groups * total);
    const Batch batch = prepare(data, order, rows, threads * blocks.block, {});
    InBlocks<T> step(*network_, blocks, threads);
    for (Index first = 0; first < blocks.blocks; first += at_once) {
        if (first > 0) {
            network_->look();
        }
        // The first groups belong to threads, of which fewer than asked for may come. Then who is through with one takes the next.
        std::atomic<Index> next{threads};
        parallel(threads, [&](int thread, int all) {
            for (Index g = thread; g < RowBlocks::groups; g = g + all < threads ? g + all : next.fetch_add(1, std::memory_order_relaxed)) {
                T* const gradients = group_gradients_.data() + g * total;
                if (first == 0) {
                    std::fill(gradients, gradients + total, T(0));
                }
                for (Index b = first; b < std::min(first + at_once, blocks.blocks); ++b) {
                    const Range part = blocks.of(g, b);
                    if (!part.empty()) {
                        do_block(batch, part, {thread * blocks.block, thread * blocks.block + part.size()}, gradients, thread);
                    }
                }
            }
        });
        if (threads > 1) {
            lap(network_->profile(), Phase::wait);
        }
    }
    step.end_parts();
    const LossValue loss = loss_of_batch(batch);
    if (std::isfinite(loss.value)) {
        add_groups(group_gradients_.data(), RowBlocks::groups, total, network_->gradients());
        if (accumulate(loss.weight)) {
            apply(learning_rate);
        }
        ++steps_in_blocks_;
        step.was_made();
    }
    return loss;
}

#define FASTOPT_INSTANTIATE(T)                                                 \
    template void TrainStep<T>::do_block(const Batch&, Range, Range, T*, int); \
    template LossValue TrainStep<T>::step_in_blocks(const Data<T>&, const Index*, Index, double);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)
#undef FASTOPT_INSTANTIATE

}  // namespace fastopt
