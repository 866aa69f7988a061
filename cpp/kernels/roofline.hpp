// The machine's own limits, measured by the smallest loops that reach them: what bench/ compares everything with.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// Floating-point operations per second of independent fused multiply-adds in registers, on get_num_threads() threads.
template <class T>
double fma_rate(double seconds);

// The same of full register tiles of the matrix product (kernels/gemm_tile.hpp) one after the other, both operands packed and in L1: what
// its loads, broadcasts and loop leave of the rate of registers.
template <class T>
double tile_rate(double seconds);

// The rate of dot products of bfloat16 pairs; only where bf16_available().
double bf16_rate(double seconds);

// Square roots and quotients per second, as many of the one as of the other, in registers: what Adam and its kin need of the divider for
// every parameter.
template <class T>
double divider_rate(double seconds);

// Bytes read and written per second by a copy between two halves of `bytes`, on get_num_threads() threads.
double copy_rate(Index bytes, double seconds);

// What it costs that threads work on the same lines, in seconds. Measured by rounds of two halves: each thread writes so many lines of its
// own, all meet, each reads those of another thread, all meet. 0 on one thread.
struct Crossing {
    double line;     // that one thread writes and another reads, above one that a thread reads itself
    double meeting;  // of all threads, with nothing to write and to read
};
Crossing crossing_cost(Index lines, double seconds);

}  // namespace fastopt
