// Cache lines that another core has read or written, taken before they are written.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// Whether it pays, with the instruction set as a stand-in for the processor. On a Zen 4 small networks on two threads became a tenth faster
// so, on a Zen 3, whose tiles have half as many multiply-adds to hide it behind, a tenth to a fifth slower.
#if defined(__AVX512F__)
constexpr bool takes_lines_ahead = true;
#else
constexpr bool takes_lines_ahead = false;
#endif

// Store what is there to each line of `count` elements. The first store to a line that another core has read waits until that core gives
// it up, some 12 ns; stores wait in order, so a loop of nothing but stores adds these times up. Done ahead of work that stores little,
// nobody feels them. (A prefetch for writing does nothing for lines that both cores hold.) Nobody else may write these elements at the
// time.
template <class T>
void take_lines(T* data, Index count) {
    for (Index at = 0; at < count; at += line_elements<T>) {
        volatile T* line = data + at;
        *line = *line;
    }
}

// Ask for lines that another core has written, for reading now and writing later: this core owns them from then on, and a store finds them
// ready. As fast as reading alone, since these requests need not keep the order that stores do. (x86-64-v4 has no intrinsic for it, but no
// processor with AVX2 fails at the instruction.)
template <class T>
void own_lines(const T* data, Index count) {
    for (Index at = 0; at < count; at += line_elements<T>) {
#if defined(__x86_64__)
        __asm__ volatile("prefetchw %0" : : "m"(data[at]));
#else
        __builtin_prefetch(data + at, 1);
#endif
    }
}

}  // namespace fastopt
