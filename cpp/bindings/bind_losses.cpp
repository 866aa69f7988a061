// Losses on anybody's predictions.
#include <algorithm>
#include <type_traits>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/named.hpp"
#include "bindings/target.hpp"
#include "kernels/reduce.hpp"
#include "losses/loss.hpp"

namespace fastopt {

namespace {

// Rows of a matrix as padded blocks, one after the other in the same memory; an empty matrix has empty blocks.
template <class E>
class PaddedBlocks {
    using T = std::remove_const_t<E>;

   public:
    PaddedBlocks(Matrix<E> m, Index block) : all_(m) {
        if (!m.padded && m.data != nullptr) {
            copy_.reserve(std::min(block, m.rows), m.cols);
        }
    }
    // Space for rows [first, first + count).
    Matrix<E> block(Index first, Index count) const {
        if (all_.data == nullptr || all_.padded) {
            return {all_.data == nullptr ? nullptr : all_.row(first), count, all_.cols, all_.ld, all_.padded};
        }
        return copy_.view(count);
    }
    // The same with their contents.
    Matrix<E> read(Index first, Index count) const {
        if (all_.data != nullptr && !all_.padded) {
            const Matrix<T> to = copy_.view(count);
            for (Index i = 0; i < count; ++i) {
                std::copy(all_.row(first + i), all_.row(first + i) + all_.cols, to.row(i));
            }
        }
        return block(first, count);
    }
    // What was computed in that space, to the matrix.
    void write(Index first, Index count) const {
        if (all_.data != nullptr && !all_.padded) {
            const Matrix<T> from = copy_.view(count);
            for (Index i = 0; i < count; ++i) {
                std::copy(from.row(i), from.row(i) + all_.cols, all_.row(first + i));
            }
        }
    }

   private:
    Matrix<E> all_;
    PaddedMatrix<T> copy_;
};

// Padded copies of narrow outputs take up to sixteen times their room: about 4 MB of them at a time.
template <class T>
Index block_rows(Index cols) {
    return std::max<Index>(512, (Index{1} << 20) / padded_ld<T>(cols));
}

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
    const Index block = block_rows<T>(p.cols);
    const PaddedBlocks<const T> predictions(p, block);
    const PaddedBlocks<const T> targets(y.dense, block);
    const PaddedBlocks<T> grads(g, block);
    const Buffer<T> scratch(2 * p.rows);
    T* row_loss = scratch.data();
    T* row_scale = row_loss + p.rows;
    const double total = scale_rows(w, p.rows, row_scale);
    for (Index first = 0; first < p.rows; first += block) {
        const Index count = std::min(block, p.rows - first);
        const Target<T> seen{targets.read(first, count), y.labels == nullptr ? nullptr : y.labels + first};
        evaluate_rows<T>(loss, 0, count, predictions.read(first, count), seen, row_scale + first, row_loss + first,
                         grads.block(first, count));
        grads.write(first, count);
    }
    const LossValue value = mean_of_rows(w, total, p.rows, row_loss, row_scale);
    if (rows_out != nullptr) {
        std::copy(row_loss, row_loss + p.rows, rows_out);
    }
    return value;
}

template <class T>
void bind_losses_of(py::module_& m) {
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
    m.def("weighted_mean", [](const py::object& values, const py::object& weights) {
        const Flat<double> value = input_flat<double>(values, "values");
        const Flat<double> weight = sized_flat<double>(weights, "weights", value.size);
        return weighted_mean(value.data, weight.data, value.size);
    });
    bind_losses_of<float>(m);
    bind_losses_of<double>(m);
}

}  // namespace fastopt
