// The only NumPy <-> view code. `Exact` arrays are used where they lie and never converted; `Padded` ones are seen as padded matrices,
// through a copy when their rows do not end on cache lines.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/aligned.hpp"
#include "core/check.hpp"
#include "core/types.hpp"
#include "kernels/copy_row.hpp"
#include "kernels/gather.hpp"

namespace fastopt {

namespace py = pybind11;

// The shape of an array as a part of a sentence; the text is made only when the sentence is.
struct ShapeText {
    py::handle array;
};
inline ShapeText shape_text(const py::handle& array) { return {array}; }
inline std::ostream& operator<<(std::ostream& out, const ShapeText& text) {
    return out << py::str(text.array.attr("shape")).cast<std::string>();
}

inline bool same_shape(const py::array& a, const py::array& b) {
    return a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape());
}

template <class... Parts>
void check_type(bool condition, const Parts&... parts) {
    if (!condition) {
        throw py::type_error(sentence(parts...));
    }
}

inline std::string dtype_text(const py::dtype& dtype) { return py::str(dtype).cast<std::string>(); }

// One comparison of pointers in the common case: NumPy has one object per native dtype.
template <class T>
bool is_dtype(const py::array& array) {
    static const py::dtype wanted = py::dtype::of<T>();
    return array.dtype().is(wanted) || array.dtype().equal(wanted);
}

// A C-contiguous array of T, by handle; `writable` when it is an output.
template <class T>
py::array exact(const py::handle& object, const char* name, bool writable = false) {
    check_type(py::isinstance<py::array>(object), name, " must be a NumPy array");
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (!is_dtype<T>(array)) {
        throw py::type_error(sentence(name, " must have dtype ", dtype_text(py::dtype::of<T>()), "; got ", dtype_text(array.dtype())));
    }
    check((array.flags() & py::array::c_style) != 0, name, " must be C-contiguous; its shape is ", shape_text(array));
    check(reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0, name, " must be aligned");
    check(!writable || array.writeable(), name, " is read-only, but it is written in place");
    return array;
}

template <class T>
T* data_of(const py::array& array) {
    return const_cast<T*>(static_cast<const T*>(array.data()));
}

template <class T>
Matrix<T> matrix_view(const py::array& array, const char* name) {
    check(array.ndim() == 2, name, " must have 2 dimensions; its shape is ", shape_text(array));
    const Index cols = array.shape(1);
    return {data_of<T>(array), array.shape(0), cols, cols, cols % line_elements<T> == 0, false};
}
template <class T>
ConstMatrix<T> input_matrix(const py::handle& object, const char* name) {
    return matrix_view<T>(exact<T>(object, name), name);
}
template <class T>
Matrix<T> output_matrix(const py::handle& object, const char* name) {
    return matrix_view<T>(exact<T>(object, name, true), name);
}

template <class T>
void check_shape(const Matrix<T>& m, Index rows, Index cols, const char* name) {
    check(m.rows == rows && m.cols == cols, name, " must have shape (", rows, ", ", cols, "); got (", m.rows, ", ", m.cols, ")");
}

// Contiguous elements of any shape.
template <class T>
struct Flat {
    T* data;
    Index size;
};
template <class T>
Flat<T> input_flat(const py::handle& object, const char* name) {
    const py::array array = exact<T>(object, name);
    return {data_of<T>(array), array.size()};
}
template <class T>
Flat<T> output_flat(const py::handle& object, const char* name, Index size) {
    const py::array array = exact<T>(object, name, true);
    check(array.size() == size, name, " must have ", size, " elements; got shape ", shape_text(array));
    return {data_of<T>(array), size};
}
template <class T>
Flat<T> sized_flat(const py::handle& object, const char* name, Index size) {
    const Flat<T> flat = input_flat<T>(object, name);
    check(flat.size == size, name, " must have ", size, " elements; got ", flat.size);
    return flat;
}

inline bool overlap(const void* a, Index a_bytes, const void* b, Index b_bytes) {
    const auto* x = static_cast<const char*>(a);
    const auto* y = static_cast<const char*>(b);
    return a_bytes > 0 && b_bytes > 0 && x < y + b_bytes && y < x + a_bytes;
}
template <class A, class B>
bool share_memory(const Matrix<A>& a, const Matrix<B>& b) {
    // Rows may follow each other downwards, or be one and the same.
    const auto first = [](const auto& m) { return m.data + std::min<Index>(0, (m.rows - 1) * m.ld); };
    const auto bytes = [](const auto& m) {
        return m.rows == 0 ? 0 : (std::abs((m.rows - 1) * m.ld) + m.cols) * static_cast<Index>(sizeof(*m.data));
    };
    return overlap(first(a), bytes(a), first(b), bytes(b));
}
template <class A, class B>
void check_apart(const Matrix<A>& out, const Matrix<B>& in, const char* out_name, const char* in_name) {
    check(!share_memory(out, in), out_name, " shares memory with ", in_name, ", but it is written in place");
}

