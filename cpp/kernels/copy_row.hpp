// Copies of rows, which are often short.
#pragma once

#include <cstring>

#include "core/types.hpp"

namespace fastopt {

// A value of so many bytes that stays in registers. (GCC forgets a vector's size when it depends on a template's parameter.)
template <std::size_t Bytes>
struct Piece;
#define FASTOPT_PIECE(bytes)                                               \
    template <>                                                            \
    struct Piece<bytes> {                                                  \
        using Type = unsigned char __attribute__((vector_size(bytes)));    \
        static_assert(sizeof(Type) == bytes, "a vector of so many bytes"); \
    };
FASTOPT_PIECE(16)
FASTOPT_PIECE(32)
FASTOPT_PIECE(64)
#undef FASTOPT_PIECE

// The compiler's own copies of known size stop at registers of sixteen bytes.
template <Index Count, class T>
inline void copy_piece(const T* from, T* to) {
    typename Piece<Count * sizeof(T)>::Type piece;
    std::memcpy(&piece, from, sizeof(piece));
    std::memcpy(to, &piece, sizeof(piece));
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
    } else if (cols >= half) {
        f([last = cols - half](const T* from, T* to) {
            copy_piece<half>(from, to);
            copy_piece<half>(from + last, to + last);
        });
    } else if (cols >= piece) {
        f([last = cols - piece](const T* from, T* to) {
            copy_piece<piece>(from, to);
            copy_piece<piece>(from + last, to + last);
        });
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
