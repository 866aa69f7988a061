// Softmax of one padded row, shared by the losses and by predict_proba.
#pragma once

#include <cmath>

#include "core/types.hpp"
#include "kernels/simd_math.hpp"

namespace fastopt {

// Writes exp(x - max) to `e` (padding 0) and returns {max, sum of e}. log softmax(x)_k = x_k - max - log(sum).
template <class T>
struct SoftmaxRow {
    T max;
    T sum;
};

template <class T>
FASTOPT_INLINE SoftmaxRow<T> softmax_exponentials(const T* x, Index cols, T* e) {
    using namespace simd;
    constexpr Index lanes = Vec<T>::lanes;
    const Vec<T> lowest = set1(std::numeric_limits<T>::lowest());
    const auto line = [&](Index j) { return j + lanes <= cols ? load(x + j) : select(first_lanes<T>(cols - j), load(x + j), lowest); };
    Vec<T> high = lowest;
    for (Index j = 0; j < cols; j += lanes) {
        high = max(high, line(j));
    }
    const T top = max_lanes(high);
    Vec<T> sum = zero<T>();
    for (Index j = 0; j < cols; j += lanes) {
        Vec<T> value = exp(line(j) - set1(top));
        if (j + lanes > cols) {
            value = keep(first_lanes<T>(cols - j), value);
        }
        store(e + j, value);
        sum = sum + value;
    }
    return {top, sum_lanes(sum)};
}

// out = softmax(x) row by row, padded matrices.
template <class T>
void softmax(In<T> x, Out<T> out);

}  // namespace fastopt
