// Batch normalization with running statistics; the first batch initialises them.
#pragma once

#include <cmath>

#include "core/aligned.hpp"
#include "kernels/batchnorm.hpp"
#include "kernels/columns.hpp"
#include "nn/layer.hpp"

namespace fastopt {

template <class T>
class BatchNormLayer final : public Layer<T> {
   public:
    explicit BatchNormLayer(const Config& config)
        : momentum_(config.number("momentum")),
          eps_(config.number("eps")),
          trainable_(config.flag("trainable")),
          multiplier_(config.number("learning_rate_multiplier")) {}

    LayerInfo info() const override {
        const bool plain = activation_ == Activation::identity;
        return {"batchnorm", "momentum " + sentence(momentum_) + (plain ? "" : std::string(", ") + activation_name(activation_)),
                this->inputs_, trainable_};
    }
    bool trainable() const override { return trainable_; }

    void add_segments(Layout<T>& parameters, Layout<T>& buffers) override {
        const Index width = this->inputs_;
        SegmentInfo info;
        info.trainable = trainable_;
        info.multiplier = multiplier_;
        const auto add = [&](Layout<T>& layout, const char* part, Index size) {
            info.name = this->segment_name(part);
            info.shape = {size};
            return layout.add(info);
        };
        gamma_at_ = add(parameters, "gamma", width);
        beta_at_ = add(parameters, "beta", width);
        mean_at_ = add(buffers, "mean", width);
        variance_at_ = add(buffers, "variance", width);
        count_at_ = add(buffers, "count", 1);
        const Index padded = round_up(width, line_elements<T>);
        batch_mean_ = Buffer<T>(padded);
        batch_variance_ = Buffer<T>(padded);
        batch_inverse_ = Buffer<T>(padded);
        inverse_ = Buffer<T>(padded);
        factor_ = Buffer<T>(padded);
    }
    void bind(T* parameters, T* gradients, T* buffers) override {
        norm_ = {parameters + gamma_at_, parameters + beta_at_, static_cast<T>(eps_)};
        grad_gamma_ = gradients + gamma_at_;
        grad_beta_ = gradients + beta_at_;
        gamma_ = parameters + gamma_at_;
        mean_ = buffers + mean_at_;
        variance_ = buffers + variance_at_;
        count_ = buffers + count_at_;
    }
    bool absorb(Activation activation) override {
        if (activation_ != Activation::identity) {
            return false;
        }
        activation_ = activation;
        return true;
    }
    void initialize(std::uint64_t, Activation) override {
        for (Index j = 0; j < this->inputs_; ++j) {
            gamma_[j] = T(1);
            gamma_[beta_at_ - gamma_at_ + j] = T(0);
            mean_[j] = T(0);
            variance_[j] = T(1);
        }
        *count_ = T(0);
    }

    void reserve(Index rows) override {
        if (activation_needs_input(activation_)) {
            pre_.reserve(rows, this->inputs_);
        }
    }
    Index scratch(Index rows, int) const override { return batchnorm_scratch<T>(rows, this->inputs_); }

    void prepare(const Pass& pass) override {
        if (!pass.training) {
            update_inverse();
        }
    }
    void forward(const Pass& pass, ConstMatrix<T> x, Matrix<T> y, T* scratch) override {
        if (!pass.training) {
            batchnorm_apply<T>(x, norm_, mean_, inverse_.data(), activation_, y, {});
            return;
        }
        batchnorm_statistics<T>(x, norm_.eps, batch_mean_.data(), batch_variance_.data(), batch_inverse_.data(), scratch);
        move_running_values();
        batchnorm_apply<T>(x, norm_, batch_mean_.data(), batch_inverse_.data(), activation_, y, pre(x.rows));
    }
    Activation activation() const override { return activation_; }
    Slope<T> slope(const Pass&, ConstMatrix<T>, ConstMatrix<T> y) const override {
        return {activation_, activation_needs_input(activation_) ? ConstMatrix<T>(pre(y.rows)) : y};
    }
    Phase backward(const Pass&, ConstMatrix<T> x, Matrix<T> grad, Matrix<T> grad_x, const Slope<T>& slope, T* scratch) override {
        const Phase phase = grad_x.data != nullptr ? Phase::input_gradient : Phase::weight_gradient;
        if (!trainable_ && grad_x.data == nullptr) {
            return phase;
        }
        // A frozen layer's gradients stay 0 in the flat buffer.
        T* grad_gamma = trainable_ ? grad_gamma_ : inverse_.data();
        T* grad_beta = trainable_ ? grad_beta_ : inverse_.data();
        batchnorm_backward<T>(x, norm_, batch_mean_.data(), batch_inverse_.data(), grad, grad_x, grad_gamma, grad_beta, slope.activation,
                              slope.source, scratch);
        return phase;
    }

