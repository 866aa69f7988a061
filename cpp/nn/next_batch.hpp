// The next batch, gathered while the present one is trained on: an errand of threads that wait for each other.
#pragma once

#include <algorithm>
#include <vector>

#include "core/aligned.hpp"
#include "core/errand.hpp"
#include "nn/data.hpp"

namespace fastopt {

template <class T>
class NextBatch {
   public:
    Errand& errand() { return errand_; }

    // Whether so many rows are worth a second place in memory.
    static bool wants(const Data<T>& data, Index rows) { return rows > 0 && rows * row_bytes(data) <= most_bytes; }
    // Begin with a batch, when nothing is left of the one before; in memory for the inputs of `capacity` rows.
    void begin(const Data<T>& data, const Rows& rows, Index capacity) {
        data_ = data;
        order_.resize(static_cast<std::size_t>(rows.count));
        rows.copy_to(order_.data());
        inputs_.reserve(capacity, data.x.cols);
        targets_.reserve(data, rows.count);
        piece_ = std::max<Index>(1, piece_bytes / row_bytes(data));
        const Index pieces = ceil_div(rows.count, piece_);
        errand_.offer(
            pieces, [](void* self, Index piece) { static_cast<NextBatch*>(self)->gather_piece(piece); }, this);
    }
    // Whether a batch was begun with; all of it is there when this returns.
    bool finish() { return errand_.finish(); }
    PaddedMatrix<T>& inputs() { return inputs_; }
    BatchTargets<T>& targets() { return targets_; }

   private:
    static constexpr Index most_bytes = Index{1} << 22;
    // They take about a microsecond, by which a thread that is wanted elsewhere comes late.
    static constexpr Index piece_bytes = 4096;

    static Index row_bytes(const Data<T>& data) { return (data.x.cols + data.y.cols + 1) * static_cast<Index>(sizeof(T)); }
    Index count() const { return static_cast<Index>(order_.size()); }
    void gather_piece(Index piece) {
        const Range rows{piece * piece_, std::min((piece + 1) * piece_, count())};
        gather<T>(data_.x, order_.data() + rows.begin, 0, inputs_.view(rows.end).row_range(rows.begin, rows.size()));
        targets_.gather_rows(data_, order_.data(), rows);
    }

    Data<T> data_;
    std::vector<Index> order_;
    PaddedMatrix<T> inputs_;
    BatchTargets<T> targets_;
    Index piece_ = 1;  // rows
    Errand errand_;
};

}  // namespace fastopt
