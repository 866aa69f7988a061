// Second derivatives of a network in inference mode: batch normalization with its running statistics, dropout as identity.
//
// Hessian-vector products by the R-operator (Pearlmutter 1994): the derivative of the gradient along a direction of the parameters, by one
// forward pass of tangents and one backward pass of gradients and their tangents, exact to rounding. Vectors are compact here: the
// parameters in their order, without the padding of the flat buffers. Rows pass in blocks of a fixed size whose sums are added in order,
// so that memory stays constant and the bits do not depend on threads.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/thread_choice.hpp"
#include "losses/loss.hpp"
#include "nn/data.hpp"
#include "nn/network.hpp"

namespace fastopt {

template <class T>
class SecondOrder {
   public:
    explicit SecondOrder(std::shared_ptr<Network<T>> network);

    Network<T>& network() const { return *network_; }
    Index count() const { return count_; }

    // Called before each block of rows; may throw, which ends the call.
    void set_between_blocks(std::function<void()> call) { between_blocks_ = std::move(call); }

    // The weighted mean loss over all rows; its gradient (count) unless null.
    double gradient(const Loss<T>& loss, const Data<T>& data, T* gradient);
    // out = H v
    void hessian_vector(const Loss<T>& loss, const Data<T>& data, const T* v, T* out);
    // out (count, count), symmetric to the bit
    void hessian(const Loss<T>& loss, const Data<T>& data, T* out);
    // out (rows * outputs, count): row i * outputs + k holds the gradient of output k of row i.
    void jacobian(const Source& x, T* out);
    // With J the Jacobian, r = p - y, and D the rows' weights over (sum of weights * outputs): matrix = J^T D J (count, count),
    // gradient = J^T D r, returns r^T D r, the mean squared error. J is formed in blocks of rows and never held.
    double gauss_newton(const Data<T>& data, T* matrix, T* gradient);

   private:
    // What one stage keeps of a block: before and after its activation, and the tangents of both.
    struct Stage {
        Layer<T>* layer;
        Index at;  // first of its parameters in a compact vector
        Activation activation;
        bool transparent;
        PaddedMatrix<T> before, after, tangent_before, tangent_after;
        ConstMatrix<T> x, a, h;
        ConstMatrix<T> tx, ta;  // tangents of x and a; empty: 0

        // g' and g'' are computed from h or from a.
        ConstMatrix<T> slope_source() const { return activation_needs_input(activation) ? a : h; }
    };
    struct Block {
        Index first;
        Index rows;
    };

    void reserve(Index rows);
    T* scratch(Index rows);
    void start(Index rows);
    // What is computed of a block.
    enum Kind { gradients, curvature, jacobians, squares };
    static constexpr int kinds = squares + 1;
    // f(block) over all rows; `products`: of a row, in operations.
    template <class F>
    void for_blocks(Kind kind, double products, Index rows, Index size, F&& f);
    double work_of_row() const { return network_->training_work(1); }
    void clear_gradients();

    ConstMatrix<T> forward(const Source& x, const Block& block);
    ConstMatrix<T> forward_tangent(Index rows);
    template <class F>
    void walk_back(Index rows, F&& f);
    // From the gradient of the outputs in gradient_[0] to gradients_ (added).
    void backward(Index rows);
    // From the gradient in gradient_[0] and its tangent in tangent_[0] to gradients_ (added).
    void backward_tangent(Index rows);
    // From the gradient in gradient_[0] to one row of `out` per row.
    void backward_rows(Index rows, Matrix<T> out);
    // The Jacobian of the block's outputs, row i scaled by seed[i].
    void jacobian_rows(Index rows, const T* seed, Matrix<T> out);
    // Loss of a block over the total weight, its gradient to gradient_[0] when wanted.
    double loss_of(const Loss<T>& loss, const Data<T>& data, const Block& block, double inverse, ConstMatrix<T> prediction, bool gradient);
    void read_target(const Data<T>& data, const Block& block);
    // Adds a^T a to the lower triangle of `out` (count, count).
    void add_square(ConstMatrix<T> a, T* out);

    void to_flat(const T* compact, T* flat) const;
    void to_compact(const T* flat, T* compact) const;

    std::shared_ptr<Network<T>> network_;
    std::vector<Stage> stages_;
    std::function<void()> between_blocks_;
    std::size_t lowest_ = 0;  // first stage with parameters
    Index count_ = 0;

    Buffer<T> direction_;
    Buffer<T> gradients_;
    PaddedMatrix<T> input_;
    PaddedMatrix<T> gradient_[2];
    PaddedMatrix<T> tangent_[2];
    PaddedMatrix<T> target_;
    PaddedMatrix<T> jacobian_;
    Target<T> seen_;  // targets of the block
    Index capacity_ = 0;
    Buffer<T> row_scale_;
    Buffer<T> row_loss_;
    Buffer<T> residual_;
    Buffer<T> scratch_;
    // Between calls solvers factor matrices, by threads of a library for linear algebra that stay awake for a while.
    std::array<ThreadChoice, kinds> thread_choices_;
};

}  // namespace fastopt
