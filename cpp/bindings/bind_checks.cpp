// Checks of a caller's arrays whose answer is nearly always yes, in one call each: a fit of few rows would spend more time on looking than
// on training. Whoever gets a no goes on in Python, which says what is wrong or converts.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <type_traits>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/target.hpp"
#include "kernels/reduce.hpp"

namespace fastopt {

namespace {

// An array of NumPy's own class, contiguous and aligned, of so many dimensions.
std::optional<py::array> plain_array(const py::object& object, Index dimensions) {
    if (!Py_IS_TYPE(object.ptr(), py::detail::npy_api::get().PyArray_Type_)) {
        return std::nullopt;
    }
    auto array = py::reinterpret_borrow<py::array>(object);
    const bool plain = array.ndim() == dimensions && (array.flags() & py::array::c_style) != 0 && array.itemsize() > 0 &&
                       reinterpret_cast<std::uintptr_t>(array.data()) % static_cast<std::uintptr_t>(array.itemsize()) == 0;
    return plain ? std::optional<py::array>(std::move(array)) : std::nullopt;
}

template <class T>
bool finite_elements(const py::array& array, T most = std::numeric_limits<T>::max()) {
    const T* data = data_of<T>(array);
    const Index size = array.size();
    const Release release;
    return all_finite(data, size, most);
}

bool ready_rows(const py::object& object, Index columns, Index most_bytes, bool finite, double most) {
    const std::optional<py::array> x = plain_array(object, 2);
    if (!x || x->shape(0) == 0 || x->shape(1) != columns || x->nbytes() > most_bytes) {
        return false;
    }
    if (is_dtype<float>(*x)) {
        return !finite || finite_elements<float>(*x);
    }
    if (is_dtype<double>(*x)) {
        return !finite || finite_elements<double>(*x, most);
    }
    return is_dtype<std::uint8_t>(*x) || is_dtype<std::int16_t>(*x);
}

// None when one of them is not below `classes`.
template <class I>
py::object exact_labels(const py::array& y, Index classes) {
    const I* labels = data_of<I>(y);
    if (y.size() == 0 || !all_below(labels, y.size(), classes)) {
        return py::none();
    }
    if constexpr (std::is_same_v<I, std::int32_t>) {
        return y;
    } else {
        py::array_t<std::int32_t> out(y.size());
        std::transform(labels, labels + y.size(), out.mutable_data(), [](I label) { return static_cast<std::int32_t>(label); });
        return out;
    }
}

py::object class_indices(const py::object& object, Index classes) {
    const std::optional<py::array> y = plain_array(object, 1);
    if (y && is_dtype<std::int64_t>(*y)) {
        return exact_labels<std::int64_t>(*y, classes);
    }
    return y && is_dtype<std::int32_t>(*y) ? exact_labels<std::int32_t>(*y, classes) : py::none();
}

}  // namespace

void bind_checks(py::module_& m) {
    m.def("ready_rows", &ready_rows, py::arg("x"), py::arg("columns"), py::arg("most_bytes"), py::arg("finite"),
          py::arg("most") = std::numeric_limits<double>::max());
    m.def("class_indices", &class_indices);
}

}  // namespace fastopt
