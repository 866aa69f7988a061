// Inverted dropout (Srivastava et al. 2014) with masks that are a function of (seed, step, layer, element).
#pragma once

#include "core/rng.hpp"
#include "core/types.hpp"

namespace fastopt {

// mask(i, j) = 0 with probability rate, else 1/(1-rate); y = x mask. Element number (first + i) * cols + j; x, y and mask are padded.
template <class T>
void dropout_forward(In<T> x, double rate, const Stream& stream, Index first, Out<T> mask, Out<T> y);

}  // namespace fastopt
