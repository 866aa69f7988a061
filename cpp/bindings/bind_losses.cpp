// Losses on anybody's predictions.
#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/named.hpp"
#include "bindings/target.hpp"
#include "losses/loss.hpp"

namespace fastopt {

namespace {

template <class T>
LossValue evaluate_array(const Loss<T>& loss, const py::object& prediction, const py::object& target, const py::object& weight,
                         const py::object& grad, const py::object& row_losses) {
    const auto p = input_matrix<T>(prediction, "prediction");
    loss.check_outputs(p.cols);
    const TargetArray<T> y = target_of<T>(target, loss, p.cols, p.rows);
    const T* w = weight_of<T>(weight, p.rows);
    const Matrix<T> g = grad.is_none() ? Matrix<T>{} : output_matrix<T>(grad, "grad");
    T* rows_out = row_losses.is_none() ? nullptr : output_flat<T>(row_losses, "rows", p.rows).data;
    const py::gil_scoped_release release;
    const PaddedInput<T> padded(p);
    const PaddedInput<T> padded_target(y.dense);
    const PaddedOutput<T> padded_grad(g);
    const Buffer<T> scratch(2 * p.rows);
    const Target<T> seen{padded_target.view(), y.labels};
    const LossValue value = evaluate<T>(loss, padded.view(), seen, w, g.data == nullptr ? g : padded_grad.view(), scratch.data());
    if (g.data != nullptr) {
        padded_grad.finish();
    }
    if (rows_out != nullptr) {
        std::copy(scratch.data(), scratch.data() + p.rows, rows_out);
    }
    return value;
}

template <class T>
void bind(py::module_& m) {
    using Bound = Named<Loss<T>>;
    py::class_<Bound>(m, class_name<T>("Loss").c_str())
        .def(py::init([](const std::string& name, const py::object& config) {
            return Bound{name, loss_registry<T>().make(name, config_from(config))};
        }))
        .def_readonly("name", &Bound::name)
        .def_property_readonly("smooth", [](const Bound& self) { return self.held->has_curvature(); })
        .def("check_outputs", [](const Bound& self, Index outputs) { self.held->check_outputs(outputs); })
        .def("target_kind",
             [](const Bound& self, Index outputs) {
                 const TargetKind kind = self.held->target_kind(outputs);
                 return kind == TargetKind::dense ? "dense" : kind == TargetKind::classes ? "classes" : "either";
             })
        .def("target_columns", [](const Bound& self, Index outputs) { return self.held->target_columns(outputs); })
        .def("value", [](const Bound& self, const py::object& p, const py::object& y,
                         const py::object& w) { return evaluate_array<T>(*self.held, p, y, w, py::none(), py::none()).value; })
        .def("value_and_grad",
             [](const Bound& self, const py::object& p, const py::object& y, const py::object& w) {
                 const auto shape = input_matrix<T>(p, "prediction");
                 const py::array_t<T> grad = new_matrix<T>(shape.rows, shape.cols);
                 const LossValue value = evaluate_array<T>(*self.held, p, y, w, grad, py::none());
                 return py::make_tuple(value.value, grad);
             })
        .def("rows", [](const Bound& self, const py::object& p, const py::object& y) {
            const py::array_t<T> out(input_matrix<T>(p, "prediction").rows);
            evaluate_array<T>(*self.held, p, y, py::none(), py::none(), out);
            return out;
        });
}

}  // namespace

void bind_losses(py::module_& m) {
    bind<float>(m);
    bind<double>(m);
}

}  // namespace fastopt
