// Dense layers with very few outputs (1 to 4: regression, binary classification). Lanes across outputs would stand empty there, so lanes
// run along the inputs: forward as dot products with a fixed tree over the lanes, the weight gradient as the transposed product, the input
// gradient with the columns of W side by side. The rows of W follow each other without gaps.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"

namespace fastopt {

constexpr Index max_thin = 4;
constexpr bool is_thin(Index units) { return units <= max_thin; }

template <class T>
Index thin_scratch(Index rows, Index inputs, Index units, int threads);

template <class T>
void thin_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch);

template <class T>
void thin_backward_weight(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch);

template <class T>
void thin_backward_input(In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, T* scratch);

}  // namespace fastopt
