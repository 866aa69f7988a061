// The raw kernels on NumPy arrays: outputs are written in place, every argument is exact.
#include <algorithm>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/threads.hpp"
#include "kernels/batchnorm.hpp"
#include "kernels/dense.hpp"
#include "kernels/dropout.hpp"
#include "kernels/gemm.hpp"
#include "kernels/reduce.hpp"
#include "kernels/softmax.hpp"

namespace fastopt {

namespace {

bool is_double(const py::handle& object) {
    return py::isinstance<py::array>(object) && is_dtype<double>(py::reinterpret_borrow<py::array>(object));
}

// Scratch of the calling thread, kept between calls: getting and clearing memory would take longer than a small product.
template <class T>
class ScratchOf {
   public:
    explicit ScratchOf(Index size) { kept().reserve(size); }
    T* data() const { return kept().data(); }

   private:
    static Buffer<T>& kept() {
        thread_local Buffer<T> buffer;
        return buffer;
    }
};

// Call f with a value of the element type of `object`; anything but float64 is checked as float32.
template <class F>
auto by_dtype(const py::handle& object, F&& f) {
    return is_double(object) ? f(double{}) : f(float{});
}

void matmul(const py::object& a, const py::object& b, const py::object& out, bool transpose_a, bool transpose_b,
            const std::string& precision) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto ma = input_matrix<T>(a, "a");
        const auto mb = input_matrix<T>(b, "b");
        const auto mc = output_matrix<T>(out, "out");
        Product<T> product;
        product.m = transpose_a ? ma.cols : ma.rows;
        product.k = transpose_a ? ma.rows : ma.cols;
        product.n = transpose_b ? mb.rows : mb.cols;
        const Index inner = transpose_b ? mb.cols : mb.rows;
        check(product.k == inner, "a of shape (", ma.rows, ", ", ma.cols, ") and b of shape (", mb.rows, ", ", mb.cols,
              ") do not fit: ", product.k, " columns meet ", inner, " rows");
        check_shape(mc, product.m, product.n, "out");
        check_apart(mc, ma, "out", "a");
        check_apart(mc, mb, "out", "b");
        product.a = transpose_a ? transposed(ma) : operand(ma);
        product.b = transpose_b ? transposed(mb) : operand(mb);
        product.c = mc;
        product.precision = precision_from_name(precision);
        check_precision(product.precision, sizeof(T));
        const Release release;
        const SameThreads same;
        const ScratchOf<T> scratch(product_scratch<T>(product.m, product.n, product.k, get_num_threads()));
        multiply(product, scratch.data());
    });
}

void dense_forward_array(const py::object& x, const py::object& weight, const py::object& bias, const std::string& activation,
                         const py::object& out, const py::object& pre) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto mw = input_matrix<T>(weight, "weight");
        const auto my = output_matrix<T>(out, "out");
        check(mx.cols == mw.rows, "x of shape (", mx.rows, ", ", mx.cols, ") does not fit weight of shape (", mw.rows, ", ", mw.cols, ")");
        check_shape(my, mx.rows, mw.cols, "out");
        check_apart(my, mx, "out", "x");
        check_apart(my, mw, "out", "weight");
        const PaddedVector<T> padded_bias(bias, "bias", mw.cols);
        Matrix<T> mp;
        if (!pre.is_none()) {
            mp = output_matrix<T>(pre, "pre");
            check_shape(mp, mx.rows, mw.cols, "pre");
        }
        const Activation g = activation_from_name(activation);
        const Release release;
        const SameThreads same;
        const ScratchOf<T> scratch(dense_scratch<T>(mx.rows, mw.rows, mw.cols, get_num_threads()));
        dense_forward<T>(mx, mw, padded_bias.data(), g, my, mp, scratch.data());
    });
}

