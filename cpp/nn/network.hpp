// A stack of layers with flat parameters, gradients and statistics, and the workspace of its activations.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/aligned.hpp"
#include "core/sole_use.hpp"
#include "core/thread_choice.hpp"
#include "core/threads.hpp"
#include "nn/layer.hpp"
#include "nn/row_blocks.hpp"
#include "nn/step_tapes.hpp"

namespace fastopt {

using LayerSpec = std::pair<std::string, Config>;

template <class T>
class Network {
   public:
    // `precision` is that of the dense products in training and inference; second order (nn/second_order.hpp) always computes in full.
    Network(Index inputs, const std::vector<LayerSpec>& specs, std::uint64_t seed, Precision precision = Precision::full);

    Index inputs() const { return inputs_; }
    Index outputs() const { return outputs_; }
    const Layout<T>& parameter_layout() const { return parameter_layout_; }
    const Layout<T>& buffer_layout() const { return buffer_layout_; }
    T* parameters() const { return parameters_.data(); }
    T* gradients() const { return gradients_.data(); }
    T* buffers() const { return buffers_.data(); }
    std::vector<LayerInfo> layer_table() const;
    // The layers as they run: an activation that its predecessor absorbed is part of it.
    Index stages() const { return static_cast<Index>(stages_.size()); }
    Layer<T>& stage(Index number) const { return *stages_[static_cast<std::size_t>(number)].layer; }

    // Draw new weights and set statistics and the count of training forwards back.
    void initialize(std::uint64_t seed);
    std::uint64_t training_step() const { return training_step_; }
    void set_training_step(std::uint64_t step) { training_step_ = step; }
    // Called between the layers of a long training step, and between parts of long products; when it throws, that step has not been.
    // Also between the pieces of a long inference.
    void set_between(void (*function)());
    // The stopwatch that training forwards and backwards tell their laps; null: off.
    Profile* profile() const { return profile_.get(); }
    void set_profile(std::shared_ptr<Profile> profile) { profile_ = std::move(profile); }

    bool adapted() const;
    void adapt(const Source& source);

    // Where the rows of the next batch go: padded, `rows` x inputs. Grows the workspace when needed.
    Matrix<T> input(Index rows);
    // Rows that there is memory for.
    Index capacity() const { return capacity_; }
    // Take a batch that was gathered elsewhere, with memory for as many rows, for what is there.
    void exchange_input(PaddedMatrix<T>& other) {
        std::swap(input_, other);
        trained_rows_ = 0;  // the last forward had another input
    }
    // Forward over the rows in `input`. The result stays valid until the next call; a training forward keeps what backward needs.
    ConstMatrix<T> forward(Index rows, bool training);
    // As if the last training forward had not been: its count, and the statistics that it moved.
    void undo_forward();
    // The result of the last forward.
    ConstMatrix<T> output() const { return stages_.back().view; }
    // Where the gradient of the outputs of the last forward goes; `backward` starts from it.
    Matrix<T> output_gradient(Index rows) const;
    // Fill gradients(); returns the gradient of the input when it is wanted, else an empty matrix.
    ConstMatrix<T> backward(bool want_input_gradient);

