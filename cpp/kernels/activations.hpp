// Elementwise activations g and their derivatives, whole arrays and tiles of a matrix.
#pragma once

#include <string>
#include <vector>

#include "core/types.hpp"

namespace fastopt {

enum class Activation { identity, sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, gelu_tanh, silu, softplus, hard_tanh };

// Throws std::invalid_argument listing the known names.
Activation activation_from_name(const std::string& name);
const char* activation_name(Activation activation);
std::vector<std::string> activation_names();

// True when g'(a) is computed from a itself; otherwise from h = g(a), and a need not be kept.
bool activation_needs_input(Activation activation);

// h = g(a) on `rows` rows of `vecs` cache lines each; h may be a. Runs on the calling thread.
template <class T>
void activation_forward_tile(Activation activation, const T* a, Index lda, T* h, Index ldh, Index rows, Index vecs);

// d *= g'(source) where source is h, or a when activation_needs_input.
template <class T>
void activation_backward_tile(Activation activation, const T* source, Index lds, T* d, Index ldd, Index rows, Index vecs);

// The same on `count` contiguous elements, on several threads.
template <class T>
void activation_forward(Activation activation, const T* a, T* h, Index count);
template <class T>
void activation_backward(Activation activation, const T* source, const T* grad_h, T* grad_a, Index count);

// Whole padded matrices, on several threads.
template <class T>
void activation_forward(Activation activation, In<T> a, Out<T> h);
template <class T>
void activation_backward(Activation activation, In<T> source, Out<T> d);
// h = g(a + b), which may be either of them; `pre`, when given, keeps a + b.
template <class T>
void activation_of_sum(Activation activation, In<T> a, In<T> b, Out<T> h, Out<T> pre);

// d += grad_h * g''(source) * tangent_a on padded matrices: what the bend of g adds to the tangent of a gradient. Kinks count as straight.
template <class T>
void activation_curvature(Activation activation, In<T> source, In<T> grad_h, In<T> tangent_a, Out<T> d);

}  // namespace fastopt
