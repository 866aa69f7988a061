// How a large batch goes through a small network: in blocks of rows, each forward and back before the next one, so that activations stay in
// a core's cache and their memory does not grow with the batch. Several blocks make a group, which has a gradient of its own; threads take
// whole groups, and what is summed with what is a matter of sizes alone.
#pragma once

#include <algorithm>

#include "core/range.hpp"

namespace fastopt {

struct RowBlocks {
    // Of all activations of a batch and their gradients, where it is worth it.
    static constexpr Index fewest_bytes = Index{1} << 21;
    static constexpr Index groups = 16;

    Index rows;    // of the batch
    Index blocks;  // of a group
    Index block;   // rows of one, at most

    // `row_bytes`: of the activations of a row and their gradients.
    RowBlocks(Index batch_rows, Index row_bytes) : rows(batch_rows) {
        constexpr Index block_bytes = Index{1} << 17;
        const Index most = std::clamp<Index>(block_bytes / row_bytes, 64, 1024);
        const Index largest = ceil_div(ceil_div(rows, grain), groups) * grain;  // group
        blocks = ceil_div(largest, most);
        block = round_up(ceil_div(largest, blocks), grain);
    }
    Range of(Index group, Index number) const {
        const Range all = share(rows, static_cast<int>(group), static_cast<int>(groups), grain);
        const Index begin = std::min(all.end, all.begin + number * block);
        return {begin, std::min(all.end, begin + block)};
    }

   private:
    static constexpr Index grain = 8;
};

}  // namespace fastopt
