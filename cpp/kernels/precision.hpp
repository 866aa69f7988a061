// In what the products of dense layers are computed.
#pragma once

#include <string>
#include <vector>

namespace fastopt {

enum class Precision {
    full,  // in the type of the operands
    bf16,  // float32 operands rounded to bfloat16 (8 bits of significand), float32 sums
};

// Throws std::invalid_argument that lists the known ones.
Precision precision_from_name(const std::string& name);
std::vector<std::string> precision_names();

// True when this core has bfloat16 products and the processor the instructions for them (AVX512_BF16).
bool bf16_available();
// Throws std::invalid_argument that says what is missing for `precision` with elements of `bytes` bytes.
void check_precision(Precision precision, int bytes);

}  // namespace fastopt