    // Floating-point operations of a training step, where each weight takes part in three products, and of inference.
    double training_work(Index rows) const { return work(rows, 3); }
    double inference_work(Index rows) const { return work(rows, 1); }
    // Whether so many rows are through in some ten microseconds.
    bool brief_inference(Index rows) const {
        return inference_work(rows) + work_of_element * static_cast<double>(rows * elements_of_row_) < 5e5;
    }
    // A training step whose threads meet twice instead of twice a product: each takes rows of its own through all layers and back, and
    // then, when all have, its part of every weight gradient. `begin_step` says how many threads are worth it; with 1 the layers share
    // their products, and `forward_rows` of all rows and `backward` are the step.
    int begin_step(Index rows);
    // Of a training forward that somebody else computes (nn/halves.hpp), where the one before was of as many rows.
    void count_step() { ++training_step_; }
    // The rows of the input that a thread gathers, and where to: its own, or of a small batch all into a matrix of its own. Both cores read
    // a row for the weight gradient, and a store to a line that another core has read waits.
    Range input_rows(Range mine) const { return own_inputs() ? Range{0, trained_rows_} : mine; }
    Matrix<T> input_of(int thread) const { return (thread > 0 && own_inputs() ? more_inputs_[thread - 1] : input_).view(trained_rows_); }
    // Two threads may also share the first two layers by units (nn/halves.hpp): the first one owns so many of the first layer; 0: they may
    // not. Training forwards of batches of such a network sum over both halves apart, whoever computes them.
    Index half_units() const { return half_units_; }
    Index first_of_halves() const { return first_of_halves_; }  // a stage; standardization of the inputs may be before it
    bool in_halves(Index rows) const;
    // Whether threads may go ways of their own through a training step: by rows, or by halves.
    bool trains_apart() const;
    // Whether so many rows go through in blocks (nn/row_blocks.hpp), by threads with places for one block each behind one another.
    bool in_blocks(Index rows) const;
    RowBlocks blocks_of(Index rows) const { return {rows, trained_bytes_of_row_}; }
    // What so many rows take, in the unit of threads_for.
    double work_in_blocks(Index rows) const;
    // A training forward that is one by its count; `forward_block`, `backward_rows` and `add_weight_gradients` for each block are the step,
    // and `end_blocks` is its end, whether it was made or not. Nothing of it is left but gradients.
    void begin_blocks(const RowBlocks& blocks, int threads);
    void end_blocks(bool made);
    // `row` of the batch is the first one of the block.
    void forward_block(Range place, Index row, int thread) { forward_layers(place, row, thread); }
    // To the flat buffer `gradients`.
    void add_weight_gradients(Range place, T* gradients, int thread);
    // Between parts of a long step; what it throws ends the step.
    void look() const;
    void forward_rows(Range rows, int thread);
    void backward_rows(Range rows, int thread);
    // Stages are taken from the last one back; false for one without anything to train.
    bool weight_gradient(Index stage, Part part);
    // Those of parameter_layout().segments() that are of a stage.
    Range segments_of(Index stage) const { return stages_[static_cast<std::size_t>(stage)].segments; }
    // Threads take rows in multiples of this many.
    static constexpr Index row_grain = 8;
    // Operations of a product that take as long as an element of an activation, at most.
    static constexpr double work_of_element = 100;

    // Steps so far that made the calls of one before them again.
    Index steps_repeated() const { return tapes_.steps_played(); }

    bool ready_for_backward(Index rows) const { return trained_rows_ == rows && rows > 0; }
    // Rows and output of a layer in the last forward.
    ConstMatrix<T> layer_output(Index layer) const;

    // Inference in blocks of rows, each through all layers, with memory of its own; does not disturb a training forward.
    void infer(const Source& source, Matrix<T> out);

    // How many threads single forwards get from outside, and single backwards.
    ThreadChoice& forward_choice() { return forward_choice_; }
    ThreadChoice& backward_choice() { return backward_choice_; }

    // Held during any call that touches workspace or parameters.
    SoleUse& mutex() { return mutex_; }

   private:
    // Weights of so many bytes stay in a core's cache: then rows go through all layers at once, those of an inference by each thread, those
    // of a large batch block by block.
    static constexpr Index cached_bytes = Index{1} << 20;

    struct Stage {
        std::unique_ptr<Layer<T>> layer;
        PaddedMatrix<T> output;
        ConstMatrix<T> view;       // output of the last forward, or of the stage below when transparent
        PaddedMatrix<T> gradient;  // before this layer's activation, when threads take rows of their own
        bool transparent;          // in the last forward
        Index first_layer;         // number of the layer in the caller's list
        Index last_layer;          // an absorbed activation follows
        Range segments;            // of the parameters
    };

    struct Shape {
        Index rows = -1;
        int threads = 0;
        bool operator!=(const Shape& other) const { return rows != other.rows || threads != other.threads; }
    };