void dense_backward_array(const py::object& x, const py::object& weight, const py::object& grad_pre, const py::object& grad_weight,
                          const py::object& grad_bias, const py::object& grad_x) {
    by_dtype(grad_weight, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto mw = input_matrix<T>(weight, "weight");
        const auto mg = input_matrix<T>(grad_pre, "grad_pre");
        const auto mgw = output_matrix<T>(grad_weight, "grad_weight");
        check_shape(mg, mx.rows, mw.cols, "grad_pre");
        check_shape(mgw, mw.rows, mw.cols, "grad_weight");
        check(mx.cols == mw.rows, "x of shape (", mx.rows, ", ", mx.cols, ") does not fit weight of shape (", mw.rows, ", ", mw.cols, ")");
        T* gb = grad_bias.is_none() ? nullptr : output_flat<T>(grad_bias, "grad_bias", mw.cols).data;
        Matrix<T> mgx;
        if (!grad_x.is_none()) {
            mgx = output_matrix<T>(grad_x, "grad_x");
            check_shape(mgx, mx.rows, mx.cols, "grad_x");
            check_apart(mgx, mg, "grad_x", "grad_pre");
        }
        const Release release;
        const SameThreads same;
        const ScratchOf<T> scratch(dense_scratch<T>(mx.rows, mw.rows, mw.cols, get_num_threads()));
        dense_backward_weight<T>(mx, mg, mgw, scratch.data());
        if (gb != nullptr) {
            column_sums<T>(mg, gb);
        }
        if (mgx.data != nullptr) {
            dense_backward_input<T>(mg, mw, mgx, Activation::identity, {}, scratch.data());
        }
    });
}

void activation_forward_array(const std::string& name, const py::object& x, const py::object& out) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const Flat<T> fx = input_flat<T>(x, "x");
        const Flat<T> fy = output_flat<T>(out, "out", fx.size);
        const Activation g = activation_from_name(name);
        const Release release;
        activation_forward<T>(g, fx.data, fy.data, fx.size);
    });
}

void activation_backward_array(const std::string& name, const py::object& x, const py::object& out, const py::object& grad_out,
                               const py::object& grad_x) {
    by_dtype(grad_x, [&](auto zero) {
        using T = decltype(zero);
        const Flat<T> fx = input_flat<T>(x, "x");
        const Flat<T> fy = sized_flat<T>(out, "out", fx.size);
        const Flat<T> fg = sized_flat<T>(grad_out, "grad_out", fx.size);
        const Flat<T> to = output_flat<T>(grad_x, "grad_x", fx.size);
        const Activation g = activation_from_name(name);
        const Release release;
        activation_backward<T>(g, activation_needs_input(g) ? fx.data : fy.data, fg.data, to.data, fx.size);
    });
}

// Columns that batch normalization, which treats each alone, takes together. `whole` ones fill cache lines and stay where they are.
struct Columns {
    Index first;
    Index count;
    Index seen;  // how many of them a part before this one had
    bool whole;

    template <class T>
    Matrix<T> of(const Matrix<T>& m) const {
        return {m.data + first, m.rows, count, m.ld, whole};
    }
};

// f(Columns) over all of them. The last few fill a line together with some that were taken before and come out the same, unless these were
// overwritten: then, and where there is no whole line, they go through a copy.
template <class T, class F>
void by_columns(Index cols, bool in_place, F&& f) {
    constexpr Index line = line_elements<T>;
    const Index filled = cols / line * line;
    if (filled > 0) {
        f(Columns{0, filled, 0, true});
    }
    if (filled < cols) {
        f(filled > 0 && !in_place ? Columns{cols - line, line, filled - (cols - line), true} : Columns{filled, cols - filled, 0, false});
    }
}