    Index parameters() const override { return 2 * this->inputs_; }
    void affine(ConstMatrix<T> x, Matrix<T> a, T*) override {
        update_inverse();
        normal_.reserve(x.rows, this->inputs_);
        batchnorm_apply<T>(x, norm_, mean_, inverse_.data(), Activation::identity, a, {});
        shift_and_scale<T>(x, mean_, inverse_.data(), normal_.view(x.rows));
    }
    // With xhat = (x - mean) inverse: a' = gamma inverse x' + xhat gamma' + beta'.
    void affine_tangent(const Dual<T>& x, const T* direction, Matrix<T> a, T*) override {
        scale_columns<T>(normal_.view(a.rows), direction + gamma_at_, direction + beta_at_, a, false);
        if (x.tangent.data != nullptr) {
            scale_columns<T>(x.tangent, slope_along_x(gamma_), nullptr, a, true);
        }
    }
    void affine_backward(ConstMatrix<T>, ConstMatrix<T> grad, T* gradients, Matrix<T> grad_x, T*) override {
        if (gradients != nullptr) {
            add_column_products<T>(normal_.view(grad.rows), grad, gradients + gamma_at_);
            add_column_products<T>({}, grad, gradients + beta_at_);
        }
        if (grad_x.data != nullptr) {
            scale_columns<T>(grad, slope_along_x(gamma_), nullptr, grad_x, false);
        }
    }
    void affine_backward_tangent(const Dual<T>& x, const Dual<T>& grad, const T* direction, T* gradients, Matrix<T> grad_x, T*) override {
        affine_backward(x.value, grad.tangent, gradients, grad_x, nullptr);
        if (x.tangent.data != nullptr) {
            normal_tangent_.reserve(grad.value.rows, this->inputs_);
            const Matrix<T> normal = normal_tangent_.view(grad.value.rows);
            shift_and_scale<T>(x.tangent, nullptr, inverse_.data(), normal);
            add_column_products<T>(normal, grad.value, gradients + gamma_at_);
        }
        if (grad_x.data != nullptr) {
            scale_columns<T>(grad.value, slope_along_x(direction + gamma_at_), nullptr, grad_x, true);
        }
    }
    void affine_rows(ConstMatrix<T>, ConstMatrix<T> grad, Matrix<T> out) override {
        const Matrix<T> normal = normal_.view(grad.rows);
        for (Index i = 0; i < grad.rows; ++i) {
            for (Index j = 0; j < this->inputs_; ++j) {
                out.row(i)[j] = normal.row(i)[j] * grad.row(i)[j];
                out.row(i)[this->inputs_ + j] = grad.row(i)[j];
            }
        }
    }

   private:
    Matrix<T> pre(Index rows) const { return activation_needs_input(activation_) ? pre_.view(rows) : Matrix<T>{}; }

    void update_inverse() {
        for (Index j = 0; j < this->inputs_; ++j) {
            inverse_.data()[j] = T(1) / std::sqrt(variance_[j] + static_cast<T>(eps_));
        }
    }
    // gamma inverse, for gamma itself or its direction.
    const T* slope_along_x(const T* gamma) {
        for (Index j = 0; j < this->inputs_; ++j) {
            factor_.data()[j] = gamma[j] * inverse_.data()[j];
        }
        return factor_.data();
    }

    void move_running_values() {
        const T share = *count_ > T(0) ? static_cast<T>(momentum_) : T(1);
        const T kept = T(1) - share;
        for (Index j = 0; j < this->inputs_; ++j) {
            mean_[j] = kept * mean_[j] + share * batch_mean_.data()[j];
            variance_[j] = kept * variance_[j] + share * batch_variance_.data()[j];
        }
        *count_ += T(1);
    }

    double momentum_;
    double eps_;
    bool trainable_;
    double multiplier_;
    Activation activation_ = Activation::identity;

    Index gamma_at_ = 0;
    Index beta_at_ = 0;
    Index mean_at_ = 0;
    Index variance_at_ = 0;
    Index count_at_ = 0;
    BatchNorm<T> norm_ = {};
    T* gamma_ = nullptr;
    T* grad_gamma_ = nullptr;
    T* grad_beta_ = nullptr;
    T* mean_ = nullptr;
    T* variance_ = nullptr;
    T* count_ = nullptr;
    Buffer<T> batch_mean_;
    Buffer<T> batch_variance_;
    Buffer<T> batch_inverse_;
    Buffer<T> inverse_;
    PaddedMatrix<T> pre_;
    PaddedMatrix<T> normal_;  // second order: (x - mean) inverse, and its tangent
    PaddedMatrix<T> normal_tangent_;
    Buffer<T> factor_;
};

}  // namespace fastopt
