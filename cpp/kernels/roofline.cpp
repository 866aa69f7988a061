#include "kernels/roofline.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "core/aligned.hpp"
#include "core/meeting.hpp"
#include "core/threads.hpp"
#include "kernels/gemm.hpp"
#include "kernels/gemm_bf16.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

template <class F>
void repeat_for(double seconds, F&& f) {
    const auto start = Clock::now();
    do {
        f();
    } while (since(start) < seconds);
}

// Best rate over repetitions of f, each doing `amount`, for about `seconds`.
template <class F>
double best_rate(double seconds, double amount, F&& f) {
    f();
    double best = 0;
    repeat_for(seconds, [&] {
        const auto begin = Clock::now();
        f();
        best = std::max(best, amount / since(begin));
    });
    return best;
}

// Their mean rate.
template <class F>
double mean_rate(double seconds, double amount, F&& f) {
    f();
    double done = 0;
    const auto start = Clock::now();
    repeat_for(seconds, [&] {
        f();
        done += amount;
    });
    return done / since(start);
}

// Registers' worth of independent chains: enough to hide the latency of the multiply-add.
constexpr int chains = 12;

template <class T>
T fma_loop(Index repeats, T seed) {
    using Packet = typename simd::Vec<T>::Packet;
    Packet sums[chains];
    for (int i = 0; i < chains; ++i) {
        // Equal chains would be merged.
        sums[i] = simd::ei::pset1<Packet>(seed + static_cast<T>(i));
    }
    const Packet a = simd::ei::pset1<Packet>(T(0.999));
    const Packet b = simd::ei::pset1<Packet>(T(1e-9));
    for (Index r = 0; r < repeats; ++r) {
#pragma GCC unroll 12
        for (int i = 0; i < chains; ++i) {
            sums[i] = simd::ei::pmadd(a, sums[i], b);
        }
    }
    for (int i = 1; i < chains; ++i) {
        sums[0] = simd::ei::padd(sums[0], sums[i]);
    }
    return simd::ei::pfirst(sums[0]);
}

// Values that stay near 1: denormals would be slower.
template <class T>
T divider_loop(Index repeats, T seed) {
    using Packet = typename simd::Vec<T>::Packet;
    constexpr int pairs = chains / 2;
    Packet roots[pairs];
    Packet quotients[pairs];
    for (int i = 0; i < pairs; ++i) {
        roots[i] = simd::ei::pset1<Packet>(seed + static_cast<T>(i));
        quotients[i] = roots[i];
    }
    for (Index r = 0; r < repeats; ++r) {
#pragma GCC unroll 6
        for (int i = 0; i < pairs; ++i) {
            roots[i] = simd::ei::psqrt(roots[i]);
            quotients[i] = simd::ei::pdiv(roots[i], quotients[i]);
        }
    }
    for (int i = 1; i < pairs; ++i) {
        quotients[0] = simd::ei::padd(quotients[0], quotients[i]);
    }
    return simd::ei::pfirst(quotients[0]);
}

#if defined(FASTOPT_BF16)
FASTOPT_BF16 float bf16_loop(Index repeats, float seed) {
    __m512 sums[chains];
    for (int i = 0; i < chains; ++i) {
        sums[i] = _mm512_set1_ps(seed + static_cast<float>(i));
    }
    const auto pairs = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80));  // (1, 1)
    for (Index r = 0; r < repeats; ++r) {
#pragma GCC unroll 12
        for (int i = 0; i < chains; ++i) {
            sums[i] = _mm512_dpbf16_ps(sums[i], pairs, pairs);
        }
    }
    for (int i = 1; i < chains; ++i) {
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    }
    return _mm512_cvtss_f32(sums[0]);
}
#else
float bf16_loop(Index, float) { return 0; }
#endif

// Repetitions of loop(repeats, seed) on all threads; `amount` is what one thread does in one.
template <class T, class F>
double loop_rate(double seconds, double amount, F&& loop) {
    const int threads = get_num_threads();
    // The compiler must not see that every repetition computes the same.
    volatile T seed = 1;
    volatile T sink = 0;
    return best_rate(seconds, amount * threads, [&] {
        parallel(threads, [&](int thread, int) {
            const T result = loop(static_cast<T>(seed));
            if (thread == 0) {
                sink = result;
            }
        });
    });
}

