// y = g(x W + b).
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/aligned.hpp"
#include "kernels/columns.hpp"
#include "kernels/dense.hpp"
#include "kernels/reduce.hpp"
#include "kernels/take_lines.hpp"
#include "kernels/thin.hpp"
#include "nn/init.hpp"
#include "nn/layer.hpp"

namespace fastopt {

template <class T>
class DenseLayer final : public Layer<T> {
   public:
    explicit DenseLayer(const Config& config)
        : units_(config.integer("units")),
          activation_(activation_from_name(config.text("activation"))),
          init_(config.text("init")),
          init_value_(config.number("init_value")),
          has_bias_(config.flag("bias")),
          l1_(config.number("l1")),
          l2_(config.number("l2")),
          trainable_(config.flag("trainable")),
          multiplier_(config.number("learning_rate_multiplier")) {
        check(units_ >= 1, "units must be at least 1; got ", units_);
        check_initializer(init_);
    }

    LayerInfo info() const override {
        std::string text = std::to_string(units_) + (units_ == 1 ? " unit" : " units");
        if (activation_ != Activation::identity) {
            text += std::string(", ") + activation_name(activation_);
        }
        return {"dense", text + (has_bias_ ? "" : ", no bias"), units_, trainable_};
    }
    Index outputs() const override { return units_; }
    bool trainable() const override { return trainable_; }

    void add_segments(Layout<T>& parameters, Layout<T>&) override {
        SegmentInfo weight;
        weight.name = this->segment_name("weight");
        weight.shape = {this->inputs_, units_};
        weight.weight = true;
        weight.l1 = l1_;
        weight.l2 = l2_;
        weight.trainable = trainable_;
        weight.multiplier = multiplier_;
        weight.turn = weight_turn();
        weight_at_ = parameters.add(weight);
        if (has_bias_) {
            SegmentInfo bias;
            bias.name = this->segment_name("bias");
            bias.shape = {units_};
            bias.trainable = trainable_;
            bias.multiplier = multiplier_;
            bias.turn = bias_turn();
            bias_at_ = parameters.add(bias);
        }
    }
    void bind(T* parameters, T* gradients, T*) override {
        weight_ = {parameters + weight_at_, this->inputs_, units_, units_, false, true};
        grad_weight_ = {gradients + weight_at_, this->inputs_, units_, units_, false};
        bias_ = has_bias_ ? parameters + bias_at_ : nullptr;
        grad_bias_ = has_bias_ ? gradients + bias_at_ : nullptr;
    }
    bool absorb(Activation activation) override {
        if (activation_ != Activation::identity) {
            return false;
        }
        activation_ = activation;
        return true;
    }
    void initialize(std::uint64_t seed, Activation next) override {
        const Stream stream{seed, 0, static_cast<std::uint32_t>(this->number_)};
        const Activation meets = activation_ == Activation::identity ? next : activation_;
        initialize_weight(init_, meets, init_value_, stream, this->inputs_, units_, weight_.data);
        for (Index j = 0; has_bias_ && j < units_; ++j) {
            bias_[j] = T(0);
        }
    }

    void reserve(Index rows) override {
        if (activation_needs_input(activation_)) {
            pre_.reserve(rows, units_);
        }
        if (first_half_ > 0) {
            first_sums_.reserve(rows, units_);
        }
    }
    Index scratch(Index rows, int threads) const override { return dense_scratch<T>(rows, this->inputs_, units_, threads); }