// An input as a padded matrix.
template <class T>
class PaddedInput {
   public:
    explicit PaddedInput(ConstMatrix<T> m) : view_(m) {
        if (!m.padded) {
            copy_.reserve(m.rows, m.cols);
            const Matrix<T> to = copy_.view(m.rows);
            for (Index i = 0; i < m.rows; ++i) {
                copy_row(m.row(i), m.cols, to.row(i));
            }
            view_ = to;
        }
    }
    ConstMatrix<T> view() const { return view_; }

   private:
    PaddedMatrix<T> copy_;
    ConstMatrix<T> view_;
};

// An output as a padded matrix; `finish` writes what was computed to the caller's array.
template <class T>
class PaddedOutput {
   public:
    explicit PaddedOutput(Matrix<T> m) : out_(m), view_(m) {
        if (!m.padded) {
            copy_.reserve(m.rows, m.cols);
            view_ = copy_.view(m.rows);
        }
    }
    Matrix<T> view() const { return view_; }
    void finish() const {
        for (Index i = 0; view_.data != out_.data && i < out_.rows; ++i) {
            copy_row(view_.row(i), out_.cols, out_.row(i));
        }
    }

   private:
    PaddedMatrix<T> copy_;
    Matrix<T> out_;
    Matrix<T> view_;
};

// A vector as whole cache lines, the caller's own when it consists of such; null stays null.
template <class T>
class PaddedVector {
   public:
    PaddedVector(const py::object& object, const char* name, Index size) {
        if (object.is_none()) {
            return;
        }
        const Flat<T> flat = sized_flat<T>(object, name, size);
        data_ = flat.data;
        if (size % line_elements<T> != 0 || reinterpret_cast<std::uintptr_t>(flat.data) % cache_line != 0 || size == 0) {
            buffer_ = Buffer<T>(round_up(std::max<Index>(size, 1), line_elements<T>));
            std::copy(flat.data, flat.data + size, buffer_.data());
            data_ = buffer_.data();
        }
    }
    const T* data() const { return data_; }

   private:
    Buffer<T> buffer_;
    const T* data_ = nullptr;
};

// Rows of the caller's table in one of the element types that `gather` converts.
inline Source source_of(const py::handle& object, const char* name) {
    check_type(py::isinstance<py::array>(object), name, " must be a NumPy array");
    const auto array = py::reinterpret_borrow<py::array>(object);
    check(array.ndim() == 2, name, " must have 2 dimensions; its shape is ", shape_text(array));
    const auto is = [&](auto value) { return is_dtype<decltype(value)>(array); };
    Source source;
    if (is(float{})) {
        source.type = SourceType::float32;
    } else if (is(double{})) {
        source.type = SourceType::float64;
    } else if (is(std::uint8_t{})) {
        source.type = SourceType::uint8;
    } else if (is(std::int16_t{})) {
        source.type = SourceType::int16;
    } else {
        throw py::type_error(sentence(name, " must have dtype float32, float64, uint8 or int16; got ", dtype_text(array.dtype())));
    }
    const py::ssize_t item = array.itemsize();
    source.data = array.data();
    source.rows = array.shape(0);
    source.cols = array.shape(1);
    check(array.size() == 0 || source.cols <= 1 || array.strides(1) == item, name, " must have contiguous rows; its shape is ",
          shape_text(array));
    check(source.rows <= 1 || (array.strides(0) % item == 0), name, " must have rows a whole number of elements apart");
    check(reinterpret_cast<std::uintptr_t>(source.data) % static_cast<std::uintptr_t>(item) == 0, name, " must be aligned");
    source.stride = source.rows <= 1 ? source.cols : array.strides(0) / item;
    return source;
}

// A writable zero-copy view that keeps `owner` alive.
template <class T>
py::array view_array(T* data, Index size, const py::object& owner) {
    return py::array(py::dtype::of<T>(), {size}, {static_cast<py::ssize_t>(sizeof(T))}, data, owner);
}

template <class T>
py::array_t<T> new_matrix(Index rows, Index cols) {
    return py::array_t<T>({rows, cols});
}

}  // namespace fastopt
