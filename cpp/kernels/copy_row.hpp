// Copies of rows, which are often short.
#pragma once

#include <cstring>

#include "core/types.hpp"

namespace fastopt {

template <Index Count, class T>
void copy_piece(const T* from, T* to) {
    std::memcpy(to, from, static_cast<std::size_t>(Count) * sizeof(T));
}

// Pieces of a size known to the compiler instead of calls, the last one over the end of the one before.
template <class T>
void copy_row(const T* from, Index cols, T* to) {
    constexpr Index line = line_elements<T>;
    constexpr Index piece = line / 4;
    if (cols >= line) {
        for (Index j = 0; j + line <= cols; j += line) {
            copy_piece<line>(from + j, to + j);
        }
        copy_piece<line>(from + cols - line, to + cols - line);
    } else if (cols >= piece) {
        for (Index j = 0; j + piece <= cols; j += piece) {
            copy_piece<piece>(from + j, to + j);
        }
        copy_piece<piece>(from + cols - piece, to + cols - piece);
    } else {
        for (Index j = 0; j < cols; ++j) {
            to[j] = from[j];
        }
    }
}

}  // namespace fastopt