    void forward(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, T* scratch) override { forward_alone(pass, x, y, {}, scratch); }
    void forward_alone(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, Matrix<T> writes_next, T* scratch) override {
        const bool keeps = pass.training && activation_needs_input(activation_);
        const Matrix<T> kept = keeps ? pre(pass, x.rows) : Matrix<T>{};
        if (pass.in_halves && first_half_ > 0) {
            const Matrix<T> first = first_sums_.view(pass.first + x.rows).row_range(pass.first, x.rows);
            const Index rest = this->inputs_ - first_half_;
            dense_forward<T>(x.column_range(0, first_half_), weight_.row_range(0, first_half_), nullptr, Activation::identity, first, {},
                             scratch, Precision::full, {}, pass.tape);
            dense_forward_onto<T>(first, x.column_range(first_half_, rest), weight_.row_range(first_half_, rest), bias_, activation_, y,
                                  kept, scratch, pass.tape);
            return;
        }
        in_pieces(pass, x.rows, [&](Range rows) {
            dense_forward<T>(part_of(x, rows), weight_, bias_, activation_, part_of(y, rows), part_of(kept, rows), scratch, pass.precision,
                             part_of(writes_next, rows), pass.tape);
        });
    }
    bool infers_to_any_rows() const override { return is_thin(units_); }
    // In passes in halves the sum over so many inputs, and that over the others from the bias on, are added at the end; 0: one sum.
    void set_first_half(Index inputs) { first_half_ = inputs; }
    const Matrix<T>& weight() const { return weight_; }
    T* bias() const { return bias_; }  // null: none
    Activation activation() const override { return activation_; }
    Slope<T> slope(const Pass& pass, ConstMatrix<T>, ConstMatrix<T> y) const override {
        return {activation_, activation_needs_input(activation_) ? pre(pass, y.rows) : y};
    }
    bool rows_alone() const override { return true; }
    bool repeats() const override { return true; }
    void backward_input(const Pass& pass, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T* scratch) override {
        in_pieces(pass, grad.rows, [&](Range rows) {
            dense_backward_input<T>(part_of(grad, rows), weight_, part_of(grad_x, rows), slope.activation, part_of(slope.source, rows),
                                    scratch, pass.precision, pass.tape);
        });
    }
    Phase backward(const Pass& pass, ConstMatrix<T> x, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T* scratch) override {
        if (grad_x.data == nullptr || !trainable_ || is_thin(units_) || pass.profile != nullptr || pass.between != nullptr) {
            return Layer<T>::backward(pass, x, grad, grad_x, slope, scratch);  // a profile tells them apart, as does a look in between
        }
        dense_backward<T>(x, grad, weight_, grad_x, slope.activation, slope.source, grad_weight_, scratch, pass.precision, pass.tape);
        bias_gradient(pass, grad, {0, units_});
        return Phase::weight_gradient;
    }
    Range weight_part(Part part) const override { return part.of<T>(this->inputs_, weight_turn()); }
    void backward_weight(const Pass& pass, ConstMatrix<T> x, ConstMatrix<T> grad, Part part, T* scratch) override {
        const Range rows = weight_part(part);
        const Range units = part.of<T>(units_, bias_turn());
        const bool takes = takes_lines_ahead && part.updates;
        if (takes && has_bias_) {
            take_lines(bias_ + units.begin, units.size());
        }
        if (!rows.empty()) {
            const auto mine = [&](const Matrix<T>& m) { return m.row_range(rows.begin, rows.size()); };
            weight_gradient(pass, x.column_range(rows.begin, rows.size()), grad, mine(grad_weight_), takes ? mine(weight_) : Matrix<T>{},
                            scratch);
        }
        bias_gradient(pass, grad, units);
    }

    Index parameters() const override { return this->inputs_ * units_ + (has_bias_ ? units_ : 0); }
    void affine(ConstMatrix<T> x, Matrix<T> a, T* scratch) override {
        dense_forward<T>(x, weight_, bias_, Activation::identity, a, {}, scratch);
    }
    void affine_tangent(const Dual<T>& x, const T* direction, Matrix<T> a, T* scratch) override {
        dense_forward<T>(x.value, weight_in(direction), has_bias_ ? direction + bias_at_ : nullptr, Activation::identity, a, {}, scratch);
        if (x.tangent.data != nullptr) {
            dense_accumulate<T>(operand(x.tangent), operand<T>(weight_), a, x.value.rows, this->inputs_, scratch);
        }
    }
    void affine_backward(ConstMatrix<T> x, ConstMatrix<T> grad, T* gradients, Matrix<T> grad_x, T* scratch) override {
        if (gradients != nullptr) {
            add_gradients(x, grad, gradients, scratch);
            add_bias_gradient(grad, gradients);
        }
        if (grad_x.data != nullptr) {
            dense_backward_input<T>(grad, weight_, grad_x, Activation::identity, {}, scratch);
        }
    }
    void affine_backward_tangent(const Dual<T>& x, const Dual<T>& grad, const T* direction, T* gradients, Matrix<T> grad_x,
                                 T* scratch) override {
        add_gradients(x.value, grad.tangent, gradients, scratch);
        if (x.tangent.data != nullptr) {
            add_gradients(x.tangent, grad.value, gradients, scratch);
        }
        add_bias_gradient(grad.tangent, gradients);
        if (grad_x.data != nullptr) {
            dense_backward_input<T>(grad.tangent, weight_, grad_x, Activation::identity, {}, scratch);
            dense_accumulate<T>(operand(grad.value), transposed(weight_in(direction)), grad_x, grad_x.rows, units_, scratch);
        }
    }
    void affine_rows(ConstMatrix<T> x, ConstMatrix<T> grad, Matrix<T> out) override { outer_rows<T>(x, grad, has_bias_, out); }

