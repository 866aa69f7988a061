#include "nn/second_order.hpp"

#include <algorithm>
#include <cmath>

#include "core/threads.hpp"
#include "kernels/dense.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/gemm.hpp"
#include "kernels/reduce.hpp"

namespace fastopt {

namespace {

// Rows of one block: its activations stay in cache, and sums over so many rows keep the products busy.
constexpr Index block_rows = 1024;
// Rows of a block of the Jacobian, times outputs.
constexpr Index jacobian_rows_wanted = 384;
// Columns of one product of the lower triangle: narrow enough to leave out most of the upper one.
constexpr Index square_columns = 64;

template <class T>
Matrix<T> slice(const PaddedMatrix<T>& matrix, Index rows, Index cols) {
    Matrix<T> view = matrix.view(rows);
    view.cols = cols;
    return view;
}

template <class T>
double inverse_weight(const Data<T>& data) {
    const double total = data.weight == nullptr ? static_cast<double>(data.x.rows) : tree_sum(data.weight, data.x.rows);
    return total > 0 ? 1.0 / total : 0.0;
}

double work_of(Index rows, Index cols) { return 40.0 * static_cast<double>(rows * cols); }

}  // namespace

template <class T>
SecondOrder<T>::SecondOrder(std::shared_ptr<Network<T>> network) : network_(std::move(network)) {
    thread_choices_.fill(ThreadChoice(Clock::of_system(), true));
    const Index total = network_->parameter_layout().total();
    count_ = network_->parameter_layout().count();
    direction_ = Buffer<T>(total);
    gradients_ = Buffer<T>(total);
    Index at = 0;
    for (Index s = 0; s < network_->stages(); ++s) {
        Layer<T>& layer = network_->stage(s);
        Stage stage;
        stage.layer = &layer;
        stage.at = at;
        stage.activation = layer.activation();
        stage.transparent = layer.transparent(Pass{});
        if (at == 0 && layer.parameters() > 0) {
            lowest_ = stages_.size();
        }
        at += layer.parameters();
        stages_.push_back(std::move(stage));
    }
    if (at == 0) {
        lowest_ = stages_.size();
    }
}

template <class T>
void SecondOrder<T>::start(Index rows) {
    check(network_->adapted(), "the Standardize layer has not seen data yet");
    check(rows > 0, "x must have at least one row");
    if (rows <= capacity_) {
        return;
    }
    capacity_ = 0;  // should memory run out on the way
    Index widest = network_->inputs();
    input_.reserve(rows, network_->inputs());
    for (Stage& stage : stages_) {
        const Index width = stage.layer->outputs();
        widest = std::max(widest, width);
        for (PaddedMatrix<T>* matrix : {&stage.before, &stage.after, &stage.tangent_before, &stage.tangent_after}) {
            matrix->reserve(rows, width);
        }
    }
    for (PaddedMatrix<T>* matrix : {&gradient_[0], &gradient_[1], &tangent_[0], &tangent_[1]}) {
        matrix->reserve(rows, widest);
    }
    row_scale_.reserve(rows);
    row_loss_.reserve(rows);
    capacity_ = rows;
}

template <class T>
T* SecondOrder<T>::scratch(Index rows) {
    Index need = 0;
    for (const Stage& stage : stages_) {
        need = std::max(need, stage.layer->scratch(rows, get_num_threads()));
    }
    scratch_.reserve(need);
    return scratch_.data();
}

template <class T>
template <class F>
void SecondOrder<T>::for_blocks(Kind kind, double products, Index rows, Index size, F&& f) {
    start(std::min(rows, size));
    const double work = products * static_cast<double>(std::min(rows, size));
    thread_choices_[kind].run(ceil_div(rows, size), work, [&](Index number) {
        if (between_blocks_) {
            between_blocks_();
        }
        f(Block{number * size, std::min(size, rows - number * size)});
        return true;
    });
}

template <class T>
void SecondOrder<T>::clear_gradients() {
    std::fill(gradients_.data(), gradients_.data() + gradients_.size(), T(0));
}

template <class T>
void SecondOrder<T>::to_flat(const T* compact, T* flat) const {
    for (const SegmentInfo& info : network_->parameter_layout().segments()) {
        std::copy(compact, compact + info.size, flat + info.offset);
        compact += info.size;
    }
}

template <class T>
void SecondOrder<T>::to_compact(const T* flat, T* compact) const {
    for (const SegmentInfo& info : network_->parameter_layout().segments()) {
        compact = std::copy(flat + info.offset, flat + info.offset + info.size, compact);
    }
}

template <class T>
void SecondOrder<T>::read_target(const Data<T>& data, const Block& block) {
    if (data.labels != nullptr) {
        seen_ = {{}, data.labels + block.first};
        return;
    }
    target_.reserve(block.rows, data.y.cols);
    gather<T>(data.y, nullptr, block.first, target_.view(block.rows));
    seen_ = {target_.view(block.rows), nullptr};
}

template <class T>
double SecondOrder<T>::loss_of(const Loss<T>& loss, const Data<T>& data, const Block& block, double inverse, ConstMatrix<T> prediction,
                               bool gradient) {
    read_target(data, block);
    const T* weight = data.weight == nullptr ? nullptr : data.weight + block.first;
    for (Index i = 0; i < block.rows; ++i) {
        row_scale_.data()[i] = static_cast<T>((weight == nullptr ? 1.0 : static_cast<double>(weight[i])) * inverse);
    }
    const Matrix<T> grad = gradient ? slice(gradient_[0], block.rows, prediction.cols) : Matrix<T>{};
    parallel_for(block.rows, 1, work_of(block.rows, prediction.cols),
                 [&](Index begin, Index end) { loss.rows(begin, end, prediction, seen_, row_scale_.data(), row_loss_.data(), grad); });
    clear_weightless<T>(weight, grad);
    return (weight == nullptr ? tree_sum(row_loss_.data(), block.rows) : weighted_sum(row_loss_.data(), weight, block.rows)) * inverse;
}

// ---- passes over one block ----------------------------------------------------------------------------------------------------------

template <class T>
ConstMatrix<T> SecondOrder<T>::forward(const Source& source, const Block& block) {
    gather<T>(source, nullptr, block.first, input_.view(block.rows));
    T* temporary = scratch(block.rows);
    ConstMatrix<T> x = input_.view(block.rows);
    for (Stage& stage : stages_) {
        stage.x = x;
        if (!stage.transparent) {
            const Matrix<T> a = stage.before.view(block.rows);
            stage.layer->affine(x, a, temporary);
            stage.a = a;
            stage.h = a;
            if (stage.activation != Activation::identity) {
                const Matrix<T> h = stage.after.view(block.rows);
                activation_forward<T>(stage.activation, a, h);
                stage.h = h;
            }
            x = stage.h;
        }
    }
    return x;
}

template <class T>
ConstMatrix<T> SecondOrder<T>::forward_tangent(Index rows) {
    T* temporary = scratch(rows);
    ConstMatrix<T> tangent;
    for (std::size_t s = lowest_; s < stages_.size(); ++s) {
        Stage& stage = stages_[s];
        stage.tx = tangent;
        if (stage.transparent) {
            continue;
        }
        const Matrix<T> ta = stage.tangent_before.view(rows);
        stage.layer->affine_tangent({stage.x, tangent}, direction_.data(), ta, temporary);
        stage.ta = ta;
        tangent = ta;
        if (stage.activation != Activation::identity) {
            const Matrix<T> th = stage.tangent_after.view(rows);
            copy_rows<T>(ta, th);
            activation_backward<T>(stage.activation, stage.slope_source(), th);
            tangent = th;
        }
    }
    return tangent;
}

// f(stage, gradient of its output, where the gradient of its input goes) from the last stage down to the lowest with parameters.
template <class T>
template <class F>
void SecondOrder<T>::walk_back(Index rows, F&& f) {
    int turn = 0;
    for (std::size_t s = stages_.size(); s-- > lowest_;) {
        Stage& stage = stages_[s];
        if (stage.transparent) {
            continue;
        }
        const Matrix<T> grad = slice(gradient_[turn], rows, stage.layer->outputs());
        const Matrix<T> grad_x = s > lowest_ ? slice(gradient_[1 - turn], rows, stage.layer->inputs()) : Matrix<T>{};
        f(stage, grad, grad_x);
        turn = 1 - turn;
    }
}

template <class T>
void SecondOrder<T>::backward(Index rows) {
    T* temporary = scratch(rows);
    walk_back(rows, [&](Stage& stage, Matrix<T> grad, Matrix<T> grad_x) {
        activation_backward<T>(stage.activation, stage.slope_source(), grad);
        stage.layer->affine_backward(stage.x, grad, gradients_.data(), grad_x, temporary);
    });
}

template <class T>
void SecondOrder<T>::backward_rows(Index rows, Matrix<T> out) {
    T* temporary = scratch(rows);
    walk_back(rows, [&](Stage& stage, Matrix<T> grad, Matrix<T> grad_x) {
        activation_backward<T>(stage.activation, stage.slope_source(), grad);
        stage.layer->affine_rows(stage.x, grad, {out.data + stage.at, out.rows, stage.layer->parameters(), out.ld, false});
        stage.layer->affine_backward(stage.x, grad, nullptr, grad_x, temporary);
    });
}

// With h = g(a): grad_a = grad_h g', and its tangent grad_h' g' + grad_h g'' a'.
template <class T>
void SecondOrder<T>::backward_tangent(Index rows) {
    T* temporary = scratch(rows);
    int turn = 0;
    walk_back(rows, [&](Stage& stage, Matrix<T> grad, Matrix<T> grad_x) {
        const Matrix<T> tangent = slice(tangent_[turn], rows, grad.cols);
        const Matrix<T> tangent_x = grad_x.data == nullptr ? grad_x : slice(tangent_[1 - turn], rows, grad_x.cols);
        if (stage.activation != Activation::identity) {
            activation_backward<T>(stage.activation, stage.slope_source(), tangent);
            activation_curvature<T>(stage.activation, stage.slope_source(), grad, stage.ta, tangent);
            activation_backward<T>(stage.activation, stage.slope_source(), grad);
        }
        stage.layer->affine_backward_tangent({stage.x, stage.tx}, {grad, tangent}, direction_.data(), gradients_.data(), tangent_x,
                                             temporary);
        stage.layer->affine_backward(stage.x, grad, nullptr, grad_x, temporary);
        turn = 1 - turn;
    });
}

// ---- sums over all rows -------------------------------------------------------------------------------------------------------------

template <class T>
double SecondOrder<T>::gradient(const Loss<T>& loss, const Data<T>& data, T* gradient) {
    const double inverse = inverse_weight(data);
    double value = 0;
    clear_gradients();
    for_blocks(gradients, work_of_row(), data.x.rows, block_rows, [&](const Block& block) {
        value += loss_of(loss, data, block, inverse, forward(data.x, block), gradient != nullptr);
        if (gradient != nullptr) {
            backward(block.rows);
        }
    });
    if (gradient != nullptr) {
        to_compact(gradients_.data(), gradient);
    }
    return value;
}

template <class T>
void SecondOrder<T>::hessian_vector(const Loss<T>& loss, const Data<T>& data, const T* v, T* out) {
    const double inverse = inverse_weight(data);
    clear_gradients();
    to_flat(v, direction_.data());
    for_blocks(curvature, 2 * work_of_row(), data.x.rows, block_rows, [&](const Block& block) {
        const ConstMatrix<T> prediction = forward(data.x, block);
        loss_of(loss, data, block, inverse, prediction, true);
        const ConstMatrix<T> tangent = forward_tangent(block.rows);
        if (tangent.data == nullptr) {
            return;
        }
        const Matrix<T> bend = slice(tangent_[0], block.rows, prediction.cols);
        parallel_for(block.rows, 1, work_of(block.rows, prediction.cols),
                     [&](Index begin, Index end) { loss.curvature_rows(begin, end, prediction, seen_, row_scale_.data(), tangent, bend); });
        clear_weightless<T>(data.weight == nullptr ? nullptr : data.weight + block.first, bend);
        backward_tangent(block.rows);
    });
    to_compact(gradients_.data(), out);
}

template <class T>
void SecondOrder<T>::hessian(const Loss<T>& loss, const Data<T>& data, T* out) {
    std::vector<T> unit(static_cast<std::size_t>(count_));
    for (Index j = 0; j < count_; ++j) {
        unit[static_cast<std::size_t>(j)] = T(1);
        hessian_vector(loss, data, unit.data(), out + j * count_);
        unit[static_cast<std::size_t>(j)] = T(0);
    }
    for (Index i = 0; i < count_; ++i) {
        for (Index j = 0; j < i; ++j) {
            const T mean = T(0.5) * (out[i * count_ + j] + out[j * count_ + i]);
            out[i * count_ + j] = mean;
            out[j * count_ + i] = mean;
        }
    }
}

template <class T>
void SecondOrder<T>::jacobian_rows(Index rows, const T* seed, Matrix<T> out) {
    const Index outputs = network_->outputs();
    for (Index k = 0; k < outputs; ++k) {
        const Matrix<T> grad = slice(gradient_[0], rows, outputs);
        for (Index i = 0; i < rows; ++i) {
            std::fill(grad.row(i), grad.row(i) + outputs, T(0));
            grad.row(i)[k] = seed == nullptr ? T(1) : seed[i];
        }
        backward_rows(rows, {out.row(k), rows, out.cols, outputs * out.ld, false});
    }
}

template <class T>
void SecondOrder<T>::jacobian(const Source& x, T* out) {
    const Index outputs = network_->outputs();
    for_blocks(jacobians, static_cast<double>(outputs) * work_of_row(), x.rows, block_rows, [&](const Block& block) {
        forward(x, block);
        jacobian_rows(block.rows, nullptr, {out + block.first * outputs * count_, block.rows * outputs, count_, count_, false});
    });
}

template <class T>
double SecondOrder<T>::gauss_newton(const Data<T>& data, T* matrix, T* gradient) {
    const Index outputs = network_->outputs();
    const Index wanted = std::max<Index>(1, jacobian_rows_wanted / outputs);
    const double inverse = inverse_weight(data) / static_cast<double>(outputs);
    std::fill(matrix, matrix + count_ * count_, T(0));
    std::fill(gradient, gradient + count_, T(0));
    jacobian_.reserve(wanted * outputs, count_);
    residual_.reserve(wanted * outputs);
    scratch_.reserve(std::max(product_scratch<T>(count_, square_columns, wanted * outputs, get_num_threads()),
                              product_scratch<T>(1, count_, wanted * outputs, get_num_threads())));
    double value = 0;
    const double square = static_cast<double>(count_) * static_cast<double>(count_);
    for_blocks(squares, static_cast<double>(outputs) * (work_of_row() + square), data.x.rows, wanted, [&](const Block& block) {
        const ConstMatrix<T> prediction = forward(data.x, block);
        read_target(data, block);
        T* r = residual_.data();
        for (Index i = 0; i < block.rows; ++i) {
            const double weight = data.weight == nullptr ? 1.0 : static_cast<double>(data.weight[block.first + i]);
            const T scale = static_cast<T>(std::sqrt(weight * inverse));
            row_scale_.data()[i] = scale;
            for (Index k = 0; k < outputs; ++k) {
                *r++ = scale * (prediction.row(i)[k] - seen_.dense.row(i)[k]);
            }
        }
        for (Index i = 0; i < block.rows * outputs; ++i) {
            value += static_cast<double>(residual_.data()[i]) * static_cast<double>(residual_.data()[i]);
        }
        const Matrix<T> rows = jacobian_.view(block.rows * outputs);
        jacobian_rows(block.rows, row_scale_.data(), rows);
        add_square(rows, matrix);
        const Operand<T> residual{residual_.data(), rows.rows, 1, false};
        dense_accumulate<T>(residual, operand<T>(rows), {gradient, 1, count_, count_, false}, 1, rows.rows, scratch_.data());
    });
    for (Index i = 0; i < count_; ++i) {
        for (Index j = 0; j < i; ++j) {
            matrix[j * count_ + i] = matrix[i * count_ + j];
        }
    }
    return value;
}

// Column panels from the diagonal down; what the first tiles compute above the diagonal is overwritten by the mirror.
template <class T>
void SecondOrder<T>::add_square(ConstMatrix<T> a, T* out) {
    for (Index j = 0; j < count_; j += square_columns) {
        const Index cols = std::min(square_columns, count_ - j);
        const Operand<T> left{a.data + j, 1, a.ld, true};
        const Operand<T> right{a.data + j, a.ld, 1, true};
        dense_accumulate<T>(left, right, {out + j * count_ + j, count_ - j, cols, count_, false}, count_ - j, a.rows, scratch_.data());
    }
}

template class SecondOrder<float>;
template class SecondOrder<double>;

}  // namespace fastopt
