// What a layer is to the network: its place in the flat buffers, a forward and a backward on padded matrices.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/config.hpp"
#include "core/profile.hpp"
#include "core/registry.hpp"
#include "core/rng.hpp"
#include "kernels/activations.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/gather.hpp"
#include "kernels/precision.hpp"
#include "kernels/tape.hpp"
#include "nn/layout.hpp"

namespace fastopt {

// What a long step does between parts of what takes long: it may throw, which ends the step. And how fast the last such part was, in
// operations a second; 0: unknown.
struct Interlude {
    std::function<void()> look;
    double rate = 0;
};

// One forward, and the backward that belongs to it.
struct Pass {
    bool training = false;
    std::uint64_t seed = 0;
    std::uint64_t step = 0;  // training forwards so far, from 1: keys random masks
    Precision precision = Precision::full;
    Profile* profile = nullptr;    // null: off
    Index first = 0;               // where the rows of a training pass begin, in what is kept of them,
    Index row = 0;                 // and in the batch: elsewhere when it goes through in blocks
    bool in_halves = false;        // sums over two halves of the inputs apart, where a layer has such (nn/halves.hpp)
    Tape* tape = nullptr;          // where a layer that repeats keeps its calls, or nowhere
    Interlude* between = nullptr;  // of a long step, by the thread that leads it; null: of others
};

// The activation that ends a layer and what its derivative is computed from. Whoever computes the gradient of that layer's output
// multiplies by the derivative in the same pass, so that a layer's backward starts from the gradient before its activation.
template <class T>
struct Slope {
    Activation activation = Activation::identity;
    ConstMatrix<T> source = {};
};

// A value and its derivative along a direction of the parameters; an empty tangent is 0.
template <class T>
struct Dual {
    ConstMatrix<T> value;
    ConstMatrix<T> tangent = {};
};

struct LayerInfo {
    std::string kind;
    std::string description;
    Index outputs = 0;
    bool trainable = true;
};

template <class T>
class Layer {
   public:
    virtual ~Layer() = default;

    virtual LayerInfo info() const = 0;
    Index number() const { return number_; }
    Index inputs() const { return inputs_; }
    virtual Index outputs() const { return inputs_; }
    virtual bool trainable() const { return false; }

    // Once, in order: the width of the input, the segments, where the flat buffers are.
    void set_place(Index number, Index inputs) {
        number_ = number;
        inputs_ = inputs;
    }
    virtual void add_segments(Layout<T>& parameters, Layout<T>& buffers) {
        (void)parameters;
        (void)buffers;
    }
    virtual void bind(T* parameters, T* gradients, T* buffers) {
        (void)parameters;
        (void)gradients;
        (void)buffers;
    }
    // Take over the activation layer that follows; false when this layer cannot.
    virtual bool absorb(Activation) { return false; }
    // `next` is the activation that this layer's output meets first.
    virtual void initialize(std::uint64_t seed, Activation next) {
        (void)seed;
        (void)next;
    }

    // Memory for training on batches up to `rows`; scratch elements for any pass over so many rows.
    virtual void reserve(Index rows) { (void)rows; }
    virtual Index scratch(Index rows, int threads) const {
        (void)rows;
        (void)threads;
        return 0;
    }