void batchnorm_forward_array(const py::object& x, const py::object& gamma, const py::object& beta, const py::object& running_mean,
                             const py::object& running_variance, double momentum, double eps, bool first, const py::object& out,
                             const py::object& mean, const py::object& inverse_std) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto my = output_matrix<T>(out, "out");
        check_shape(my, mx.rows, mx.cols, "out");
        check(mx.rows > 0, "x must have at least one row; got shape (", mx.rows, ", ", mx.cols, ")");
        const PaddedVector<T> g(gamma, "gamma", mx.cols);
        const PaddedVector<T> b(beta, "beta", mx.cols);
        T* run_mean = output_flat<T>(running_mean, "running_mean", mx.cols).data;
        T* run_variance = output_flat<T>(running_variance, "running_variance", mx.cols).data;
        T* batch_mean = output_flat<T>(mean, "mean", mx.cols).data;
        T* batch_inverse = output_flat<T>(inverse_std, "inverse_std", mx.cols).data;
        const Release release;
        const T share = first ? T(1) : static_cast<T>(momentum);
        by_columns<T>(mx.cols, share_memory(my, mx), [&](const Columns& part) {
            const PaddedInput<T> px(part.of(mx));
            const PaddedOutput<T> py_(part.of(my));
            const Index width = round_up(part.count, line_elements<T>);
            const ScratchOf<T> scratch(3 * width + batchnorm_scratch<T>(mx.rows, part.count));
            T* v = scratch.data();
            T* m = part.whole ? batch_mean + part.first : v + width;
            T* inverse = part.whole ? batch_inverse + part.first : v + 2 * width;
            batchnorm_statistics<T>(px.view(), static_cast<T>(eps), m, v, inverse, scratch.data() + 3 * width);
            for (Index j = part.seen; j < part.count; ++j) {
                run_mean[part.first + j] = (T(1) - share) * run_mean[part.first + j] + share * m[j];
                run_variance[part.first + j] = (T(1) - share) * run_variance[part.first + j] + share * v[j];
            }
            const BatchNorm<T> norm{g.data() + part.first, b.data() + part.first, static_cast<T>(eps)};
            batchnorm_apply<T>(px.view(), norm, m, inverse, Activation::identity, py_.view(), {});
            py_.finish();
            if (!part.whole) {
                std::copy(m, m + part.count, batch_mean + part.first);
                std::copy(inverse, inverse + part.count, batch_inverse + part.first);
            }
        });
    });
}

void batchnorm_inference_array(const py::object& x, const py::object& gamma, const py::object& beta, const py::object& mean,
                               const py::object& variance, double eps, const py::object& out) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto my = output_matrix<T>(out, "out");
        check_shape(my, mx.rows, mx.cols, "out");
        const PaddedVector<T> g(gamma, "gamma", mx.cols);
        const PaddedVector<T> b(beta, "beta", mx.cols);
        const PaddedVector<T> m(mean, "mean", mx.cols);
        const Flat<T> v = sized_flat<T>(variance, "variance", mx.cols);
        const Release release;
        const Buffer<T> inverse(round_up(std::max<Index>(mx.cols, 1), line_elements<T>));
        for (Index j = 0; j < mx.cols; ++j) {
            inverse.data()[j] = T(1) / std::sqrt(v.data[j] + static_cast<T>(eps));
        }
        by_columns<T>(mx.cols, share_memory(my, mx), [&](const Columns& part) {
            const PaddedInput<T> px(part.of(mx));
            const PaddedOutput<T> py_(part.of(my));
            const BatchNorm<T> norm{g.data() + part.first, b.data() + part.first, static_cast<T>(eps)};
            batchnorm_apply<T>(px.view(), norm, m.data() + part.first, inverse.data() + part.first, Activation::identity, py_.view(), {});
            py_.finish();
        });
    });
}

