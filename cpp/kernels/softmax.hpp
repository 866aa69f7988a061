// Softmax of rows.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// out = softmax(x) row by row; the two may be one.
template <class T>
void softmax(In<T> x, Out<T> out);

}  // namespace fastopt
