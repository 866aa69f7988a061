// Layers without parameters: an activation of its own, dropout, and standardization by statistics of the training set.
#pragma once

#include <cmath>
#include <vector>

#include "core/aligned.hpp"
#include "kernels/dropout.hpp"
#include "kernels/elementwise.hpp"
#include "nn/layer.hpp"

namespace fastopt {

template <class T>
class ActivationLayer final : public Layer<T> {
   public:
    explicit ActivationLayer(const Config& config) : activation_(activation_from_name(config.text("activation"))) {}

    LayerInfo info() const override { return {"activation", activation_name(activation_), this->inputs_, true}; }

    bool transparent(const Pass&) const override { return activation_ == Activation::identity; }
    void forward(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, T*) override {
        make_call(pass.tape, [x, y, activation = activation_] { activation_forward<T>(activation, x, y); });
    }
    Activation activation() const override { return activation_; }
    Slope<T> slope(const Pass&, ConstMatrix<T> x, ConstMatrix<T> y) const override {
        return {activation_, activation_needs_input(activation_) ? x : y};
    }
    bool rows_alone() const override { return true; }
    bool repeats() const override { return true; }
    void backward_input(const Pass& pass, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T*) override {
        make_call(pass.tape, [=] {
            copy_rows<T>(grad, grad_x);
            activation_backward<T>(slope.activation, slope.source, grad_x);
        });
    }

   private:
    Activation activation_;
};

template <class T>
class DropoutLayer final : public Layer<T> {
   public:
    explicit DropoutLayer(const Config& config) : rate_(config.number("rate")) {
        check(rate_ >= 0 && rate_ < 1, "rate must be in [0, 1); got ", rate_);
    }

    LayerInfo info() const override { return {"dropout", "rate " + sentence(rate_), this->inputs_, true}; }

    void reserve(Index rows) override { mask_.reserve(rows, this->inputs_); }
    bool transparent(const Pass& pass) const override { return !pass.training || rate_ == 0; }
    void forward(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, T*) override {
        const Stream stream{pass.seed, pass.step, static_cast<std::uint32_t>(this->number_)};
        dropout_forward<T>(x, rate_, stream, pass.row, mask(pass, x.rows), y);
    }
    bool rows_alone() const override { return true; }
    void backward_input(const Pass& pass, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T*) override {
        multiply_rows<T>(grad, mask(pass, grad.rows), grad_x);
        activation_backward<T>(slope.activation, slope.source, grad_x);
    }

   private:
    Matrix<T> mask(const Pass& pass, Index rows) const { return mask_.view(pass.first + rows).row_range(pass.first, rows); }

    double rate_;
    PaddedMatrix<T> mask_;
};

// y = (x - mean) / sqrt(variance + eps) over the whole training set; a column that was constant there comes out as 0, whatever it holds
// later.
template <class T>
class StandardizeLayer final : public Layer<T> {
   public:
    explicit StandardizeLayer(const Config& config) : eps_(config.number("eps")) {}

    LayerInfo info() const override { return {"standardize", "", this->inputs_, true}; }

    void add_segments(Layout<T>&, Layout<T>& buffers) override {
        check(this->number_ == 0, "Standardize must be the first layer; it is layer ", this->number_);
        const auto add = [&](const char* part, Index size) {
            SegmentInfo info;
            info.name = this->segment_name(part);
            info.shape = {size};
            return buffers.add(info);
        };
        mean_at_ = add("mean", this->inputs_);
        variance_at_ = add("variance", this->inputs_);
        count_at_ = add("count", 1);
        scale_ = Buffer<T>(round_up(this->inputs_, line_elements<T>));
    }
    void bind(T*, T*, T* buffers) override {
        mean_ = buffers + mean_at_;
        variance_ = buffers + variance_at_;
        count_ = buffers + count_at_;
    }
    void initialize(std::uint64_t, Activation) override { *count_ = T(0); }

    void prepare(const Pass&) override { update_scale(); }
    void forward(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, T*) override {
        make_call(pass.tape, [x, y, mean = mean_, scale = scale_.data()] { shift_and_scale<T>(x, mean, scale, y); });
    }
    bool rows_alone() const override { return true; }
    bool repeats() const override { return true; }
    void backward_input(const Pass& pass, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T*) override {
        make_call(pass.tape, [=, scale = scale_.data()] {
            shift_and_scale<T>(grad, nullptr, scale, grad_x);
            activation_backward<T>(slope.activation, slope.source, grad_x);
        });
    }

    void affine(ConstMatrix<T> x, Matrix<T> a, T* scratch) override {
        update_scale();
        forward({}, x, a, scratch);
    }
    void affine_tangent(const Dual<T>& x, const T*, Matrix<T> a, T*) override { shift_and_scale<T>(x.tangent, nullptr, scale_.data(), a); }
    void affine_backward(ConstMatrix<T>, ConstMatrix<T> grad, T*, Matrix<T> grad_x, T*) override {
        if (grad_x.data != nullptr) {
            shift_and_scale<T>(grad, nullptr, scale_.data(), grad_x);
        }
    }

    bool adapted() const override { return *count_ > T(0); }
    void adapt(const Source& source) override {
        std::vector<double> mean(static_cast<std::size_t>(this->inputs_));
        std::vector<double> variance(mean.size());
        column_moments(source, mean.data(), variance.data());
        for (std::size_t j = 0; j < mean.size(); ++j) {
            check(std::isfinite(static_cast<T>(variance[j])), "Standardize: the values of column ", j, " are too large (mean ", mean[j],
                  ", variance ", variance[j], "); scale it first, or look for a code for missing values in it");
        }
        for (std::size_t j = 0; j < mean.size(); ++j) {
            mean_[j] = static_cast<T>(mean[j]);
            variance_[j] = static_cast<T>(variance[j]);
        }
        *count_ = static_cast<T>(source.rows);
    }

   private:
    // The statistics may be written from outside, so the scale is not kept across passes. What is as it was is not written: another thread
    // may read it, in a step that it began ahead.
    void update_scale() {
        for (Index j = 0; j < this->inputs_; ++j) {
            // Nothing is known of what a constant column does later: 1 / sqrt(eps) would make 10 000 of a 1 among zeros.
            const T scale = variance_[j] > T(0) ? T(1) / std::sqrt(variance_[j] + static_cast<T>(eps_)) : T(0);
            if (T& kept = scale_.data()[j]; !(kept == scale)) {
                kept = scale;
            }
        }
    }

    double eps_;
    Index mean_at_ = 0;
    Index variance_at_ = 0;
    Index count_at_ = 0;
    T* mean_ = nullptr;
    T* variance_ = nullptr;
    T* count_ = nullptr;
    Buffer<T> scale_;
};

}  // namespace fastopt
