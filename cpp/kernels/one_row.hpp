// Dense forward of one row: what a product (kernels/gemm.hpp) works out around its tiles would take as long as their multiply-adds. Every
// element is the chain that it is in a product, bit for bit.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"

namespace fastopt {

// Whole cache lines of W's rows are read, and of y and pre (may be empty) written.
template <class T>
bool one_row_fits(const ConstMatrix<T>& x, const ConstMatrix<T>& weight, const Matrix<T>& y, const Matrix<T>& pre) {
    return x.rows == 1 && weight.slack && y.padded && (pre.data == nullptr || pre.padded);
}

// y = g(x W + b). `bias` is null or has whole cache lines.
template <class T>
void one_row_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre);

}  // namespace fastopt
