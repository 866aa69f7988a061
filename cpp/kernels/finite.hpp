// Looking for numbers that are not finite.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/types.hpp"

namespace fastopt {

// Whether one of so many numbers is NaN or, its sign apart, larger than `most`.
template <class T>
inline bool any_beyond(const T* values, Index count, T most) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    constexpr Bits size = static_cast<Bits>(~Bits{0}) >> 1;  // the sign apart, numbers are ordered as their bits, NaN behind infinity
    Bits largest;
    std::memcpy(&largest, &most, sizeof(T));
    Bits found = 0;  // no early end: the loop is vectorised, and the answer is nearly always no
    for (Index i = 0; i < count; ++i) {
        Bits bits;
        std::memcpy(&bits, values + i, sizeof(T));
        found |= static_cast<Bits>((bits & size) > largest);
    }
    return found != 0;
}

}  // namespace fastopt
