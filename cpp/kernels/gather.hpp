// Rows of the caller's data, of several element types, converted and laid side by side.
#pragma once

#include <atomic>

#include "core/types.hpp"

namespace fastopt {

enum class SourceType { float32, float64, uint8, int16 };
template <class T>
constexpr SourceType source_type = std::is_same_v<T, float> ? SourceType::float32 : SourceType::float64;

// A read-only table of the caller: `stride` elements between rows, contiguous within a row.
struct Source {
    const void* data = nullptr;
    SourceType type = SourceType::float32;
    Index rows = 0;
    Index cols = 0;
    Index stride = 0;
    std::atomic<bool>* broken = nullptr;  // if any, set when a row that is gathered holds what is not finite as a T
};

// out(i, :) = source(order[i], :) (order null: rows first..first+out.rows).
template <class T>
void gather(const Source& source, const Index* order, Index first, Out<T> out);

// Mean and biased variance of every column, in double, by fixed chunks of rows combined in order. Constant columns get exactly 0.
void column_moments(const Source& source, double* mean, double* variance);

}  // namespace fastopt
