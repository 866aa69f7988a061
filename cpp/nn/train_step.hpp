// One training step, and runs of them: gather -> forward -> loss value and gradient -> backward -> penalties, clipping, fused update.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "core/meeting.hpp"
#include "core/thread_choice.hpp"
#include "losses/loss.hpp"
#include "nn/data.hpp"
#include "nn/halves.hpp"
#include "nn/network.hpp"
#include "nn/next_batch.hpp"
#include "optimizers/optimizer.hpp"

namespace fastopt {

struct TrainOptions {
    double l1 = 0;
    double l2 = 0;
    double clip_norm = 0;   // 0: off
    double clip_value = 0;  // 0: off
    double ema = 0;         // 0: off
    Index accumulate = 1;   // micro-batches per update
};

// Steps that surely follow a step, with as many rows each, of the same data; nobody looks at the weights meanwhile. Their rows lie one
// behind the other in one order, and behind them those of one step more.
struct Ahead {
    Index steps = 0;
    const double* rates = nullptr;
};

template <class T>
class TrainStep {
   public:
    TrainStep(std::shared_ptr<Network<T>> network, std::shared_ptr<const Loss<T>> loss, std::shared_ptr<const Optimizer<T>> optimizer,
              const TrainOptions& options);

    Network<T>& network() const { return *network_; }
    const Loss<T>* loss() const { return loss_.get(); }
    const Optimizer<T>& optimizer() const { return *optimizer_; }
    Index t() const { return t_; }
    // Goes back or forth to after `t` updates; micro-batches that wait for the next one belong to no other.
    void set_t(Index t) {
        t_ = t;
        waiting_ = {0, 0};
    }
    // Micro-batches so far: those of all updates and those that wait for the next one.
    Index micro_steps() const { return t_ * options_.accumulate + static_cast<Index>(waiting_[1]); }
    // Of micro-batches that wait: the sum of their gradients, each times its weight; the sum of these weights, and their number.
    bool accumulates() const { return options_.accumulate > 1; }
    T* waiting_gradients() const { return accumulated_.data(); }
    std::array<double, 2>& waiting() { return waiting_; }
    T* slot(int index) const { return slots_[static_cast<std::size_t>(index)].data(); }
    std::vector<double>& scalars() { return scalars_; }
    T* average_parameters() const { return average_parameters_.data(); }
    T* average_buffers() const { return average_buffers_.data(); }
    bool has_averages() const { return options_.ema > 0; }
    void reset();

    // One step on these rows of `data`, or on so many first ones where they have no numbers. A loss that is not finite is returned, and
    // nothing else has changed, as when memory runs out. What the next step will take of the same data may be named, if the errand is
    // withdrawn before any other step, and how many rows follow in the same order.
    LossValue step(const Data<T>& data, const Rows& rows, double learning_rate, const Rows& next = {}, Index behind = 0,
                   const Ahead& ahead = {});
    // Whether that would be told anything by `ahead`.
    bool wants_ahead() const { return halves_ != nullptr && halves_ahead_ == 0; }
    // Gathering that next batch, for threads that wait; over before the data is.
    Errand& errand() { return next_batch_.errand(); }
    // Before the first batch of other rows, and before so many steps.
    void begin_run(Index steps) {
        forget_lost_call();
        widened_ = {};
        steps_left_ = steps;
    }
    // Weights and slots that are with the threads that own them come back to the flat buffers; after an error, else it is done at the end
    // of a run.
    void bring_home();
    // In a child that was forked in the middle of a call of another thread: what that thread was doing is over. Weights and slots are those
    // of the last step that ended, but for a step that was updating them.
    void forget_lost_call();
    // Update with the micro-batches that wait for more to come; false when none do.
    bool flush(double learning_rate);
    // Penalties, clipping and the update with what is in the network's gradients.
    void update(double learning_rate);
    double penalty();

