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
inline void copy_row(const T* from, Index cols, T* to) {
    constexpr Index line = line_elements<T>;
    constexpr Index half = line / 2;
    constexpr Index piece = line / 4;
    if (cols >= line) {
        const Index last = cols - line;
        for (Index j = 0; j < last; j += line) {
            copy_piece<line>(from + j, to + j);
        }
        copy_piece<line>(from + last, to + last);
    } else if (cols >= half) {
        copy_piece<half>(from, to);
        copy_piece<half>(from + cols - half, to + cols - half);
    } else if (cols >= piece) {
        copy_piece<piece>(from, to);
        copy_piece<piece>(from + cols - piece, to + cols - piece);
    } else {
        for (Index j = 0; j < cols; ++j) {
            to[j] = from[j];
        }
    }
}

}  // namespace fastopt
