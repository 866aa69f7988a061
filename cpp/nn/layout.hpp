// Names and places in a flat buffer: parameters, gradients, slots and averages share one layout, statistics have another.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "core/threads.hpp"
#include "core/types.hpp"

namespace fastopt {

struct SegmentInfo {
    std::string name;
    Index offset = 0;
    Index size = 0;
    std::vector<Index> shape;
    bool weight = false;  // penalties and weight decay apply
    bool trainable = true;
    double l1 = 0;
    double l2 = 0;
    double multiplier = 1;  // of the learning rate
    Index turn = 0;         // of the threads that look after it, see Part
};

// What one of several threads looks after in every parameter: a range of the first extent, in whole cache lines of the flat buffer. Whoever
// writes gradients by parts writes these of every parameter and no others, and the same thread may update them at once. The last thread of
// a turn gets what is left over, or all when there is one line; turns give that to each thread now and then.
struct Part {
    int thread = 0;
    int threads = 1;
    bool updates = false;  // this thread updates it next

    template <class T>
    Range of(Index extent, Index turn) const {
        const int place = threads == 1 ? 0 : static_cast<int>((thread + turn) % threads);
        return share(extent, place, threads, line_elements<T>);
    }
};

// Segments start on cache lines; what is between them stays 0.
template <class T>
class Layout {
   public:
    // Returns the offset of the new segment.
    Index add(SegmentInfo info) {
        info.offset = total_;
        info.size = 1;
        for (const Index extent : info.shape) {
            check(extent <= 0 || info.size <= most_elements / extent, info.name, " has more elements than fit into memory");
            info.size *= extent;
        }
        check(info.size <= most_elements - total_, "the parameters up to ", info.name, " do not fit into memory");
        total_ += round_up(info.size, line_elements<T>);
        count_ += info.size;
        segments_.push_back(std::move(info));
        return segments_.back().offset;
    }
    const std::vector<SegmentInfo>& segments() const { return segments_; }
    Index total() const { return total_; }  // elements of the flat buffer
    Index count() const { return count_; }  // elements that mean something

   private:
    static constexpr Index most_elements = Index{1} << 56;  // of float64, with room to round up

    std::vector<SegmentInfo> segments_;
    Index total_ = 0;
    Index count_ = 0;
};

}  // namespace fastopt
