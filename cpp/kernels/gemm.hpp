// Matrix product C = start + A B with bias and activation fused into the tile. One driver for A B, A B^T and A^T B.
//
// Every element of C is one chain of fused multiply-adds over k in order, starting from the bias (or 0, or C): its bits do not depend on
// threads, tiles, packing or the instruction set. An addend is added to the end of it.
#pragma once

#include "core/types.hpp"
#include "kernels/activations.hpp"
#include "kernels/precision.hpp"
#include "kernels/tape.hpp"

namespace fastopt {

// An operand as the product sees it: element (i, p) is data[i * row + p * col], and one of the two strides is 1.
template <class T>
struct Operand {
    const T* data;
    Index row;
    Index col;
    bool padded = false;  // rows along the unit stride start on cache lines
    bool slack = false;   // whole cache lines may be read along the unit stride
};

template <class T>
Operand<T> operand(ConstMatrix<T> m) {
    return {m.data, m.ld, 1, m.padded, m.slack};
}
template <class T>
Operand<T> transposed(ConstMatrix<T> m) {
    return {m.data, 1, m.ld, m.padded, m.slack};
}

template <class T>
struct Product {
    Index m = 0;
    Index n = 0;
    Index k = 0;
    Operand<T> a;
    Operand<T> b;
    Matrix<T> c;
    const T* bias = nullptr;  // n elements and whole cache lines, added first
    bool accumulate = false;  // start from what C holds instead
    Precision precision = Precision::full;
    // c = g(c), done while the tile is in L1; `pre`, when given, keeps the value before g.
    Activation activation = Activation::identity;
    Matrix<T> pre = {};
    // c *= g'(slope_source): the backward epilogue; slope_source is padded and has the shape of c.
    Activation slope = Activation::identity;
    ConstMatrix<T> slope_source = {};
    // Of C's shape and padded, or empty: added to the finished sums, before the activation.
    ConstMatrix<T> addend = {};
    // Of C's shape, or empty: what this thread writes soon. Its lines are taken from other cores behind the multiply-adds (take_lines.hpp).
    Matrix<T> writes_next = {};
    // What the product comes down to, done by this thread alone, is kept here, or nowhere.
    Tape* tape = nullptr;
};

// Elements of scratch that `multiply` may use for a product of this size on any number of threads up to `threads`.
template <class T>
Index product_scratch(Index m, Index n, Index k, int threads);

// `scratch` holds product_scratch elements for get_num_threads() threads, on a cache line.
template <class T>
void multiply(const Product<T>& product, T* scratch);

// Both, of which neither reads what the other writes; threads that share them are waited for once where the first is the gradient of a
// weight (A stored by columns). `scratch` is that of the larger one.
template <class T>
void multiply_both(const Product<T>& first, const Product<T>& last, T* scratch);

// A full register tile alone, for bench/: so many times one after the other on the same operands, packed and in L1, which hold `seed`; and
// the floating-point operations of one. Returns an element of the result.
template <class T>
T repeat_tile(Index times, T seed);
template <class T>
double tile_work();

}  // namespace fastopt
