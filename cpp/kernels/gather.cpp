#include "kernels/gather.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/threads.hpp"
#include "kernels/copy_row.hpp"
#include "kernels/finite.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

template <class F>
auto with_type(const Source& source, F&& f) {
    switch (source.type) {
        case SourceType::float64:
            return f(static_cast<const double*>(source.data));
        case SourceType::uint8:
            return f(static_cast<const std::uint8_t*>(source.data));
        case SourceType::int16:
            return f(static_cast<const std::int16_t*>(source.data));
        case SourceType::float32:
            break;
    }
    return f(static_cast<const float*>(source.data));
}

// f(copy), where copy(from, to) copies a row, converting it.
template <class T, class S, class F>
void with_conversion(Index cols, F&& f) {
    if constexpr (std::is_same_v<T, S>) {
        with_row_copy<T>(cols, f);
    } else {
        f([cols](const S* from, T* to) {
            for (Index j = 0; j < cols; ++j) {
                to[j] = static_cast<T>(from[j]);
            }
        });
    }
}

// Rows in an order of their own lie anywhere in memory, and the processor's own reading ahead ends with each. So what will be copied so
// many bytes later is asked for, of long rows the beginning; into L2, which takes more requests at a time than L1.
constexpr Index bytes_ahead = 4096;

template <class S>
void ask_for_row(const S* row, Index cols) {
    const auto* bytes = reinterpret_cast<const char*>(row);
    const Index size = std::min(cols * static_cast<Index>(sizeof(S)), bytes_ahead);
    for (Index at = 0; at < size; at += cache_line) {
        __builtin_prefetch(bytes + at, 0, 2);
    }
}

// Rows [begin, end) of `out`, each by copy(from, to).
template <class T, class S, class F>
void copy_rows(const S* data, const Source& source, const Index* order, Index first, const Matrix<T>& out, Index begin, Index end,
               const F& copy) {
    const Index cols = source.cols;
    const Index stride = source.stride;
    const Index ld = out.ld;
    T* to = out.row(begin);
    Index i = begin;
    if (order == nullptr) {
        for (; i < end; ++i, to += ld) {
            copy(data + (first + i) * stride, to);
        }
        return;
    }
    const Index row_bytes = cols * static_cast<Index>(sizeof(S));
    if ((end - begin) * row_bytes > bytes_ahead) {  // a few small rows feel the division
        const Index ahead = ceil_div(bytes_ahead, row_bytes);
        for (; i + ahead < end; ++i, to += ld) {
            ask_for_row(data + order[i + ahead] * stride, cols);
            copy(data + order[i] * stride, to);
        }
    }
    for (; i < end; ++i, to += ld) {
        copy(data + order[i] * stride, to);
    }
}

template <class T, class S>
void gather_rows(const S* data, const Source& source, const Index* order, Index first, const Matrix<T>& out, Index begin, Index end) {
    with_conversion<T, S>(source.cols, [=, &source, &out](const auto& copy) {
        if constexpr (std::is_floating_point_v<S>) {
            if (source.broken != nullptr) {  // while a row is in L1
                constexpr S most = sizeof(T) < sizeof(S) ? static_cast<S>(std::numeric_limits<T>::max()) : std::numeric_limits<S>::max();
                bool broken = false;
                copy_rows<T>(data, source, order, first, out, begin, end, [&](const S* from, T* to) {
                    copy(from, to);
                    broken |= any_beyond(from, source.cols, most);
                });
                if (broken) {
                    source.broken->store(true, std::memory_order_relaxed);
                }
                return;
            }
        }
        copy_rows<T>(data, source, order, first, out, begin, end, copy);
    });
}

// Rows of one chunk of moments.
constexpr Index moment_rows = 4096;

template <class S>
void chunk_moments(const S* data, Index stride, Index rows, Index cols, double* mean, double* squares) {
    for (Index j = 0; j < cols; ++j) {
        mean[j] = 0;
        squares[j] = 0;
    }
    // Deviations from the chunk's first row: a constant column stays exactly constant.
    for (Index i = 1; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) {
            mean[j] += static_cast<double>(data[i * stride + j]) - static_cast<double>(data[j]);
        }
    }
    for (Index j = 0; j < cols; ++j) {
        mean[j] = static_cast<double>(data[j]) + mean[j] / static_cast<double>(rows);
    }
    for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) {
            const double d = static_cast<double>(data[i * stride + j]) - mean[j];
            squares[j] += d * d;
        }
    }
}

}  // namespace

template <class T>
void gather(const Source& source, const Index* order, Index first, Out<T> out) {
    with_type(source, [&](const auto* data) {
        parallel_for(out.rows, 1, 4.0 * static_cast<double>(out.rows * out.cols),
                     [&](Index begin, Index end) { gather_rows<T>(data, source, order, first, out, begin, end); });
    });
}

void column_moments(const Source& source, double* mean, double* variance) {
    const Index chunks = ceil_div(source.rows, moment_rows);
    const Index cols = source.cols;
    std::vector<double> partial(static_cast<std::size_t>(2 * chunks * cols));
    with_type(source, [&](const auto* data) {
        parallel_for(chunks, 1, 6.0 * static_cast<double>(source.rows * cols), [&](Index begin, Index end) {
            for (Index c = begin; c < end; ++c) {
                const Index first = c * moment_rows;
                double* out = partial.data() + 2 * c * cols;
                chunk_moments(data + first * source.stride, source.stride, std::min(moment_rows, source.rows - first), cols, out,
                              out + cols);
            }
        });
    });
    for (Index j = 0; j < cols; ++j) {
        double total_mean = partial[static_cast<std::size_t>(j)];
        double squares = partial[static_cast<std::size_t>(cols + j)];
        for (Index c = 1; c < chunks; ++c) {
            const auto before = static_cast<double>(c * moment_rows);
            const auto rows = static_cast<double>(std::min(moment_rows, source.rows - c * moment_rows));
            const double d = partial[static_cast<std::size_t>(2 * c * cols + j)] - total_mean;
            squares += partial[static_cast<std::size_t>((2 * c + 1) * cols + j)] + d * d * before * (rows / (before + rows));
            total_mean += d * (rows / (before + rows));
        }
        mean[j] = total_mean;
        variance[j] = squares / static_cast<double>(source.rows);
    }
}

template void gather<float>(const Source&, const Index*, Index, Matrix<float>);
template void gather<double>(const Source&, const Index*, Index, Matrix<double>);

}  // namespace fastopt
