// Training data as the caller holds it, and the targets of a batch.
#pragma once

#include <algorithm>

#include "core/aligned.hpp"
#include "core/range.hpp"
#include "kernels/gather.hpp"
#include "losses/loss.hpp"

namespace fastopt {

// Rows of features, targets (a table of numbers or class indices), weights (may be null).
template <class T>
struct Data {
    Source x;
    Source y;
    const std::int32_t* labels = nullptr;
    const T* weight = nullptr;
};

// Rows by number, of either width.
struct Rows {
    const Index* wide = nullptr;
    const std::int32_t* narrow = nullptr;
    Index count = 0;

    Rows() = default;
    Rows(const Index* rows, Index count) : wide(rows), count(count) {}
    Rows(const std::int32_t* rows, Index count) : narrow(rows), count(count) {}
    // As many, behind these in the same order.
    void go_on() {
        wide += wide != nullptr ? count : 0;
        narrow += narrow != nullptr ? count : 0;
    }
    void copy_to(Index* to) const { wide != nullptr ? std::copy(wide, wide + count, to) : std::copy(narrow, narrow + count, to); }
};

// Targets of a batch, side by side: numbers, or class indices where the data has such.
template <class T>
class BatchTargets {
   public:
    // `plain`: numbers of one column without gaps.
    Target<T> reserve(const Data<T>& data, Index rows, bool plain = false) {
        Target<T> target;
        if (data.labels != nullptr) {
            classes_.reserve(rows);
            target.classes = classes_.data();
        } else {
            dense_.reserve(rows, data.y.cols);
            plain_ = plain && data.y.cols == 1;
            target.dense = view(rows);
        }
        return target;
    }
    // `rows` of the batch that consists of those in `order` (null: of the first ones).
    void gather_rows(const Data<T>& data, const Index* order, Range rows) { gather_rows(data, order, rows, rows.begin); }
    // To other rows, from `first` on.
    void gather_rows(const Data<T>& data, const Index* order, Range rows, Index first) {
        if (data.labels == nullptr) {
            gather<T>(data.y, order == nullptr ? nullptr : order + rows.begin, rows.begin,
                      view(first + rows.size()).row_range(first, rows.size()));
            return;
        }
        for (Index i = rows.begin; i < rows.end; ++i) {
            classes_.data()[first + i - rows.begin] = data.labels[order == nullptr ? i : order[i]];
        }
    }

   private:
    Matrix<T> view(Index rows) const { return plain_ ? dense_.plain_column(rows) : dense_.view(rows); }

    PaddedMatrix<T> dense_;
    bool plain_ = false;
    Buffer<std::int32_t> classes_;
};

}  // namespace fastopt