    // Steps so far that went through in blocks of rows.
    Index steps_in_blocks() const { return steps_in_blocks_; }
    // Those in which two threads shared the first layers by units.
    Index steps_in_halves() const { return steps_in_halves_; }
    // Those in which they met once.
    Index steps_meeting_once() const { return steps_meeting_once_; }
    // Those of these whose last two layers were one pass.
    Index steps_with_one_output() const { return halves_ != nullptr && halves_->ends_in_one_output() ? steps_meeting_once_ : 0; }
    // Those that the second of them began before it was told.
    Index steps_begun_ahead() const { return halves_ == nullptr ? 0 : halves_->steps_begun_ahead(); }
    // Steps that made the calls of the step before again.
    Index steps_repeated() const { return network_->steps_repeated() + (halves_ == nullptr ? 0 : halves_->steps_repeated()); }

    // How many threads steps like these get.
    ThreadChoice& thread_choice() { return thread_choice_; }
    // Of steps in a run of so many that two threads may be faster with than one.
    double least_team_work(Index steps, Index rows) const;

    // Whether there are weights to evaluate at (an average) beside those in training.
    bool evaluates_averages() const { return has_averages() || optimizer_->evaluation_slot() >= 0; }
    // Exchange the weights in the network and those to evaluate at; false when they are the same.
    bool swap_evaluation_point();
    bool swapped() const { return swapped_; }

   private:
    // Neighbouring segments that are treated alike.
    struct Run {
        Index offset;
        Index size;
        double l1;
        double l2;
        bool decay;
        double multiplier;

        bool alike(const Run& other) const {
            return l1 == other.l1 && l2 == other.l2 && decay == other.decay && multiplier == other.multiplier;
        }
    };
    // What a thread updates of parameters that are treated alike: elements of the flat buffer, or of other memory.
    struct PartRun {
        Run run;
        std::vector<Range> parts;
    };

    struct Batch {
        const Data<T>* data = nullptr;
        const Index* order = nullptr;
        Index rows = 0;
        Rows next;
        bool gathered = false;
        Target<T> target;
        const T* weight = nullptr;
        double total_weight = 0;
        T* row_loss = nullptr;
        T* row_scale = nullptr;
    };

    // A step that two threads do in halves: what thread 0 tells the other, in one line and, for when it waits, another; the other keeps a
    // copy and may be a step behind.
    struct alignas(cache_line) HalfStep {
        TrainStep* self;
        const Data<T>* data;
        const Index* order;
        const T* row_scale;
        std::uint64_t turn;  // of the meeting for partial sums; unless they meet once, the one after it is for weights of a third layer
        double learning_rate;
        Index t;           // of the update
        bool gathered;     // as the next rows of the step before
        bool begins_next;  // whoever is through begins the next one without being told
        bool meets_once;   // for the partial sums alone
        alignas(cache_line) Rows next;
        const T* weight;
        const Batch* batch;  // of thread 0
        Ahead ahead;         // steps that the other thread does without being told of each
        void go_on() {
            turn += meetings_of_step;
            learning_rate = *ahead.rates++;
            --ahead.steps;
            ++t;
            gathered = true;
            next.go_on();
        }
        void operator()(int thread, int threads) { self->do_halves(*this, thread, threads); }
    };
    static constexpr std::uint64_t meetings_of_step = 2;  // at most

    enum class Verdict { unknown, update, leave };

