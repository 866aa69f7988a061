// Training data as the caller holds it.
#pragma once

#include "kernels/gather.hpp"

namespace fastopt {

// Rows of features, targets (a table of numbers or class indices), weights (may be null).
template <class T>
struct Data {
    Source x;
    Source y;
    const std::int32_t* labels = nullptr;
    const T* weight = nullptr;
};

}  // namespace fastopt
