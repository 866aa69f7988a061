#include "core/threads.hpp"
#include "kernels/reduce.hpp"
#include "optimizers/elementwise.hpp"

namespace fastopt {

namespace {
constexpr Index chunk = 4096;
}

Index norm_chunks(Index size) { return ceil_div(size, chunk); }

template <class T>
double squared_norm(const Segment<T>& segment, double* partial) {
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
            Vec<T> sum = simd::zero<T>();
            Index i = c * chunk;
            // Without penalties and clipping the weights need not be read.
            for (; plain && i + lanes <= last; i += lanes) {
                const Vec<T> g = simd::load(segment.g + i);
                sum = simd::fma(g, g, sum);
            }
            for (; i + lanes <= last; i += lanes) {
                const Vec<T> g = transform(simd::load(segment.w + i), simd::load(segment.g + i));
                sum = simd::fma(g, g, sum);
            }
            if (i < last) {
                const Vec<T> g = transform(simd::load_partial(segment.w + i, last - i), simd::load_partial(segment.g + i, last - i));
                sum = simd::fma(g, g, sum);
            }
            T line[lanes];
            simd::store(line, sum);
            partial[c] = tree_sum(line, lanes);
        }
    });
    return tree_sum(partial, chunks);
}

template double squared_norm<float>(const Segment<float>&, double*);
template double squared_norm<double>(const Segment<double>&, double*);

}  // namespace fastopt
