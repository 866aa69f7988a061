// Dense layer: y = g(x W + b) and its gradients, W (inputs, units) with contiguous rows. Thin layers (kernels/thin.hpp) are computed in
// full precision always.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"
#include "kernels/gemm.hpp"

namespace fastopt {

// Elements of scratch for dense_forward, dense_backward_weight and dense_backward_input of batches up to `rows`.
template <class T>
Index dense_scratch(Index rows, Index inputs, Index units, int threads);

// y = g(x W + b). `bias` is null or has whole cache lines; `pre` (may be empty) keeps x W + b. `writes_next`, here (without effect for
// thin layers) and below, and `tape`: see Product.
template <class T>
void dense_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch,
                   Precision precision = Precision::full, Out<T> writes_next = {}, Tape* tape = nullptr);
// y = g((x W + b) + addend), where addend (padded) is y or no part of it; `pre` keeps the sum.
template <class T>
void dense_forward_onto(In<T> addend, In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch,
                        Tape* tape = nullptr);

// dense_backward_input and dense_backward_weight: of a thin layer by one thread, in one pass over the rows; of others by threads that are
// waited for once.
template <class T>
void dense_backward(In<T> x, In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, Out<T> grad_weight,
                    T* scratch, Precision precision = Precision::full, Tape* tape = nullptr);

// grad_weight = x^T grad_a. The gradient of the bias is column_sums (kernels/reduce.hpp) of grad_a.
template <class T>
void dense_backward_weight(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch, Precision precision = Precision::full,
                           Out<T> writes_next = {}, Tape* tape = nullptr);

// grad_x = grad_a W^T, times g'(slope_source) of the activation that made x (identity: none).
template <class T>
void dense_backward_input(In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, T* scratch,
                          Precision precision = Precision::full, Tape* tape = nullptr);

// grad_weight += x^T grad_a.
template <class T>
void dense_add_weight_gradient(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch);

// c (rows, c.cols) += a b, where `inner` is what the sums run over; any of the products of a dense layer.
template <class T>
void dense_accumulate(const Operand<T>& a, const Operand<T>& b, Out<T> c, Index rows, Index inner, T* scratch,
                      Precision precision = Precision::full);

// out(i, :) = (x_i0 grad_i, x_i1 grad_i, ..., grad_i): weight and, with `bias`, bias gradients of every row alone, side by side.
template <class T>
void outer_rows(In<T> x, In<T> grad, bool bias, Out<T> out);

}  // namespace fastopt
