// A step of a small network on two threads that share its first two layers by units: each owns half of the units of the first layer, the
// weights into them and those out of them. It computes its part of the sums of the second layer over all rows; these parts are all that
// crosses between the cores, and the threads meet for them. What follows, little in such a network, both compute for themselves, but for
// the gradients of its weights, unless these are so few that both keep all of them; else they meet again before these weights change. (A
// column-parallel layer and a row-parallel one: Shoeybi et al. 2019, Megatron-LM, section 3.)
//
// Against threads that take rows of their own, a third of the cache lines cross or fewer. Passing one on takes 7 ns where the cores share a
// cache and 27 where they do not (Zen 3, 276 lines in a loop). Stores wait for their lines in order, reads do not: so the two places where
// parts of the sums cross change their writer with each step. Whoever reads a place asks for its lines as their only owner, and writes
// there next. For the same reason weights and slots that one thread updates lie in memory of their owner during a run of steps: where both
// halves lie in one array, each core asks ahead for lines of the other.
//
// In a run, a thread gathers the rows of the next step while it waits, and thread 1 begins with them before it is told: its weights are its
// own. Steps that are alike make the calls of kernels of the ones before again (nn/step_tapes.hpp); where these meet once, thread 1 is told
// of many at a time.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "core/aligned.hpp"
#include "losses/loss.hpp"
#include "nn/data.hpp"
#include "nn/dense_layer.hpp"
#include "nn/network.hpp"
#include "nn/step_tapes.hpp"
#include "optimizers/optimizer.hpp"

namespace fastopt {

template <class T>
class Halves {
   public:
    static constexpr int threads = 2;
    // Of a step that two threads may be faster with (30-32-2 with 16 rows); whether they are is a matter of where their cores lie.
    static constexpr double least_work = 5e4;

    // `padded_output`: the loss reads nothing else; `passes_one_output`: see Loss.
    Halves(Network<T>& network, bool padded_output, bool passes_one_output);

    // Memory for batches up to `rows` of such data, and the targets of this one; no thread works meanwhile. Whether all is as it was left.
    void reserve(const Data<T>& data, Index rows);
    bool holds(const Data<T>& data, Index rows) const {
        return rows == rows_ && (data.labels != nullptr) == has_labels_ && data.y.cols == target_columns_;
    }

    // Parameters and slots of these layers go to their owners; until they are brought home (again: nothing happens) the flat
    // buffers hold old ones.
    void send(const std::vector<Buffer<T>>& slots);
    void bring_home(std::vector<Buffer<T>>& slots);
    bool away() const { return away_; }

    // A step, by each thread, in this order. Before `forward` both have been through `begin`; before either changes weights of the third
    // layer, unless all are sent, both have been through `backward`.
    Index rows() const { return rows_; }
    // Up to the partial sums; `gathered`: of the rows that gather_next was given last, else of those in `order`.
    void begin(int thread, const Data<T>& data, const Index* order, bool gathered, Profile* profile);
    // The same before its turn, with the rows of gather_next, when the weights of this thread are those of the next step: `begin` has
    // nothing left to do then.
    void begin_ahead(int thread);
    // Between `begin` and `forward`: rows of the next step, while what the other thread wrote is still on its way. Where there are as many.
    bool takes_next(const Rows& next) const { return next.count == rows_; }
    // Whether a step has nothing left to ask or to keep, so that no thread can fail in it. By thread 0, before it begins: the other one
    // may be ahead already, but what it keeps of such a step it has kept two steps before.
    bool repeats(bool gathered);
    // Whether that is known of both batches.
    bool repeats_all() const { return half(0).gathered[0].repeats && half(0).gathered[1].repeats; }
    void gather_next(int thread, const Data<T>& data, const Rows& next, Profile* profile);
    // Asks for the other thread's part of the sums, once that is there and before `forward`.
    void ask_for_sums(int thread);
    void forward(int thread, Profile* profile);
    ConstMatrix<T> output(int thread) const { return activations(thread, layers() - 1); }
    Matrix<T> output_gradient(int thread) const { return gradients(thread, layers() - 1); }
    const Target<T>& target(int thread) const { return half(thread).batch().target; }
    T* row_loss(int thread) const { return half(thread).row_loss.data(); }
    void backward(int thread, Profile* profile);
    // `forward`, the loss and the part of `backward` behind the second layer can be one pass instead; then the rest of it is left.
    bool ends_in_one_output() const { return ends_in_one_output_; }
    OneOutput<T> one_output(int thread, const T* row_scale) const;
    void backward_behind_one_output(int thread);
    // Gradients of what a thread updates of a layer.
    void weight_gradient(int thread, Index layer, Profile* profile);
    void end(int thread) { tapes(thread).end(); }
    // What a thread updates of a layer: elements of its own memory, of a layer that is not sent of the flat buffer.
    struct Own {
        Index segment;
        Range elements;
    };
    std::vector<Own> own(int thread, Index layer) const;
    // Layers whose parameters lie in memory of their owners during a run; of those behind the first two both own all.
    Index sent_layers() const { return sent_layers_; }
    bool sends(Index layer) const { return layer < sent_layers_; }
    bool sends_all() const { return sent_layers_ == layers(); }
    Segment<T> own_memory(int thread) const;
    Index layers() const { return static_cast<Index>(layers_.size()); }
    // Steps in which thread 0 did not ask the layers, and those that thread 1 began before it was told.
    Index steps_repeated() const { return half(0).steps_repeated; }
    Index steps_begun_ahead() const { return half(1).steps_begun_ahead; }

