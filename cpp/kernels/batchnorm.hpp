// Batch normalization over the rows of padded matrices (Ioffe and Szegedy 2015), biased variance, exact backward.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"

namespace fastopt {

template <class T>
struct BatchNorm {
    const T* gamma;
    const T* beta;
    T eps;
};

// Elements of scratch for any batch of up to `rows` rows.
template <class T>
Index batchnorm_scratch(Index rows, Index cols);

// mean and inverse_std (both padded to cache lines) of the batch; the variance as mean of squared deviations, chunk by chunk, combined in
// order (Chan, Golub, LeVeque 1979). Reads x once.
template <class T>
void batchnorm_statistics(In<T> x, T eps, T* mean, T* variance, T* inverse_std, T* scratch);

// y = g((x - mean) inverse_std gamma + beta); `pre` (may be empty) keeps the argument of g.
template <class T>
void batchnorm_apply(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, Activation activation, Out<T> y, Out<T> pre);

// grad_gamma = sum dy xhat, grad_beta = sum dy, grad_x = gamma inverse_std (dy - grad_beta/m - xhat grad_gamma/m), times g'(slope_source).
// grad_x may be empty or share memory with grad_y.
template <class T>
void batchnorm_backward(In<T> x, const BatchNorm<T>& norm, const T* mean, const T* inverse_std, In<T> grad_y, Out<T> grad_x, T* grad_gamma,
                        T* grad_beta, Activation slope, In<T> slope_source, T* scratch);

}  // namespace fastopt
