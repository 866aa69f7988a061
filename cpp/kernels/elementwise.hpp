// Small passes over padded matrices that the layers share.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"

namespace fastopt {

// y = x
template <class T>
void copy_rows(In<T> x, Out<T> y);

// y = x * factor
template <class T>
void multiply_rows(In<T> x, In<T> factor, Out<T> y);

// y = (x - centre) * scale, one centre and scale per column, padded to cache lines; centre may be null.
template <class T>
void shift_and_scale(In<T> x, const T* centre, const T* scale, Out<T> y);

}  // namespace fastopt
