#include <cmath>
#include <type_traits>

#include "core/threads.hpp"
#include "kernels/reduce.hpp"
#include "optimizers/elementwise.hpp"

namespace fastopt {

namespace {

constexpr Index chunk = 4096;

// A sum in each lane, of type S.
template <class S, class T>
class Squares {
   public:
    FASTOPT_INLINE void add(const simd::Vec<T>& g) {
        if constexpr (std::is_same_v<S, T>) {
            sum_ = simd::fma(g, g, sum_);
        } else {
            alignas(cache_line) T line[lanes];
            simd::store(line, g);
            for (Index i = 0; i < lanes; ++i) {
                wide_[i] += static_cast<S>(line[i]) * static_cast<S>(line[i]);
            }
        }
    }
    double total() const {
        if constexpr (std::is_same_v<S, T>) {
            T line[lanes];
            simd::store(line, sum_);
            return tree_sum(line, lanes);
        } else {
            return tree_sum(wide_, lanes);
        }
    }

   private:
    static constexpr Index lanes = simd::Vec<T>::lanes;
    simd::Vec<T> sum_ = simd::zero<T>();
    S wide_[lanes] = {};
};

// Chunks of squares, summed as numbers of type S.
template <class S, class T>
double sum_of_squares(const Segment<T>& segment, double* partial) {
    using simd::Vec;
    constexpr Index lanes = Vec<T>::lanes;
    const Index chunks = norm_chunks(segment.size);
    const VecTransform<T> transform([&] {
        GradientTransform t = segment.transform;
        t.scale = 1;
        return t;
    }());
    const bool plain = segment.transform.l1 == 0 && segment.transform.l2 == 0 && segment.transform.clip_value == 0;
    parallel_for(chunks, 1, 10.0 * static_cast<double>(segment.size), [&](Index begin, Index end) {
        for (Index c = begin; c < end; ++c) {
            const Index last = std::min(segment.size, (c + 1) * chunk);
            Squares<S, T> sum;
            Index i = c * chunk;
            // Without penalties and clipping the weights need not be read.
            for (; plain && i + lanes <= last; i += lanes) {
                sum.add(simd::load(segment.g + i));
            }
            for (; i + lanes <= last; i += lanes) {
                sum.add(transform(simd::load(segment.w + i), simd::load(segment.g + i)));
            }
            if (i < last) {
                sum.add(transform(simd::load_partial(segment.w + i, last - i), simd::load_partial(segment.g + i, last - i)));
            }
            partial[c] = sum.total();
        }
    });
    return tree_sum(partial, chunks);
}

}  // namespace

Index norm_chunks(Index size) { return ceil_div(size, chunk); }

template <class T>
double squared_norm(const Segment<T>& segment, double* partial) {
    const double sum = sum_of_squares<T>(segment, partial);
    if (std::is_same_v<T, float> && !std::isfinite(sum)) {  // squares from 1.8e19 on
        return sum_of_squares<double>(segment, partial);
    }
    return sum;
}

template double squared_norm<float>(const Segment<float>&, double*);
template double squared_norm<double>(const Segment<double>&, double*);

}  // namespace fastopt
