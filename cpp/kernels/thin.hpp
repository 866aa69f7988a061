// Dense layers with few outputs, where lanes across outputs would stand empty. In thin ones (1 to 4: regression, binary classification)
// lanes run along the inputs: forward as dot products with a fixed tree over the lanes, the input gradient with the columns of W side by
// side. In narrow ones (less than a Vec: the digits) the weight gradient is the transposed product. The rows of W follow each other without
// gaps.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"
#include "kernels/tape.hpp"

namespace fastopt {

constexpr Index max_thin = 4;
constexpr bool is_thin(Index units) { return units <= max_thin; }
template <class T>
constexpr bool is_narrow(Index units) {
    return units < line_elements<T>;
}

// For any of these on a thin or narrow layer.
template <class T>
Index thin_scratch(Index rows, Index inputs, Index units, int threads);

template <class T>
void thin_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch);

template <class T>
void narrow_backward_weight(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch, Tape* tape);

// Both gradients of a thin layer in one pass over the rows of x, by this thread; x, grad_x and slope_source are padded.
template <class T>
void thin_backward(In<T> x, In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, Out<T> grad_weight,
                   T* scratch);

template <class T>
void thin_backward_input(In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, T* scratch);

}  // namespace fastopt
