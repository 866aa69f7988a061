// Initial weights as a function of (seed, layer, element).
#pragma once

#include <string>
#include <vector>

#include "core/rng.hpp"
#include "kernels/activations.hpp"

namespace fastopt {

std::vector<std::string> initializer_names();

// Throws std::invalid_argument listing the known names.
void check_initializer(const std::string& name);

// Fill a weight of `fan_in` rows and `fan_out` columns. "auto" is he_uniform before relu, leaky_relu, elu, gelu and silu, lecun_normal
// before selu, else glorot_uniform. `value` is what "constant" means.
template <class T>
void initialize_weight(const std::string& name, Activation next, double value, const Stream& stream, Index fan_in, Index fan_out,
                       T* weight);

}  // namespace fastopt