    // True when the output is the input.
    virtual bool transparent(const Pass&) const { return false; }
    // Before the forwards of a pass: values that follow from parameters or statistics.
    virtual void prepare(const Pass&) {}
    // In inference it writes nothing but y and scratch: several threads may run it on rows of their own (in training: see rows_alone).
    virtual void forward(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, T* scratch) = 0;
    // Whether y may then be any rows, as the caller's, without padding and with no loss of time.
    virtual bool infers_to_any_rows() const { return false; }
    // The same for a thread with rows of its own (rows_alone). It writes `writes_next`, of y's shape or empty, soon and may take its lines
    // from other cores meanwhile.
    virtual void forward_alone(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, Matrix<T> writes_next, T* scratch) {
        (void)writes_next;
        forward(pass, x, y, scratch);
    }
    // The activation at the end of this layer; for a training pass that took x to y, with what its derivative is computed from.
    virtual Activation activation() const { return Activation::identity; }
    virtual Slope<T> slope(const Pass& pass, ConstMatrix<T> x, ConstMatrix<T> y) const {
        (void)pass;
        (void)x;
        (void)y;
        return {};
    }
    // grad: gradient before this layer's activation; may be overwritten. grad_x (empty: not wanted) is finished with `slope` of the layer
    // below and may share memory with grad only where a layer says so; it never does with the dense layer. Whoever calls ends the lap of a
    // profile with what is returned; a layer with two products ends that of the first one itself.
    virtual Phase backward(const Pass& pass, ConstMatrix<T> x, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T* scratch) {
        if (grad_x.data != nullptr) {
            backward_input(pass, grad, grad_x, slope, scratch);
        }
        if (!trainable()) {
            return Phase::input_gradient;
        }
        if (grad_x.data != nullptr) {
            lap(pass.profile, Phase::input_gradient, number_, x.rows);
        }
        backward_weight(pass, x, grad, {0, 1}, scratch);
        return Phase::weight_gradient;
    }
    // Whether no row of a batch sees another. Threads may then run forward and backward_input of a training pass on rows of their own, and
    // backward_weight for parts of the parameters when the rows are complete; backward is both. What such a layer keeps from a forward it
    // keeps by rows, from pass.first on.
    virtual bool rows_alone() const { return false; }
    // Whether every training pass over the same memory makes the same calls of kernels, and keeps all of them on pass.tape.
    virtual bool repeats() const { return false; }
    // The rows of its weight that are of a part.
    virtual Range weight_part(Part part) const {
        (void)part;
        return {0, 0};
    }
    virtual void backward_input(const Pass& pass, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T* scratch) {
        (void)pass;
        (void)grad;
        (void)grad_x;
        (void)slope;
        (void)scratch;
    }
    virtual void backward_weight(const Pass& pass, ConstMatrix<T> x, ConstMatrix<T> grad, Part part, T* scratch) {
        (void)pass;
        (void)x;
        (void)grad;
        (void)part;
        (void)scratch;
    }

    // Second order, as in inference (nn/second_order.hpp): `a` is the layer's output before its activation, `direction` and `gradients`
    // are flat and laid out as the parameters. A layer without parameters whose `a` is its input needs none of these.
    virtual Index parameters() const { return 0; }
    virtual void affine(ConstMatrix<T> x, Matrix<T> a, T* scratch) {
        (void)scratch;
        copy_rows<T>(x, a);
    }
    // The tangent of a, along `direction` and along the tangent of x.
    virtual void affine_tangent(const Dual<T>& x, const T* direction, Matrix<T> a, T* scratch) {
        (void)direction;
        (void)scratch;
        copy_rows<T>(x.tangent, a);
    }
    // gradients (null: not wanted) += x^T grad; grad_x (empty: not wanted) = grad W^T.
    virtual void affine_backward(ConstMatrix<T> x, ConstMatrix<T> grad, T* gradients, Matrix<T> grad_x, T* scratch) {
        (void)x;
        (void)gradients;
        (void)scratch;
        if (grad_x.data != nullptr) {
            copy_rows<T>(grad, grad_x);
        }
    }
    // The tangents of both: gradients += x^T grad' + x'^T grad; grad_x = grad' W^T + grad V^T, where V is the direction of W.
    virtual void affine_backward_tangent(const Dual<T>& x, const Dual<T>& grad, const T* direction, T* gradients, Matrix<T> grad_x,
                                         T* scratch) {
        (void)direction;
        affine_backward(x.value, grad.tangent, gradients, grad_x, scratch);
    }
    // The gradients of every row alone, its parameters side by side: row i of x gives row i of `out`.
    virtual void affine_rows(ConstMatrix<T> x, ConstMatrix<T> grad, Matrix<T> out) {
        (void)x;
        (void)grad;
        (void)out;
    }

    // Statistics of the training set.
    virtual bool adapted() const { return true; }
    virtual void adapt(const Source&) {}

   protected:
    Index number_ = 0;
    Index inputs_ = 0;

    std::string segment_name(const char* part) const { return std::to_string(number_) + "." + part; }
};

template <class T>
const Registry<Layer<T>>& layer_registry();

}  // namespace fastopt
