// Softmax of one row and of several, for the kernel and the losses.
#pragma once

#include <algorithm>
#include <limits>

#include "core/types.hpp"
#include "kernels/simd_math.hpp"

namespace fastopt {

// Writes exp(x - max) to `e` and returns {max, sum of e}. log softmax(x)_k = x_k - max - log(sum). `padded`: both rows may be read and
// written up to whole lines, and the padding of e becomes 0.
template <class T>
struct SoftmaxRow {
    T max;
    T sum;
};

template <class T>
FASTOPT_INLINE SoftmaxRow<T> softmax_exponentials(const T* x, Index cols, T* e, bool padded = true) {
    using namespace simd;
    constexpr Index lanes = Vec<T>::lanes;
    const Vec<T> lowest = set1(std::numeric_limits<T>::lowest());
    const auto line = [&](Index j) FASTOPT_INLINE_LAMBDA {
        if (j + lanes <= cols) {
            return load(x + j);
        }
        return select(first_lanes<T>(cols - j), padded ? load(x + j) : load_partial(x + j, cols - j), lowest);
    };
    Vec<T> high = lowest;
    for (Index j = 0; j < cols; j += lanes) {
        high = max(high, line(j));
    }
    const T top = max_lanes(high);
    Vec<T> sum = zero<T>();
    for (Index j = 0; j < cols; j += lanes) {
        Vec<T> value = exp(line(j) - set1(top));
        if (j + lanes > cols) {
            value = keep(first_lanes<T>(cols - j), value);
        }
        if (padded || j + lanes <= cols) {
            store(e + j, value);
        } else {
            store_partial(e + j, value, cols - j);
        }
        sum = sum + value;
    }
    return {top, sum_lanes(sum)};
}

// Of one row: log softmax(x)_k = x_k - max - log_sum.
template <class T>
struct SoftmaxTerms {
    T max;
    T sum;
    T log_sum;
};

// The same of several rows, and the logarithms of their sums. Rows of up to one line are turned, so that a packet holds a column of them:
// no fold across lanes, no lanes spent on padding, the same bits.
template <class T>
struct SoftmaxRows {
    using Packet = typename simd::Vec<T>::Packet;
    static constexpr Index lanes = simd::Vec<T>::lanes;
    static constexpr Index most = simd::Vec<T>::packet_lanes;

    // At most `most` rows, padded.
    void exponentials(In<T> x, Out<T> e) {
        simd::store(sum_, simd::set1(T(1)));
        if (x.cols <= lanes) {
            turned(x, e);
        } else {
            for (Index r = 0; r < x.rows; ++r) {
                const SoftmaxRow<T> s = softmax_exponentials(x.row(r), x.cols, e.row(r));
                max_[r] = s.max;
                sum_[r] = s.sum;
            }
        }
        simd::store(log_sum_, simd::log(simd::load(sum_)));
    }

    SoftmaxTerms<T> row(Index r) const { return {max_[r], sum_[r], log_sum_[r]}; }

   private:
    alignas(cache_line) T max_[lanes];
    alignas(cache_line) T sum_[lanes];
    alignas(cache_line) T log_sum_[lanes];

    void turned(In<T> x, Out<T> e) {
        using namespace simd;
        alignas(cache_line) T column[lanes][most];
        Index first = 0;
        do {  // there is a column
            turn<T>([&](Index r) FASTOPT_INLINE_LAMBDA { return x.row(std::min(r, x.rows - 1)) + first; }, column[first], most);
        } while ((first += most) < x.cols);
        Packet top = ei::ploadu<Packet>(column[0]);
        for (Index j = 1; j < x.cols; ++j) {
            top = ei::pmax<Eigen::PropagateNaN>(top, ei::ploadu<Packet>(column[j]));
        }
        ei::pstoreu(max_, top);
        const Vec<T> tops = map<T>([&](int) FASTOPT_INLINE_LAMBDA { return top; });
        for (Index j = 0; j < x.cols; j += Vec<T>::packets) {
            store(column[j], exp(load(column[j]) - tops));
        }
        std::fill(column[0] + x.cols * most, column[0] + lanes * most, T(0));
        // The tree of sum_lanes.
        Packet part[lanes];
        for (Index j = 0; j < lanes; ++j) {
            part[j] = ei::ploadu<Packet>(column[j]);
        }
        for (Index half = lanes / 2; half > 0; half /= 2) {
            for (Index j = 0; j < half; ++j) {
                part[j] = ei::padd(part[j], part[j + half]);
            }
        }
        ei::pstoreu(sum_, part[0]);
        for (Index j = 0; j < lanes; j += most) {
            alignas(cache_line) T square[most][most];
            turn<T>([&](Index i) FASTOPT_INLINE_LAMBDA { return column[j + i]; }, square[0], most);
            for (Index r = 0; r < x.rows; ++r) {
                ei::pstoreu(e.row(r) + j, ei::ploadu<Packet>(square[r]));
            }
        }
    }
};

}  // namespace fastopt
