// Gradients, Hessian-vector products, Jacobians and Gauss-Newton matrices of networks in inference mode.
#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/named.hpp"
#include "bindings/target.hpp"
#include "nn/second_order.hpp"

namespace fastopt {

namespace {

template <class T>
using BoundLoss = Named<Loss<T>>;

template <class T>
Source rows_of(const SecondOrder<T>& self, const py::object& x) {
    const Source source = source_of(x, "x");
    check(source.cols == self.network().inputs(), "x must have ", self.network().inputs(), " columns; got shape ",
          shape_text(py::reinterpret_borrow<py::array>(x)));
    return source;
}

template <class T>
Data<T> data_from(const SecondOrder<T>& self, const BoundLoss<T>& loss, const py::object& x, const py::object& y,
                  const py::object& weight) {
    loss.held->check_outputs(self.network().outputs());
    Data<T> data;
    data.x = rows_of(self, x);
    const TargetArray<T> target = target_of<T>(y, *loss.held, self.network().outputs(), data.x.rows);
    data.labels = target.labels;
    data.y = {target.dense.data, source_type<T>, target.dense.rows, target.dense.cols, target.dense.ld};
    data.weight = weight_of<T>(weight, data.x.rows);
    return data;
}

template <class T>
void check_smooth(const BoundLoss<T>& loss) {
    check(loss.held->has_curvature(), "the loss '", loss.name,
          "' has kinks and straight pieces in place of a second derivative; take a smooth loss, or a method that needs gradients only");
}

template <class T>
double gradient(SecondOrder<T>& self, const BoundLoss<T>& loss, const py::object& x, const py::object& y, const py::object& weight,
                const py::object& out) {
    const Data<T> data = data_from(self, loss, x, y, weight);
    T* to = out.is_none() ? nullptr : output_flat<T>(out, "out", self.count()).data;
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    return self.gradient(*loss.held, data, to);
}

template <class T>
void hessian_vector(SecondOrder<T>& self, const BoundLoss<T>& loss, const py::object& x, const py::object& y, const py::object& weight,
                    const py::object& v, const py::object& out) {
    check_smooth(loss);
    const Data<T> data = data_from(self, loss, x, y, weight);
    const Flat<T> along = sized_flat<T>(v, "v", self.count());
    const Flat<T> to = output_flat<T>(out, "out", self.count());
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    self.hessian_vector(*loss.held, data, along.data, to.data);
}

template <class T>
void hessian(SecondOrder<T>& self, const BoundLoss<T>& loss, const py::object& x, const py::object& y, const py::object& weight,
             const py::object& out) {
    check_smooth(loss);
    const Data<T> data = data_from(self, loss, x, y, weight);
    const Matrix<T> to = output_matrix<T>(out, "out");
    check_shape(to, self.count(), self.count(), "out");
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    self.hessian(*loss.held, data, to.data);
}

template <class T>
void jacobian(SecondOrder<T>& self, const py::object& x, const py::object& out) {
    const Source source = rows_of(self, x);
    const Matrix<T> to = output_matrix<T>(out, "out");
    check_shape(to, source.rows * self.network().outputs(), self.count(), "out");
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    self.jacobian(source, to.data);
}

template <class T>
double gauss_newton(SecondOrder<T>& self, const BoundLoss<T>& loss, const py::object& x, const py::object& y, const py::object& weight,
                    const py::object& matrix, const py::object& gradient) {
    check(loss.name == "mse", "gauss_newton is for the squared error 'mse'; got '", loss.name, "'");
    const Data<T> data = data_from(self, loss, x, y, weight);
    const Matrix<T> square = output_matrix<T>(matrix, "matrix");
    check_shape(square, self.count(), self.count(), "matrix");
    const Flat<T> to = output_flat<T>(gradient, "gradient", self.count());
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    return self.gauss_newton(data, square.data, to.data);
}

template <class T>
void bind_second_order_of(py::module_& m) {
    using Bound = SecondOrder<T>;
    py::class_<Bound>(m, class_name<T>("SecondOrder").c_str())
        .def(py::init([](std::shared_ptr<Network<T>> network) {
            auto self = std::make_unique<Bound>(std::move(network));
            self->set_between_blocks(&raise_interrupt);
            return self;
        }))
        .def("gradient", &gradient<T>)
        .def("hessian_vector", &hessian_vector<T>)
        .def("hessian", &hessian<T>)
        .def("jacobian", &jacobian<T>)
        .def("gauss_newton", &gauss_newton<T>);
}

}  // namespace

void bind_second_order(py::module_& m) {
    bind_second_order_of<float>(m);
    bind_second_order_of<double>(m);
}

}  // namespace fastopt