    // How so many rows go through: what a call with the same question need not work out again.
    struct InferencePlan {
        Shape asked;
        int threads = 0;
        Index block = 0;    // rows that a thread takes at once
        Index scratch = 0;  // elements of each thread
    };

    void build(const std::vector<LayerSpec>& specs);
    void plan_halves();
    void reserve(Index rows);
    Activation next_activation(std::size_t stage) const;
    void begin(Index rows, bool training, bool apart = false);
    void begin_pass(Index rows, bool training);
    bool may_repeat() const { return repeats_ && profile_ == nullptr && is_alone(); }
    StepTapes::Place place(Index rows) const { return {rows, input_.view(rows).data, scratch_.data()}; }
    bool own_inputs() const;
    void reserve_apart(Index rows, int threads);
    void reserve_gradients();
    ConstMatrix<T> below(std::size_t stage, int thread = 0) const;
    Slope<T> slope_of(std::size_t stage, const Pass& pass, Index rows, int thread = 0) const;
    std::size_t lowest_trainable() const;
    void after_layer();
    [[gnu::noinline]] void forward_layers(Range rows, Index row, int thread);
    [[gnu::noinline]] ConstMatrix<T> backward_layers(bool want_input_gradient);
    Matrix<T> gradient_of(std::size_t stage) const;
    Pass pass_of(int thread, Index first, Index row) const;
    Index scratch_elements(Index rows, int threads) const;
    T* scratch(Index rows);
    T* scratch_of(int thread) const { return scratch_.data() + thread * thread_scratch_; }
    double work(Index rows, int products) const;
    int threads_by_rows(Index rows, double work) const;
    Index weight_bytes() const;
    void infer_piece(const Source& source, Range piece, Matrix<T> out);
    void plan_inference(Index rows, int threads);
    void infer_block(const Source& source, Index first, Index rows, Matrix<T> out, PaddedMatrix<T>* memory, T* temporary);

    Index inputs_;
    Index outputs_;
    bool rows_alone_ = true;  // in every layer
    bool repeats_ = true;     // too
    bool adapts_ = true;      // one of them, to data
    Index half_units_ = 0;
    Index first_of_halves_ = 0;
    Precision precision_;
    std::vector<Stage> stages_;
    std::vector<LayerInfo> table_;
    Layout<T> parameter_layout_;
    Layout<T> buffer_layout_;
    Buffer<T> parameters_;
    Buffer<T> gradients_;
    Buffer<T> buffers_;
    Buffer<T> buffers_before_;        // the last training forward
    Index elements_of_row_ = 0;       // its inputs and the outputs of all stages
    Index trained_bytes_of_row_ = 0;  // in memory, with the gradients of the outputs
    std::uint64_t seed_ = 0;

    Index capacity_ = 0;
    Index trained_rows_ = 0;  // rows of the last forward when it was a training one
    std::shared_ptr<Profile> profile_;
    PaddedMatrix<T> input_;
    Interlude between_;                         // of Pass, if there is something to do
    void (*look_)() = nullptr;                  // the same, between pieces of inference
    bool long_step_ = false;                    // the present one
    bool apart_ = false;                        // in the present step threads take rows of their own
    std::vector<PaddedMatrix<T>> more_inputs_;  // of the threads but the first
    PaddedMatrix<T> gradient_[2];               // gradients of activations, taking turns
    Buffer<T> scratch_;
    Shape scratch_for_;                       // what `scratch` was last asked for
    Shape apart_for_;                         // what threads with rows of their own last got memory for
    Index thread_scratch_ = 0;                // of each of them
    std::vector<PaddedMatrix<T>> inference_;  // two for every thread
    Buffer<T> inference_scratch_;
    InferencePlan inference_plan_;
    ThreadChoice forward_choice_;
    ThreadChoice backward_choice_;
    SoleUse mutex_;
    // What every step writes has lines of its own: the other threads read the rest, and would wait for it again in every step.
    alignas(2 * cache_line) Pass pass_;
    std::uint64_t training_step_ = 0;
    StepTapes tapes_;
};

}  // namespace fastopt