   private:
    Index weight_turn() const { return this->number_; }
    Index bias_turn() const { return this->number_ + 1; }
    Matrix<T> pre(const Pass& pass, Index rows) const { return pre_.view(pass.first + rows).row_range(pass.first, rows); }
    ConstMatrix<T> weight_in(const T* flat) const { return {flat + weight_at_, this->inputs_, units_, units_, false}; }

    // f(rows of the batch) for all of them: at once, or those of products that take long piece by piece, so that the step can end in
    // between. Each element is the same chain either way.
    template <class F>
    void in_pieces(const Pass& pass, Index rows, F&& f) const {
        constexpr double longest = 0.05;  // seconds; a user's interrupt has 0.1
        constexpr double first = 9e9;     // operations of a piece, before any was timed,
        constexpr double fewest = 1e9;    // and at least: a pause of the process looks like a slow processor
        constexpr Index grain = 64;
        if (pass.between == nullptr) {
            f(Range{0, rows});
            return;
        }
        double& rate = pass.between->rate;
        const double each_row = 2.0 * static_cast<double>(this->inputs_) * static_cast<double>(units_);
        for (Index begin = 0, end = 0; begin < rows; begin = end) {
            if (begin > 0) {
                pass.between->look();
            }
            const double most = rate > 0 ? std::max(longest * rate, fewest) : first;
            const auto pieces = static_cast<Index>(std::ceil(each_row * static_cast<double>(rows - begin) / most));
            end = pieces <= 1 ? rows : std::min(rows, begin + round_up(ceil_div(rows - begin, pieces), grain));
            const auto start = std::chrono::steady_clock::now();
            f(Range{begin, end});
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            if (const double work = each_row * static_cast<double>(end - begin); work > fewest / 4) {  // less tells little
                rate = work / seconds;
            }
        }
    }
    template <class M>
    static M part_of(const M& matrix, Range rows) {
        return matrix.data == nullptr ? matrix : matrix.row_range(rows.begin, rows.size());
    }
    void weight_gradient(const Pass& pass, ConstMatrix<T> x, ConstMatrix<T> grad, Matrix<T> out, Matrix<T> writes_next, T* scratch) const {
        if (is_narrow<T>(units_)) {  // many rows for many milliseconds
            dense_backward_weight<T>(x, grad, out, scratch, pass.precision, writes_next, pass.tape);
            return;
        }
        in_pieces(pass, grad.rows, [&](Range rows) {
            if (rows.begin == 0) {
                dense_backward_weight<T>(part_of(x, rows), part_of(grad, rows), out, scratch, pass.precision, writes_next, pass.tape);
            } else {
                dense_accumulate<T>(transposed(part_of(x, rows)), operand(part_of(grad, rows)), out, x.cols, rows.size(), scratch,
                                    pass.precision);
            }
        });
    }

    void bias_gradient(const Pass& pass, ConstMatrix<T> grad, Range units) const {
        if (has_bias_ && !units.empty()) {
            const ConstMatrix<T> columns = grad.column_range(units.begin, units.size());
            T* const sums = grad_bias_ + units.begin;
            make_call(pass.tape, [=] { column_sums<T>(columns, sums); });
        }
    }
    void add_gradients(ConstMatrix<T> x, ConstMatrix<T> grad, T* gradients, T* scratch) const {
        dense_add_weight_gradient<T>(x, grad, {gradients + weight_at_, this->inputs_, units_, units_, false}, scratch);
    }
    void add_bias_gradient(ConstMatrix<T> grad, T* gradients) const {
        if (has_bias_) {
            add_column_products<T>({}, grad, gradients + bias_at_);
        }
    }

    Index units_;
    Activation activation_;
    std::string init_;
    double init_value_;
    bool has_bias_;
    double l1_;
    double l2_;
    bool trainable_;
    double multiplier_;

    Index weight_at_ = 0;
    Index bias_at_ = 0;
    Matrix<T> weight_;
    Matrix<T> grad_weight_;
    T* bias_ = nullptr;
    T* grad_bias_ = nullptr;
    PaddedMatrix<T> pre_;
    Index first_half_ = 0;
    PaddedMatrix<T> first_sums_;
};

}  // namespace fastopt
