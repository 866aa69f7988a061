// Losses on anybody's predictions.
#include <algorithm>
#include <type_traits>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/named.hpp"
#include "bindings/target.hpp"
#include "core/threads.hpp"
#include "kernels/reduce.hpp"
#include "losses/loss.hpp"

namespace fastopt {

namespace {

// Rows of a matrix as padded blocks, one after the other in the same memory; an empty matrix has empty blocks, and where a loss reads
// nothing else of a row a block is the rows themselves.
template <class E>
class PaddedBlocks {
    using T = std::remove_const_t<E>;

   public:
    PaddedBlocks(Matrix<E> m, bool as_they_are, Index block) : all_(m), copied_(m.data != nullptr && !m.padded && !as_they_are) {
        if (copied_) {
            copy_.reserve(std::min(block, m.rows), m.cols);
        }
    }
    // Space for rows [first, first + count).
    Matrix<E> block(Index first, Index count) const {
        if (copied_) {
            return copy_.view(count);
        }
        return {all_.data == nullptr ? nullptr : all_.row(first), count, all_.cols, all_.ld, all_.padded};
    }
    // The same with their contents.
    Matrix<E> read(Index first, Index count) const {
        if (copied_) {
            const Matrix<T> to = copy_.view(count);
            for (Index i = 0; i < count; ++i) {
                copy_row<T>(all_.row(first + i), all_.cols, to.row(i));
            }
        }
        return block(first, count);
    }
    // What was computed in that space, to the matrix.
    void write(Index first, Index count) const {
        if (copied_) {
            const Matrix<T> from = copy_.view(count);
            for (Index i = 0; i < count; ++i) {
                copy_row(from.row(i), all_.cols, all_.row(first + i));
            }
        }
    }

   private:
    Matrix<E> all_;
    bool copied_;
    PaddedMatrix<T> copy_;
};

// Padded copies of narrow outputs take up to sixteen times their room: so many rows at a time that they stay in L2, in whole lines of
// what is written for each row.
template <class T>
Index block_rows(Index cols) {
    constexpr Index copy_bytes = Index{1} << 16;
    const Index rows = copy_bytes / static_cast<Index>(sizeof(T)) / padded_ld<T>(cols);
    return std::max<Index>(1, rows / line_elements<T>) * line_elements<T>;
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
    const Release release;
    const Buffer<T> scratch(2 * p.rows);
    T* row_loss = scratch.data();
    T* row_scale = row_loss + p.rows;
    const double total = scale_rows(w, p.rows, row_scale);
    parallel_for(p.rows, line_elements<T>, loss_work(p.rows, p.cols), [&](Index begin, Index end) {
        const Index block = block_rows<T>(p.cols);
        const bool as_they_are = !loss.wants_padding(p.cols);
        const PaddedBlocks<const T> predictions(p, as_they_are, block);
        const PaddedBlocks<const T> targets(y.dense, as_they_are, block);
        const PaddedBlocks<T> grads(g, as_they_are, block);
        for (Index first = begin; first < end; first += block) {
            const Index count = std::min(block, end - first);
            const Target<T> seen{targets.read(first, count), y.labels == nullptr ? nullptr : y.labels + first};
            loss.rows(0, count, predictions.read(first, count), seen, row_scale + first, row_loss + first, grads.block(first, count));
            clear_weightless<T>(w == nullptr ? nullptr : w + first, grads.block(first, count));
            grads.write(first, count);
        }
    });
    const LossValue value = mean_of_rows(w, total, p.rows, row_loss);
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
    m.def("weighted_means", [](const py::object& values, const py::object& weights) {
        const ConstMatrix<double> value = input_matrix<double>(values, "values");
        const ConstMatrix<double> weight = input_matrix<double>(weights, "weights");
        check_shape(weight, value.rows, value.cols, "weights");
        py::list means(value.rows);
        for (Index i = 0; i < value.rows; ++i) {
            means[i] = weighted_mean(value.row(i), weight.row(i), value.cols);
        }
        return means;
    });
    bind_losses_of<float>(m);
    bind_losses_of<double>(m);
}

}  // namespace fastopt
