// Targets and weights of the caller, checked against a loss.
#pragma once

#include <algorithm>
#include <optional>

#include "bindings/arrays.hpp"
#include "losses/loss.hpp"

namespace fastopt {

// Either class indices or a table of numbers, `rows` of them.
template <class T>
struct TargetArray {
    const std::int32_t* labels = nullptr;
    ConstMatrix<T> dense = {};
};

template <class T>
TargetArray<T> target_of(const py::handle& object, const Loss<T>& loss, Index outputs, Index rows) {
    check_type(py::isinstance<py::array>(object), "target must be a NumPy array");
    const auto array = py::reinterpret_borrow<py::array>(object);
    TargetArray<T> out;
    const TargetKind kind = loss.target_kind(outputs);
    if (array.ndim() == 1) {
        check(kind != TargetKind::dense, "this loss needs a target of shape (", rows, ", ", loss.target_columns(outputs), "); got ",
              shape_text(array));
        const Flat<std::int32_t> flat = sized_flat<std::int32_t>(object, "target", rows);
        const auto [low, high] = std::minmax_element(flat.data, flat.data + flat.size);
        check(flat.size == 0 || (*low >= 0 && *high < outputs), "labels must be in 0..", outputs - 1, "; got ", flat.size == 0 ? 0 : *low,
              "..", flat.size == 0 ? 0 : *high);
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
