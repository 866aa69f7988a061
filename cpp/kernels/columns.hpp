// Passes over padded matrices with one factor per column: what layers of one scale per column need of second order.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// y = x * scale + shift, or y += that with `accumulate`; scale and shift padded to cache lines, shift may be null.
template <class T>
void scale_columns(In<T> x, const T* scale, const T* shift, Out<T> y, bool accumulate);

// out[j] += sum over rows of x(i, j) g(i, j), a chain over i; without x (empty) of g(i, j) alone. `out` gets exactly `cols` elements.
template <class T>
void add_column_products(In<T> x, In<T> g, T* out);

}  // namespace fastopt