void batchnorm_backward_array(const py::object& x, const py::object& gamma, const py::object& mean, const py::object& inverse_std,
                              const py::object& grad_out, const py::object& grad_x, const py::object& grad_gamma,
                              const py::object& grad_beta) {
    by_dtype(grad_x, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto mg = input_matrix<T>(grad_out, "grad_out");
        const auto mgx = output_matrix<T>(grad_x, "grad_x");
        check_shape(mg, mx.rows, mx.cols, "grad_out");
        check_shape(mgx, mx.rows, mx.cols, "grad_x");
        check(mx.rows > 0, "x must have at least one row; got shape (", mx.rows, ", ", mx.cols, ")");
        const PaddedVector<T> g(gamma, "gamma", mx.cols);
        const PaddedVector<T> m(mean, "mean", mx.cols);
        const PaddedVector<T> inverse(inverse_std, "inverse_std", mx.cols);
        T* gg = output_flat<T>(grad_gamma, "grad_gamma", mx.cols).data;
        T* gb = output_flat<T>(grad_beta, "grad_beta", mx.cols).data;
        const Release release;
        by_columns<T>(mx.cols, share_memory(mgx, mx) || share_memory(mgx, mg), [&](const Columns& part) {
            const PaddedInput<T> px(part.of(mx));
            const PaddedInput<T> pg(part.of(mg));
            const PaddedOutput<T> pgx(part.of(mgx));
            const ScratchOf<T> scratch(batchnorm_scratch<T>(mx.rows, part.count));
            const BatchNorm<T> norm{g.data() + part.first, nullptr, T(0)};
            batchnorm_backward<T>(px.view(), norm, m.data() + part.first, inverse.data() + part.first, pg.view(), pgx.view(),
                                  gg + part.first, gb + part.first, Activation::identity, {}, scratch.data());
            pgx.finish();
        });
    });
}

void dropout_forward_array(const py::object& x, double rate, std::uint64_t seed, std::uint64_t step, std::uint32_t layer,
                           const py::object& out) {
    check(rate >= 0 && rate < 1, "rate must be in [0, 1); got ", rate);
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto my = output_matrix<T>(out, "out");
        check_shape(my, mx.rows, mx.cols, "out");
        const Release release;
        const PaddedInput<T> px(mx);
        const PaddedOutput<T> py_(my);
        PaddedMatrix<T> mask;
        mask.reserve(mx.rows, mx.cols);
        dropout_forward<T>(px.view(), rate, {seed, step, layer}, 0, mask.view(mx.rows), py_.view());
        py_.finish();
    });
}

void softmax_array(const py::object& x, const py::object& out) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const auto my = output_matrix<T>(out, "out");
        check_shape(my, mx.rows, mx.cols, "out");
        if (mx.empty()) {
            return;
        }
        const Release release;
        softmax<T>(mx, my);
    });
}

void column_sums_array(const py::object& x, const py::object& out) {
    by_dtype(out, [&](auto zero) {
        using T = decltype(zero);
        const auto mx = input_matrix<T>(x, "x");
        const Flat<T> to = output_flat<T>(out, "out", mx.cols);
        const Release release;
        column_sums<T>(mx, to.data);
    });
}

bool all_finite_array(const py::object& x, double most) {
    return by_dtype(x, [&](auto zero) {
        using T = decltype(zero);
        const auto flat = input_flat<T>(x, "x");
        const T limit = static_cast<T>(std::min(most, static_cast<double>(std::numeric_limits<T>::max())));
        const Release release;
        return all_finite(flat.data, flat.size, limit);
    });
}

}  // namespace

void bind_kernels(py::module_& m) {
    m.def("matmul", &matmul, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("transpose_a"), py::arg("transpose_b"),
          py::arg("precision") = "full");
    m.def("dense_forward", &dense_forward_array);
    m.def("dense_backward", &dense_backward_array);
    m.def("activation_needs_input", [](const std::string& name) { return activation_needs_input(activation_from_name(name)); });
    m.def("activation_forward", &activation_forward_array);
    m.def("activation_backward", &activation_backward_array);
    m.def("batchnorm_forward", &batchnorm_forward_array);
    m.def("batchnorm_inference", &batchnorm_inference_array);
    m.def("batchnorm_backward", &batchnorm_backward_array);
    m.def("dropout_forward", &dropout_forward_array);
    m.def("softmax", &softmax_array);
    m.def("column_sums", &column_sums_array);
    m.def("all_finite", &all_finite_array, py::arg("x"), py::arg("most") = std::numeric_limits<double>::max());
}

}  // namespace fastopt
