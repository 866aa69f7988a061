// Copies of rows, which are often short.
#pragma once

#include <cstddef>

#include "core/types.hpp"

namespace fastopt {

// What one register holds; with AVX-512 too, or this header would differ between the cores and the bindings that they share. (Not made by a
// template: GCC forgets attributes that depend on its parameters. Nor by `using`: Clang forgets the alignment there.)
#if defined(__AVX__)
constexpr std::size_t widest_copy = 32;
#else
constexpr std::size_t widest_copy = 16;
#endif
typedef unsigned char Bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef unsigned char Bytes32 __attribute__((vector_size(32), aligned(1), may_alias));
static_assert(alignof(Bytes16) == 1 && alignof(Bytes32) == 1, "rows begin anywhere");

// The compiler's own copies of known size stop at registers of sixteen bytes.
template <std::size_t Bytes>
inline void copy_bytes(const void* from, void* to) {
    if constexpr (Bytes > widest_copy) {
        copy_bytes<Bytes / 2>(from, to);
        copy_bytes<Bytes / 2>(static_cast<const char*>(from) + Bytes / 2, static_cast<char*>(to) + Bytes / 2);
    } else if constexpr (Bytes == 32) {
        *static_cast<Bytes32*>(to) = *static_cast<const Bytes32*>(from);
    } else {
        static_assert(Bytes == 16);
        *static_cast<Bytes16*>(to) = *static_cast<const Bytes16*>(from);
    }
}
template <Index Count, class T>
inline void copy_piece(const T* from, T* to) {
    copy_bytes<Count * sizeof(T)>(from, to);
}

// f(copy), where copy(from, to) copies a row of so many elements: in pieces of a size known to the compiler instead of calls, the last one
// over the end of the one before.
template <class T, class F>
inline void with_row_copy(Index cols, F&& f) {
    constexpr Index line = line_elements<T>;
    constexpr Index half = line / 2;
    constexpr Index piece = line / 4;
    if (cols > line) {
        const Index last = cols - line;
        f([last](const T* from, T* to) {
            for (Index j = 0; j < last; j += line) {
                copy_piece<line>(from + j, to + j);
            }
            copy_piece<line>(from + last, to + last);
        });
    } else if (cols == line) {
        f([](const T* from, T* to) { copy_piece<line>(from, to); });
    } else if (cols == half) {
        f([](const T* from, T* to) { copy_piece<half>(from, to); });
    } else if (cols > half) {
        f([last = cols - half](const T* from, T* to) {
            copy_piece<half>(from, to);
            copy_piece<half>(from + last, to + last);
        });
    } else if (cols >= piece) {
        f([last = cols - piece](const T* from, T* to) {
            copy_piece<piece>(from, to);
            copy_piece<piece>(from + last, to + last);
        });
    } else if (cols == 1) {
        f([](const T* from, T* to) { *to = *from; });
    } else {
        f([cols](const T* from, T* to) {
            for (Index j = 0; j < cols; ++j) {
                to[j] = from[j];
            }
        });
    }
}

template <class T>
inline void copy_row(const T* from, Index cols, T* to) {
    with_row_copy<T>(cols, [=](const auto& copy) { copy(from, to); });
}

}  // namespace fastopt