// Rounds of crossing_cost by their fastest run, in seconds a round; threads read each other's lines when `across`, else their own.
double round_seconds(Index lines, bool across, double seconds) {
    constexpr Index rounds = 256;
    constexpr Index line = line_elements<double>;
    const int threads = std::min(get_num_threads(), Meeting::most);
    const Buffer<double> boxes(threads * std::max<Index>(lines, 1) * line);
    Meeting meeting;
    volatile double sink = 0;
    const auto run = [&](std::uint64_t turn, int thread, int all) {
        double* const mine = boxes.data() + thread * lines * line;
        const double* const theirs = boxes.data() + (across ? (thread + 1) % all : thread) * lines * line;
        simd::Vec<double> sum = simd::zero<double>();
        for (Index r = 0; r < rounds; ++r) {
            meeting.after(turn++, thread, all, [&] {
                for (Index i = 0; i < lines; ++i) {
                    simd::store(mine + i * line, simd::set1(static_cast<double>(r)));
                }
            });
            meeting.after(turn++, thread, all, [&] {
                for (Index i = 0; i < lines; ++i) {
                    sum = sum + simd::load(theirs + i * line);
                }
            });
        }
        if (thread == 0) {
            sink = simd::ei::pfirst(sum.p[0]);
        }
    };
    return 1 / best_rate(seconds, static_cast<double>(rounds), [&] {
               const std::uint64_t first = meeting.begin(2 * rounds);
               parallel(threads, [&](int thread, int all) { run(first, thread, all); });
           });
}

}  // namespace

template <class T>
double fma_rate(double seconds) {
    constexpr Index repeats = 100000;
    constexpr double amount = 2.0 * repeats * chains * simd::Vec<T>::packet_lanes;
    return loop_rate<T>(seconds, amount, [](T seed) { return fma_loop<T>(repeats, seed); });
}

template <class T>
double tile_rate(double seconds) {
    constexpr Index repeats = 1000;
    return loop_rate<T>(seconds, repeats * tile_work<T>(), [](T seed) { return repeat_tile<T>(repeats, seed); });
}

double bf16_rate(double seconds) {
    constexpr Index repeats = 100000;
    constexpr double amount = 4.0 * repeats * chains * simd::Vec<float>::lanes;
    return loop_rate<float>(seconds, amount, [](float seed) { return bf16_loop(repeats, seed); });
}

template <class T>
double divider_rate(double seconds) {
    constexpr Index repeats = 10000;
    constexpr double amount = 0.5 * repeats * chains * simd::Vec<T>::packet_lanes;
    return loop_rate<T>(seconds, amount, [](T seed) { return divider_loop<T>(repeats, seed); });
}

double copy_rate(Index bytes, double seconds) {
    const Index half = std::max<Index>(bytes / 2 / 8, 64);
    Buffer<double> from(half);
    const Buffer<double> to(half);
    // Pages that were never written are all one page of zeros, which stays in the cache.
    std::fill(from.data(), from.data() + half, 1.0);
    const int threads = get_num_threads();
    // Small copies are repeated inside one region, so that the region itself is not what is measured.
    const Index repeats = std::max<Index>(1, (Index{1} << 22) / half);
    // The mean, as the kernels that are compared with it are timed, and not the best moment.
    return mean_rate(seconds, 16.0 * static_cast<double>(half * repeats), [&] {
        parallel(threads, [&](int thread, int all) {
            const Range range = share(half, thread, all, 8);
            for (Index r = 0; r < repeats; ++r) {
                for (Index i = range.begin; i + 8 <= range.end; i += 8) {
                    simd::store(to.data() + i, simd::load(from.data() + i));
                    // A loop of loads and stores, as kernels are, and not the library's memcpy, which writes past the cache.
                    asm volatile("" ::: "memory");
                }
            }
        });
    });
}

Crossing crossing_cost(Index lines, double seconds) {
    if (get_num_threads() == 1 || lines == 0) {
        return {0, 0};
    }
    const double own = round_seconds(lines, false, seconds / 3);
    const double across = round_seconds(lines, true, seconds / 3);
    return {std::max(0.0, across - own) / static_cast<double>(lines), round_seconds(0, false, seconds / 3) / 2};
}

template double fma_rate<float>(double);
template double fma_rate<double>(double);
template double tile_rate<float>(double);
template double tile_rate<double>(double);
template double divider_rate<float>(double);
template double divider_rate<double>(double);

}  // namespace fastopt