   private:
    // Of a step: calls that are kept together.
    static constexpr int begin_part = 0;
    static constexpr int forward_part = 1;
    static constexpr int backward_part = 2;
    static constexpr int backward_second_part = 3;
    static constexpr int weight_part = 4;  // of the first layer; those of the others behind it
    static constexpr int most_layers = PartTapes::most - weight_part;

    struct Gathered {
        PaddedMatrix<T> rows;
        BatchTargets<T> targets;
        Target<T> target;
        std::unique_ptr<PartTapes> tapes;  // of a step over these rows
        int crossing = 0;                  // where this thread's part of the sums goes then; that of the other thread is in the other
        bool repeats = false;              // both threads have kept such a step
    };
    // Weight or bias of one of these layers: as many rows of the flat buffer, a stride apart, that lie side by side in memory of
    // their owner.
    struct Sent {
        Index layer;
        bool bias;
        Index segment;
        Index flat;
        Index rows;
        Index width;
        Index stride;
        Index own;
        // With the rest of its last line, which nothing else is in.
        Range place() const { return {own, round_up(own + rows * width, line_elements<T>)}; }
    };
    struct alignas(2 * cache_line) Half {
        std::vector<Sent> sent;
        Index sent_size = 0;
        std::array<Gathered, 2> gathered;
        int now = 0;  // which of them is the batch of this step
        Gathered& batch() { return gathered[static_cast<std::size_t>(now)]; }
        const Gathered& batch() const { return gathered[static_cast<std::size_t>(now)]; }
        Gathered& next() { return gathered[static_cast<std::size_t>(1 - now)]; }
        void change() { now = 1 - now; }
        Buffer<Index> next_order;
        PaddedMatrix<T> standardized;  // rows, if there is such a layer
        // Of each layer: of the first one this thread's units alone.
        std::vector<PaddedMatrix<T>> activations;
        std::vector<PaddedMatrix<T>> before;  // the activation, where its derivative needs that
        std::vector<PaddedMatrix<T>> gradients;
        PaddedMatrix<T> sums;  // this thread's part of those of a thin second layer
        Buffer<T> row_loss;
        Buffer<T> scratch;
        Buffer<T> parameters;
        Buffer<T> parameter_gradients;
        std::array<Buffer<T>, max_slots> slots;
        bool begun = false;  // the next step
        Index steps_repeated = 0;
        Index steps_begun_ahead = 0;
    };

    Half& half(int thread) const { return *halves_[static_cast<std::size_t>(thread)]; }
    PartTapes& tapes(int thread) const { return *half(thread).batch().tapes; }
    void begin_anew();
    const DenseLayer<T>& layer(Index number) const { return *layers_[static_cast<std::size_t>(number)]; }
    Range segments_of(Index layer) const { return network_.segments_of(network_.first_of_halves() + layer); }
    Range units(int thread) const { return thread == 0 ? Range{0, split_} : Range{split_, layer(0).outputs()}; }
    Matrix<T> view_of(const std::vector<PaddedMatrix<T>>& of_layers, Index number) const;
    Matrix<T> activations(int thread, Index number) const { return view_of(half(thread).activations, number); }
    Matrix<T> gradients(int thread, Index number) const { return view_of(half(thread).gradients, number); }
    void gather_rows(Gathered& to, const Data<T>& data, const Index* order) const;
    // Whether both gradients of a layer are one call: behind the second one, where every thread keeps all; a profile tells them apart.
    bool both_at_once(Index layer, const Profile* profile) const { return layer > 1 && sends(layer) && profile == nullptr; }
    Matrix<T> input(int thread) const;
    void plan_sent(int thread);
    T* sent(int thread, Index layer, bool bias, const Buffer<T>& memory) const;
    T* bias(int thread, Index layer, const Buffer<T>& memory) const { return sent(thread, layer, true, memory); }
    Matrix<T> weight(int thread, Index layer, const Buffer<T>& memory) const;
    Matrix<T> sums(int thread) const;
    Matrix<T> sums_of_other(int thread) const;
    Matrix<T> before(int thread, Index layer) const;
    ConstMatrix<T> slope_source(int thread, Index layer) const;
    void first_sums(int thread, Profile* profile);
    void backward_second(int thread, Profile* profile);
    void backward_through(int thread, Index number, Profile* profile, Tape* tape);
    void ask_weight_gradient(int thread, Index number, Profile* profile, Tape* tape);
    template <class F>
    void copy_sent(F&& copy) const;

    Network<T>& network_;
    Layer<T>* standardization_ = nullptr;
    Index split_;
    Index sent_layers_ = 2;
    bool plain_output_;
    bool ends_in_one_output_;
    std::vector<DenseLayer<T>*> layers_;
    std::array<std::unique_ptr<Half>, threads> halves_;
    std::array<PaddedMatrix<T>, threads> crossing_;  // parts of the sums, for the other thread
    Index capacity_ = 0;
    Index rows_ = 0;
    bool has_labels_ = false;
    Index target_columns_ = 0;
    std::size_t slots_ = 0;
    bool away_ = false;
};

}  // namespace fastopt
