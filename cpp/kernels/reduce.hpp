// Sums with a fixed order: the same bits on any number of threads.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// out[j] = sum over rows of x(i, j), a chain over i by fours. Reads whole cache lines of padded rows; `out` gets exactly `cols` elements.
template <class T>
void column_sums(In<T> x, T* out);

// Sum in double along a tree.
template <class T>
double tree_sum(const T* values, Index count);

// The same of values times weights; what has no weight does not take part, whatever it is.
template <class T>
double weighted_sum(const T* values, const T* weights, Index count);

// sum(w v) / sum(w), chains in order; 0 when nothing has weight.
double weighted_mean(const double* values, const double* weights, Index count);

// Whether no value is a NaN, an infinity or larger than `most`.
template <class T>
bool all_finite(const T* values, Index count, T most = std::numeric_limits<T>::max());

}  // namespace fastopt
