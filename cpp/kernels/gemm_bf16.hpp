// Products of bfloat16 with float32 sums for the driver in gemm.cpp: how its panels are packed and its tiles computed.
//
// A step of k takes two elements of each operand, rounded to bfloat16 (nearest, ties to even) and kept side by side in the 32 bits of one
// float: (p, p + 1) with p even, 0 behind an odd end. So panels have the layout of float32 panels with half as many steps. Each element of
// C is one chain over the steps in order, c = (c + a1 b1) + a0 b0, every sum rounded to float32 and subnormal numbers taken as 0 (what the
// instruction VDPBF16PS does): its bits do not depend on threads, tiles or packing.
//
// Only what is behind these calls is compiled for AVX512_BF16, function by function; ask `supported` first.
#pragma once

#include "kernels/gemm.hpp"
#include "kernels/gemm_tile.hpp"

namespace fastopt::gemm::bf16 {

#if defined(__AVX512F__) && defined(__AVX512BW__)
// Only functions marked so use the instructions, and nothing of theirs is inlined elsewhere.
#define FASTOPT_BF16 __attribute__((target("avx512bf16")))
constexpr bool built = true;
#else
constexpr bool built = false;
#endif

// Whether the processor has the instructions.
bool supported();

// to[s][0..width) = the pairs of b(2 s .. 2 s + 1, j0 .. j0 + cols) for s in [s0, s1), zeros behind; b has k rows.
void pack_b(const Operand<float>& b, Index k, Index s0, Index s1, Index j0, Index cols, Index width, float* to);

// to[s][0..height) = the pairs of a(i0 .. i0 + height, 2 s .. 2 s + 1) for s in [s0, s1); a has k columns. Writes up to one Vec further.
void pack_a(const Operand<float>& a, Index k, Index s0, Index s1, Index i0, Index height, float* to);

// The tile of `rows` x `vecs`, the same sizes as those of gemm::find_tile, over a packed panel of A and, of B, a packed panel or float32
// rows, an even number of them and whole Vecs.
TileFunction<float> find_tile(int rows, int vecs, TileSource source);

}  // namespace fastopt::gemm::bf16
