// Index type and matrix views. A view never owns; `ld` is the distance between rows in elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace fastopt {

using Index = std::int64_t;

constexpr Index cache_line = 64;

// Elements of T in one cache line: the granularity of padding, and the number of virtual SIMD lanes (kernels/simd.hpp).
template <class T>
constexpr Index line_elements = cache_line / static_cast<Index>(sizeof(T));

constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
constexpr Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

// Row-major matrix view. A padded view may be read and written up to a whole cache line past the last column of each row,
// and its rows start on cache lines: kernels then run without tails.
template <class T>
struct Matrix {
    T* data = nullptr;
    Index rows = 0;
    Index cols = 0;
    Index ld = 0;
    bool padded = false;
    bool slack = false;  // a whole cache line may be read from any element on: rows of a flat buffer, whose ends are others' beginnings

    Matrix() = default;
    Matrix(T* data_, Index rows_, Index cols_, Index ld_, bool padded_ = false) : Matrix(data_, rows_, cols_, ld_, padded_, padded_) {}
    Matrix(T* data_, Index rows_, Index cols_, Index ld_, bool padded_, bool slack_)
        : data(data_), rows(rows_), cols(cols_), ld(ld_), padded(padded_), slack(slack_) {}
    // Not trivial, so that a view goes to a function by its address: copied as a block right after its members were written one by one, it
    // waits until these have left the store queue, which small products feel.
    Matrix(const Matrix& other) : Matrix(other.data, other.rows, other.cols, other.ld, other.padded, other.slack) {}
    Matrix& operator=(const Matrix&) = default;

    T* row(Index i) const { return data + i * ld; }
    bool empty() const { return rows == 0 || cols == 0; }
    Matrix row_range(Index first, Index count) const { return {row(first), count, cols, ld, padded, slack}; }
    // `first` a multiple of a cache line.
    Matrix column_range(Index first, Index count) const { return {data + first, rows, count, ld, padded, slack}; }
    operator Matrix<const T>() const { return {data, rows, cols, ld, padded, slack}; }
};

template <class T>
using ConstMatrix = Matrix<const T>;

// Keeps a parameter out of template argument deduction, so that Matrix<T> converts to ConstMatrix<T> at a call.
template <class T>
struct Identity {
    using type = T;
};
template <class T>
using In = typename Identity<ConstMatrix<T>>::type;
template <class T>
using Out = typename Identity<Matrix<T>>::type;

}  // namespace fastopt
