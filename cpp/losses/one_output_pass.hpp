// The end of a network of one output behind a layer of a few units, from the sums of that layer to their gradients, in one pass over the
// rows: h = relu(a), y = h w + b, the loss, its gradient d, and with it those of a and w. The h of a few rows stay in registers from the
// sums to the gradients; by one kernel after the other each is stored and loaded twice, and a store of 512 bits takes a Zen 4 two cycles.
// The same operations in the same order as activations.hpp, thin.hpp and elementwise.hpp, so the same bits.
#pragma once

#include "kernels/simd_lanes.hpp"
#include "losses/one_output.hpp"

namespace fastopt {

// Whether there are registers enough, with the instruction set as a stand-in for their number.
#if defined(__AVX512F__)
constexpr bool has_one_output_pass = true;
#else
constexpr bool has_one_output_pass = false;
#endif

template <class T, int Vecs, class Rule>
class OneOutputPass {
   public:
    OneOutputPass(const OneOutput<T>& of, const Rule& rule)
        : of_(of), rule_(rule), last_(of.units - (Vecs - 1) * lanes), inside_(simd::first_lanes<T>(last_)) {}

    FASTOPT_INLINE void run() {
        using namespace simd;
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) {
            weight_[v] = v + 1 < Vecs ? load(of_.weight + v * lanes) : load_partial(of_.weight + v * lanes, last_);
            sum_[v] = zero<T>();
        }
        constexpr int together = Vecs <= 2 ? 8 : 4;
        Index i = 0;
        for (; i + together <= of_.rows; i += together) {
            rows_from<together>(i);
        }
        for (; i < of_.rows; ++i) {
            rows_from<1>(i);
        }
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) {
            store_partial(of_.weight_gradient + v * lanes, sum_[v], v + 1 < Vecs ? lanes : last_);
        }
    }

   private:
    static constexpr Index lanes = simd::Vec<T>::lanes;
    static constexpr Index ld = Vecs * lanes;

    template <int Rows>
    FASTOPT_INLINE void rows_from(Index i) {
        using namespace simd;
        const T* const one = of_.sums[0] + i * ld;
        const T* const other = of_.sums[1] + i * ld;
        Vec<T> h[Rows][Vecs];
        Vec<T> products[Rows];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            products[r] = zero<T>();
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) {
                h[r][v] = relu(load(one + r * ld + v * lanes) + load(other + r * ld + v * lanes));
                if (v + 1 == Vecs) {
                    h[r][v] = keep(inside_, h[r][v]);  // what lies in the padding is anybody's
                }
                products[r] = fma(h[r][v], weight_[v], products[r]);
            }
        }
        Vec<T> y;
        y.p[0] = sum_lanes_together(products);
        if (of_.bias != nullptr) {
            y = y + *of_.bias;
        }
        Vec<T> value;
        Vec<T> slope;
        rule_(y, load_partial(of_.target + i, Rows), value, slope);
        slope = slope * load_partial(of_.row_scale + i, Rows);
        store_partial(of_.row_loss + i, value, Rows);
        store_partial(of_.output_gradient + i, slope, Rows);
        alignas(cache_line) T factors[lanes];  // a partial store is not forwarded to loads
        store(factors, slope);
        T* const to = of_.gradient + i * ld;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const Vec<T> factor = set1(factors[r]);
#pragma GCC unroll 4
            for (int v = 0; v < Vecs; ++v) {
                sum_[v] = fma(factor, h[r][v], sum_[v]);
                store(to + r * ld + v * lanes, keep(less(zero<T>(), h[r][v]), fma(factor, weight_[v], zero<T>())));
            }
        }
    }

    const OneOutput<T> of_;
    const Rule& rule_;
    const Index last_;  // units in the last Vec
    const simd::Mask<T> inside_;
    simd::Vec<T> weight_[Vecs];
    simd::Vec<T> sum_[Vecs];
};

// rule(outputs, targets, values, slopes) as in elementwise.hpp.
template <class T, class Rule>
void one_output_pass(const OneOutput<T>& of, const Rule& rule) {
    switch (ceil_div(of.units, simd::Vec<T>::lanes)) {
        case 1:
            return OneOutputPass<T, 1, Rule>(of, rule).run();
        case 2:
            return OneOutputPass<T, 2, Rule>(of, rule).run();
        case 3:
            return OneOutputPass<T, 3, Rule>(of, rule).run();
        default:
            return OneOutputPass<T, OneOutput<T>::most_vecs, Rule>(of, rule).run();
    }
}

}  // namespace fastopt
