// Ranges of items, and the shares of threads in them.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// [begin, end) of the share of `thread` in `count` items, in multiples of `grain` items.
struct Range {
    Index begin;
    Index end;

    Index size() const { return end - begin; }
    bool empty() const { return begin >= end; }
};
inline Range share(Index count, int thread, int threads, Index grain = 1) {
    if (threads == 1) {
        return {0, count};
    }
    const Index grains = ceil_div(count, grain);
    const Index begin = grains * thread / threads * grain;
    const Index end = grains * (thread + 1) / threads * grain;
    return {begin < count ? begin : count, end < count ? end : count};
}

}  // namespace fastopt
