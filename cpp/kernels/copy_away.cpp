#include "kernels/copy_away.hpp"

#include <cstring>

#include "core/threads.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

// Lines of the source that are asked for ahead.
constexpr Index lines_ahead = 32;

}  // namespace

void copy_away(const void* from, Index bytes, void* to) {
    constexpr Index line = cache_line / static_cast<Index>(sizeof(float));
    const Index lines = bytes / cache_line;
    const auto* source = static_cast<const float*>(from);  // of any type: nothing is computed with it
    auto* copy = static_cast<float*>(to);
    parallel_for(lines, 1, static_cast<double>(bytes), [=](Index begin, Index end) {
        for (Index i = begin * line; i < end * line; i += line) {
            __builtin_prefetch(source + i + lines_ahead * line);
            simd::stream(copy + i, simd::load(source + i));
        }
        simd::streamed();
    });
    std::memcpy(copy + lines * line, source + lines * line, static_cast<std::size_t>(bytes - lines * cache_line));
}

}  // namespace fastopt