    Run run_of(const SegmentInfo& info) const;
    void plan_runs();
    const Index* order_of(const Rows& rows, Index behind);
    Batch alike(const Data<T>& data, const Index* order, Index rows, const Rows& next) const;
    Batch prepare(const Data<T>& data, const Index* order, Index rows, Index held, const Rows& next);
    void gather_rows(const Batch& batch, Range rows, int thread);
    void loss_of_rows(const Batch& batch, Range rows, int thread);
    LossValue loss_of_batch(const Batch& batch);
    LossValue step_of(const Data<T>& data, const Rows& rows, double learning_rate, const Rows& next, Index behind, const Ahead& ahead);
    LossValue step_shared(const Batch& batch, double learning_rate);
    LossValue step_apart(const Batch& batch, int threads, double learning_rate);
    LossValue step_in_blocks(const Data<T>& data, const Index* order, Index rows, double learning_rate);
    void do_block(const Batch& batch, Range rows, Range place, T* gradients, int thread);
    bool may_take_halves(Index rows) const;
    bool takes_halves(Index rows);
    bool goes_on_in_halves(const Data<T>& data, Index rows);
    void let_halves_end();
    LossValue step_in_halves(const Batch& batch, double learning_rate, const Ahead& ahead);
    LossValue step_told_in_halves();
    LossValue whole_half();
    void tell_half_step(const Batch& batch, double learning_rate, const Ahead& ahead);
    void do_halves(HalfStep step, int thread, int threads);
    bool do_half_or_give_up(const HalfStep& step, int thread, int threads);
    bool do_half(const HalfStep& step, int thread, int threads);
    void loss_of_half(const HalfStep& step, int thread, Profile* laps);
    void update_halves(const HalfStep& step, const StepInfo& info, int thread, Profile* laps);
    bool updates_at_once() const { return options_.accumulate <= 1 && options_.clip_norm == 0 && !optimizer_->needs_norm(); }
    Segment<T> flat_memory() const;
    Segment<T> segment(const Run& run) const;
    void treat_as(const Run& run, Segment<T>& segment) const;
    double gradient_norm_squared();
    bool accumulate(double weight);
    void finish_accumulation();
    StepInfo info_of(Index t, double learning_rate, double norm_squared = 0);
    StepInfo begin_update(double learning_rate, double norm_squared);
    void apply(double learning_rate);
    void plan_parts(int threads);
    void plan_shares(const Shares& shares);
    void plan_halves();
    void add_part(std::vector<PartRun>& runs, const SegmentInfo& info, Range part) const;
    void update_parts(const StepInfo& info, const Segment<T>& memory, const std::vector<PartRun>& runs, double scale = 1);
    void update_half(const StepInfo& info, int thread, Index layer);
    void take_last_lines(int thread);
    void average();
    void move_averages();
    void check_training_point() const;

    std::shared_ptr<Network<T>> network_;
    std::shared_ptr<const Loss<T>> loss_;
    std::shared_ptr<const Optimizer<T>> optimizer_;
    TrainOptions options_;
    std::vector<Run> runs_;
    using StageParts = std::vector<std::vector<PartRun>>;
    std::vector<StageParts> parts_;  // by thread, when each has rows of its own, and stage
    StageParts shares_;              // by thread, when they share the products of each layer
    std::vector<Index> shares_of_;   // what these were planned for
    std::unique_ptr<Halves<T>> halves_;
    std::array<StageParts, 2> half_parts_;  // by thread, when they share the units, and layer
    std::vector<Buffer<T>> slots_;
    std::vector<double> scalars_;
    Buffer<T> average_parameters_;
    Buffer<T> average_buffers_;
    Buffer<T> accumulated_;
    std::array<double, 2> waiting_ = {0, 0};
    bool swapped_ = false;  // the network holds the evaluation point
    Buffer<double> partial_norms_;
    BatchTargets<T> targets_;
    NextBatch<T> next_batch_;
    Buffer<Index> batch_order_;
    Rows widened_;  // what it holds
    std::vector<T> weights_;
    Buffer<T> loss_scratch_;
    Buffer<T> group_gradients_;  // of each group of blocks
    Index scaled_rows_ = -1;     // rows whose scale it holds, when no row has a weight
    Meeting meeting_;
    HalfStep half_step_{};
    struct alignas(2 * cache_line) {
        StepInfo info;
        LossValue loss{0, 0};
        bool whole = false;  // no thread failed
    } half_;                 // by thread 0, after the meeting
    // What every step writes, apart from what the other threads read (see Network).
    alignas(2 * cache_line) Index t_ = 0;
    Index steps_left_ = 0;  // of a run, after the present one
    Index steps_in_blocks_ = 0;
    Index steps_in_halves_ = 0;
    Index steps_meeting_once_ = 0;
    std::uint32_t lost_calls_;
    Index halves_ahead_ = 0;           // that the other thread knows of
    bool gathered_in_halves_ = false;  // the rows of the next step, unless the weights come home before it
    ThreadChoice thread_choice_;
};

}  // namespace fastopt
