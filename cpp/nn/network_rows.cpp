// Network: training steps in which each thread takes rows of its own through all layers, and steps on large batches, block by block.
#include <algorithm>

#include "nn/network.hpp"

namespace fastopt {

template <class T>
bool Network<T>::own_inputs() const {
    constexpr Index small_bytes = Index{1} << 15;
    return apart_ && trained_rows_ * padded_ld<T>(inputs_) * static_cast<Index>(sizeof(T)) <= small_bytes;
}

template <class T>
void Network<T>::reserve_apart(Index rows, int threads) {
    thread_scratch_ = scratch_elements(rows, 1);
    scratch_.reserve(threads * thread_scratch_);
    reserve_gradients();
    if (own_inputs()) {
        more_inputs_.resize(std::max(more_inputs_.size(), static_cast<std::size_t>(threads - 1)));
        for (PaddedMatrix<T>& more : more_inputs_) {
            more.reserve(capacity_, inputs_);
        }
    }
}

template <class T>
void Network<T>::backward_rows(Range rows, int thread) {
    const Pass pass = pass_of(thread, rows.begin, rows.begin);
    const std::size_t lowest = lowest_trainable();
    if (lowest == stages_.size()) {
        return;
    }
    std::size_t s = stages_.size() - 1;
    Matrix<T> grad = gradient_of(s).row_range(rows.begin, rows.size());
    const Slope<T> last = slope_of(s, pass, rows.size(), thread);
    activation_backward<T>(last.activation, last.source, grad);
    for (; s > lowest; --s) {
        Layer<T>& layer = *stages_[s].layer;
        const Slope<T> slope = slope_of(s - 1, pass, rows.size(), thread);
        if (stages_[s].transparent) {
            activation_backward<T>(slope.activation, slope.source, grad);
            continue;
        }
        const Matrix<T> grad_x = gradient_of(s - 1).row_range(rows.begin, rows.size());
        layer.backward_input(pass, grad, grad_x, slope, scratch_of(thread));
        lap(pass.profile, Phase::input_gradient, layer.number(), trained_rows_);
        grad = grad_x;
    }
}

template <class T>
bool Network<T>::weight_gradient(Index stage, Part part) {
    const auto s = static_cast<std::size_t>(stage);
    Layer<T>& layer = *stages_[s].layer;
    if (!layer.trainable()) {
        return false;
    }
    const Pass pass = pass_of(part.thread, 0, 0);
    layer.backward_weight(pass, below(s, part.thread), gradient_of(s), part, scratch_of(part.thread));
    // A thread without a part of the weight took no time for its product.
    lap(pass.profile, Phase::weight_gradient, layer.number(), layer.weight_part(part).empty() ? 0 : trained_rows_);
    return true;
}

// The rule holds for all instruction sets: the sums are others.
template <class T>
bool Network<T>::in_blocks(Index rows) const {
    const bool large = rows > RowBlocks::fewest_bytes / trained_bytes_of_row_;
    return large && rows_alone_ && precision_ == Precision::full && weight_bytes() <= cached_bytes && !in_halves(rows);
}

template <class T>
double Network<T>::work_in_blocks(Index rows) const {
    return training_work(rows) + 2 * work_of_element * static_cast<double>(rows * elements_of_row_);
}

template <class T>
void Network<T>::begin_blocks(const RowBlocks& blocks, int threads) {
    begin(threads * blocks.block, true);
    pass_.in_halves = false;
    pass_.between = nullptr;  // not by these threads
    apart_for_ = {};          // memory for each of them is another
    thread_scratch_ = scratch_elements(blocks.block, 1);
    scratch_.reserve(threads * thread_scratch_);
    reserve_gradients();
}

template <class T>
void Network<T>::end_blocks(bool made) {
    for (Stage& stage : stages_) {
        stage.view = {};
    }
    if (made) {
        trained_rows_ = 0;
    }
}

template <class T>
void Network<T>::add_weight_gradients(Range place, T* gradients, int thread) {
    for (std::size_t s = stages_.size(); s-- > 0;) {
        Layer<T>& layer = *stages_[s].layer;
        if (layer.trainable()) {
            const auto mine = [&](const auto& m) { return m.row_range(place.begin, place.size()); };
            layer.affine_backward(mine(below(s)), mine(gradient_of(s)), gradients, {}, scratch_of(thread));
            lap(thread == 0 ? profile_.get() : nullptr, Phase::weight_gradient, layer.number());
        }
    }
}

#define FASTOPT_INSTANTIATE(T)                                     \
    template bool Network<T>::own_inputs() const;                  \
    template void Network<T>::reserve_apart(Index, int);           \
    template void Network<T>::backward_rows(Range, int);           \
    template bool Network<T>::weight_gradient(Index, Part);        \
    template bool Network<T>::in_blocks(Index) const;              \
    template double Network<T>::work_in_blocks(Index) const;       \
    template void Network<T>::begin_blocks(const RowBlocks&, int); \
    template void Network<T>::end_blocks(bool);                    \
    template void Network<T>::add_weight_gradients(Range, T*, int);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)
#undef FASTOPT_INSTANTIATE

}  // namespace fastopt
