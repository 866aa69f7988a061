// The operands of the end of a network of one output behind a layer of a few units (losses/one_output_pass.hpp).
#pragma once

#include "core/types.hpp"

namespace fastopt {

template <class T>
struct OneOutput {
    // Vecs of units, at most.
    static constexpr Index most_vecs = 4;

    Index rows;
    Index units;
    const T* sums[2];  // of the units in two parts; rows of whole Vecs without gaps, as their gradient's
    const T* weight;
    const T* bias;  // or null
    const T* target;
    const T* row_scale;
    T* row_loss;
    T* output_gradient;
    T* gradient;
    T* weight_gradient;
};

}  // namespace fastopt
