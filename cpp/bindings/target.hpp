// Targets and weights of the caller, checked against a loss.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "bindings/arrays.hpp"
#include "losses/loss.hpp"

namespace fastopt {

// Either class indices or a table of numbers, `rows` of them.
template <class T>
struct TargetArray {
    const std::int32_t* labels = nullptr;
    ConstMatrix<T> dense = {};
};

// Every value in [0, limit), without a branch: the loop is vectorised.
template <class I>
bool all_below(const I* values, Index count, Index limit) {
    using Unsigned = std::make_unsigned_t<I>;
    const auto bound = static_cast<Unsigned>(std::min<Index>(limit, std::numeric_limits<I>::max()));
    Unsigned outside = 0;
    for (Index i = 0; i < count; ++i) {
        outside |= static_cast<Unsigned>(static_cast<Unsigned>(values[i]) >= bound);
    }
    return outside == 0;
}

// With `check_labels` false the caller looks at the labels that it is going to use.
template <class T>
TargetArray<T> target_of(const py::handle& object, const Loss<T>& loss, Index outputs, Index rows, bool check_labels = true) {
    check_type(py::isinstance<py::array>(object), "target must be a NumPy array");
    const auto array = py::reinterpret_borrow<py::array>(object);
    TargetArray<T> out;
    const TargetKind kind = loss.target_kind(outputs);
    if (array.ndim() == 1) {
        check(kind != TargetKind::dense, "this loss needs a target of shape (", rows, ", ", loss.target_columns(outputs), "); got ",
              shape_text(array));
        const Flat<std::int32_t> flat = sized_flat<std::int32_t>(object, "target", rows);
        check(!check_labels || all_below(flat.data, flat.size, outputs), "labels must be in 0..", outputs - 1);
        out.labels = flat.data;
        return out;
    }
    check(kind != TargetKind::classes, "this loss needs class indices of shape (", rows, ",); got ", shape_text(array));
    out.dense = input_matrix<T>(object, "target");
    check_shape(out.dense, rows, loss.target_columns(outputs), "target");
    return out;
}

template <class T>
const T* weight_of(const py::object& object, Index rows) {
    return object.is_none() ? nullptr : sized_flat<T>(object, "weight", rows).data;
}

}  // namespace fastopt
