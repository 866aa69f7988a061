// Sums over the rows of a batch on any number of threads with the same bits: chunks of rows, joined along a binary tree.
#pragma once

#include <algorithm>
#include <array>

#include "core/threads.hpp"
#include "core/types.hpp"

namespace fastopt {

// Where chunks begin depends on the number of rows alone.
struct Chunks {
    static constexpr Index most = 16;
    static constexpr Index fewest_rows = 128;  // joining two chunks costs as much as some five rows

    Index rows;
    Index rows_each;
    Index count;

    explicit Chunks(Index all_rows)
        : rows(all_rows), rows_each(std::max(fewest_rows, round_up(ceil_div(all_rows, most), 8))), count(ceil_div(all_rows, rows_each)) {}

    // The rows of `number` chunks from `first` on.
    Range range(Index first, Index number = 1) const { return {first * rows_each, std::min(rows, (first + number) * rows_each)}; }
    Index rows_of(Index first, Index number) const {
        const Range all = range(first, number);
        return all.end - all.begin;
    }
};

// leaf(chunk) for every chunk on all threads; then join(left, right, rows of the left, rows of the right) adds the chunks from `right` on
// to those from `left` on, until chunk 0 holds everything. A thread joins what lies wholly in its share, so that little passes between
// cores.
template <class Leaf, class Join>
void reduce_chunks(const Chunks& chunks, double work, Leaf&& leaf, Join&& join) {
    std::array<Index, Chunks::most> held{};  // chunks that each holds after its thread
    // Whether chunk `lo` holds the node of `size` chunks, after what the owner of the chunks in `own` can do.
    const auto settle = [&](const auto& self, Index lo, Index size, Range own) -> bool {
        if (lo >= chunks.count) {
            return true;
        }
        if (lo < own.begin || lo >= own.end) {
            return false;
        }
        Index& holds = held[static_cast<std::size_t>(lo)];
        if (size <= holds) {
            return true;
        }
        const Index half = size / 2;
        const bool left = self(self, lo, half, own);
        if (!self(self, lo + half, half, own) || !left) {
            return false;
        }
        if (lo + half < chunks.count) {
            join(lo, lo + half, chunks.rows_of(lo, half), chunks.rows_of(lo + half, half));
        }
        holds = size;
        return true;
    };
    parallel_for(chunks.count, 1, work, [&](Index begin, Index end) {
        for (Index c = begin; c < end; ++c) {
            leaf(c);
            held[static_cast<std::size_t>(c)] = 1;
        }
        // From each of the thread's chunks that begin a node.
        for (Index size = 2; size <= Chunks::most; size *= 2) {
            for (Index lo = round_up(begin, size); lo < end; lo += size) {
                settle(settle, lo, size, Range{begin, end});
            }
        }
    });
    settle(settle, 0, Chunks::most, Range{0, chunks.count});
}

}  // namespace fastopt
