// Softmax of one row and of several, for the kernel and the losses.
#pragma once

#include <algorithm>
#include <limits>

#include "core/types.hpp"
#include "kernels/simd_lanes.hpp"
#include "kernels/simd_math.hpp"

namespace fastopt {

// Writes exp(x - max) to `e` and returns {max, sum of e}; log softmax(x)_k = x_k - max - log(sum). `padded`: both rows may be read and
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
        Vec<T> value = exp_of_nonpositive(line(j) - set1(top));
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

// Up to `most` rows of up to one line, turned: a Vec holds a column of them, so there is no fold across lanes, no lane is spent on padding,
// and the bits are those of softmax_exponentials.
template <class T>
class SoftmaxColumns {
   public:
    using V = simd::Vec<T>;
    static constexpr Index most = V::lanes;
    static bool fits(Index cols) { return cols <= V::lanes; }

    explicit SoftmaxColumns(Index cols) : cols_(cols) {
        for (Index j = cols; j < round_up(cols, packet_lanes); ++j) {
            simd::store(e_[j], simd::zero<T>());
        }
    }

    // exp(x - max) and their sums; rows past the last repeat it.
    void exponentials(In<T> x) {
        using namespace simd;
        for (Index r = 0; r < most; r += packet_lanes) {
            for (Index first = 0; first < cols_; first += packet_lanes) {
                if (r + packet_lanes <= x.rows) {
                    turn<T>(x.row(r) + first, x.ld, x_[first] + r, most);
                } else {
                    turn<T>([&](Index i) FASTOPT_INLINE_LAMBDA { return x.row(std::min(r + i, x.rows - 1)) + first; }, x_[first] + r, most);
                }
            }
        }
        max_ = fold(x_, [](const V& a, const V& b) FASTOPT_INLINE_LAMBDA { return simd::max(a, b); });
        for (Index j = 0; j < cols_; ++j) {
            store(e_[j], exp_of_nonpositive(load(x_[j]) - max_));
        }
        sum_ = fold(e_, [](const V& a, const V& b) FASTOPT_INLINE_LAMBDA { return a + b; });
    }

    V max() const { return max_; }
    V sum() const { return sum_; }
    Index cols() const { return cols_; }
    V x(Index j) const { return simd::load(x_[j]); }
    // The exponentials, or what has taken their place.
    V e(Index j) const { return simd::load(e_[j]); }
    void set(Index j, const V& value) { simd::store(e_[j], value); }

    // They become rows again, with zeros behind them when these are padded.
    void write(Out<T> out) const {
        const Index width = out.padded ? V::lanes : cols_;
        for (Index r = 0; r < out.rows; r += packet_lanes) {
            const Index rows = std::min(packet_lanes, out.rows - r);
            for (Index first = 0; first < width; first += packet_lanes) {
                write_square(out, r, rows, first, std::min(packet_lanes, width - first));
            }
        }
    }

   private:
    static constexpr Index packet_lanes = V::packet_lanes;

    // By the tree of sum_lanes; a lane that holds no column would not change a sum.
    template <class F>
    FASTOPT_INLINE V fold(const T (&column)[V::lanes][V::lanes], F&& f) const {
        if (cols_ == 1) {
            return simd::load(column[0]);
        }
        return fold_from<V::lanes / 2>(column, f);
    }
    template <int Half, class F>
    FASTOPT_INLINE V fold_from(const T (&column)[V::lanes][V::lanes], const F& f) const {
        using simd::load;
        if constexpr (Half > 1) {
            if (cols_ <= Half) {
                return fold_from<Half / 2>(column, f);
            }
        }
        V part[Half];
#pragma GCC unroll 8
        for (int j = 0; j < Half; ++j) {
            part[j] = j + Half < cols_ ? f(load(column[j]), load(column[j + Half])) : load(column[j]);
        }
#pragma GCC unroll 4
        for (int half = Half / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
            for (int j = 0; j < half; ++j) {
                part[j] = f(part[j], part[j + half]);
            }
        }
        return part[0];
    }

    FASTOPT_INLINE void write_square(const Matrix<T>& out, Index r, Index rows, Index first, Index cols) const {
        using Packet = typename V::Packet;
        T* const to = out.row(r) + first;
        if (first >= cols_) {
            for (Index i = 0; i < rows; ++i) {
                simd::ei::pstoreu(to + i * out.ld, simd::ei::pset1<Packet>(T(0)));
            }
            return;
        }
        const auto column = [&](Index i) FASTOPT_INLINE_LAMBDA { return e_[first + i] + r; };
        if (rows == packet_lanes && cols == packet_lanes) {
            simd::turn<T>(column, to, out.ld);
            return;
        }
        alignas(cache_line) T square[packet_lanes][packet_lanes];
        simd::turn<T>(column, square[0], packet_lanes);
        for (Index i = 0; i < rows; ++i) {
            std::copy_n(square[i], cols, to + i * out.ld);
        }
    }

    Index cols_;
    V max_;
    V sum_;
    alignas(cache_line) T x_[V::lanes][V::lanes];
    alignas(cache_line) T e_[V::lanes][V::lanes];
};

}  // namespace fastopt
