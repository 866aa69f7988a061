#include "kernels/dense.hpp"

#include <algorithm>

#include "core/threads.hpp"
#include "kernels/gemm.hpp"
#include "kernels/one_row.hpp"
#include "kernels/take_lines.hpp"
#include "kernels/thin.hpp"

namespace fastopt {

namespace {

// c = a b, where `inner` is what the sums run over.
template <class T>
Product<T> product_of(const Operand<T>& a, const Operand<T>& b, Out<T> c, Index rows, Index cols, Index inner) {
    Product<T> product;
    product.m = rows;
    product.n = cols;
    product.k = inner;
    product.a = a;
    product.b = b;
    product.c = c;
    return product;
}

template <class T>
Product<T> weight_product(In<T> x, In<T> grad_a, Out<T> grad_weight, Precision precision, Out<T> writes_next, Tape* tape) {
    Product<T> product = product_of<T>(transposed(x), operand(grad_a), grad_weight, x.cols, grad_a.cols, x.rows);
    product.precision = precision;
    product.writes_next = writes_next;
    product.tape = tape;
    return product;
}

template <class T>
Product<T> input_product(In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, Precision precision, Tape* tape) {
    Product<T> product = product_of<T>(operand(grad_a), transposed(weight), grad_x, grad_a.rows, weight.rows, weight.cols);
    product.slope = slope;
    product.slope_source = slope_source;
    product.precision = precision;
    product.tape = tape;
    return product;
}

// Elements of a weight gradient of a narrow layer that is added to another.
template <class T>
Index narrow_sum(Index inputs, Index units) {
    return round_up(inputs * units, line_elements<T>);
}

}  // namespace

template <class T>
Index dense_scratch(Index rows, Index inputs, Index units, int threads) {
    const Index sum = is_thin(units) ? rows * line_elements<T> : 0;  // of dense_forward_onto
    return sum + std::max({product_scratch<T>(rows, units, inputs, threads), product_scratch<T>(inputs, units, rows, threads),
                           product_scratch<T>(rows, inputs, units, threads),
                           is_narrow<T>(units) ? narrow_sum<T>(inputs, units) + thin_scratch<T>(rows, inputs, units, threads) : 0});
}

template <class T>
void dense_forward(In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch, Precision precision,
                   Out<T> writes_next, Tape* tape) {
    if (is_thin(weight.cols)) {
        if (weight.cols == 0) {
            return;
        }
        make_call(tape, [=] { thin_forward<T>(x, weight, bias, activation, y, pre, scratch); });
        return;
    }
    if (precision == Precision::full && one_row_fits<T>(x, weight, y, pre)) {
        take_lines(writes_next.data, writes_next.rows * writes_next.ld);
        make_call(tape, [=] { one_row_forward<T>(x, weight, bias, activation, y, pre); });
        return;
    }
    Product<T> product = product_of<T>(operand(x), operand(weight), y, x.rows, weight.cols, weight.rows);
    product.bias = bias;
    product.activation = activation;
    product.pre = pre;
    product.precision = precision;
    product.writes_next = writes_next;
    product.tape = tape;
    multiply(product, scratch);
}

template <class T>
void dense_forward_onto(In<T> addend, In<T> x, In<T> weight, const T* bias, Activation activation, Out<T> y, Out<T> pre, T* scratch,
                        Tape* tape) {
    if (is_thin(weight.cols)) {
        const Matrix<T> sum{scratch, x.rows, weight.cols, line_elements<T>, true};
        dense_forward<T>(x, weight, bias, Activation::identity, sum, {}, scratch + x.rows * line_elements<T>, Precision::full, {}, tape);
        make_call(tape, [=] { activation_of_sum<T>(activation, addend, sum, y, pre); });
        return;
    }
    Product<T> product = product_of<T>(operand(x), operand(weight), y, x.rows, weight.cols, weight.rows);
    product.bias = bias;
    product.addend = addend;
    product.activation = activation;
    product.pre = pre;
    product.tape = tape;
    multiply(product, scratch);
}

template <class T>
void dense_backward_weight(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch, Precision precision, Out<T> writes_next, Tape* tape) {
    if (is_thin(grad_a.cols) || (is_narrow<T>(grad_a.cols) && precision == Precision::full)) {
        if (grad_a.cols == 0) {
            return;
        }
        take_lines(writes_next.data, writes_next.rows * writes_next.ld);
        narrow_backward_weight<T>(x, grad_a, grad_weight, scratch, tape);
        return;
    }
    multiply(weight_product<T>(x, grad_a, grad_weight, precision, writes_next, tape), scratch);
}

template <class T>
void dense_backward_input(In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, T* scratch, Precision precision,
                          Tape* tape) {
    if (is_thin(weight.cols)) {
        if (weight.cols == 0) {
            make_call(tape, [=] {
                for (Index i = 0; i < grad_x.rows; ++i) {
                    std::fill(grad_x.row(i), grad_x.row(i) + grad_x.cols, T(0));
                }
            });
            return;
        }
        make_call(tape, [=] { thin_backward_input<T>(grad_a, weight, grad_x, slope, slope_source, scratch); });
        return;
    }
    multiply(input_product<T>(grad_a, weight, grad_x, slope, slope_source, precision, tape), scratch);
}

template <class T>
void dense_backward(In<T> x, In<T> grad_a, In<T> weight, Out<T> grad_x, Activation slope, In<T> slope_source, Out<T> grad_weight,
                    T* scratch, Precision precision, Tape* tape) {
    if (is_thin(weight.cols) && weight.cols > 0 && x.padded && grad_x.padded) {
        make_call(tape, [=] { thin_backward<T>(x, grad_a, weight, grad_x, slope, slope_source, grad_weight, scratch); });
        return;
    }
    if (is_narrow<T>(weight.cols)) {
        dense_backward_input<T>(grad_a, weight, grad_x, slope, slope_source, scratch, precision, tape);
        dense_backward_weight<T>(x, grad_a, grad_weight, scratch, precision, {}, tape);
        return;
    }
    multiply_both(weight_product<T>(x, grad_a, grad_weight, precision, {}, tape),
                  input_product<T>(grad_a, weight, grad_x, slope, slope_source, precision, tape), scratch);
}

template <class T>
void dense_add_weight_gradient(In<T> x, In<T> grad_a, Out<T> grad_weight, T* scratch) {
    const Index inputs = x.cols;
    const Index units = grad_a.cols;
    if (!is_narrow<T>(units)) {
        dense_accumulate<T>(transposed(x), operand(grad_a), grad_weight, inputs, x.rows, scratch);
        return;
    }
    narrow_backward_weight<T>(x, grad_a, {scratch, inputs, units, units}, scratch + narrow_sum<T>(inputs, units), nullptr);
    for (Index i = 0; i < inputs * units; ++i) {
        grad_weight.data[i] += scratch[i];
    }
}

template <class T>
void dense_accumulate(const Operand<T>& a, const Operand<T>& b, Out<T> c, Index rows, Index inner, T* scratch, Precision precision) {
    Product<T> product = product_of<T>(a, b, c, rows, c.cols, inner);
    product.accumulate = true;
    product.precision = precision;
    multiply(product, scratch);
}

template <class T>
void outer_rows(In<T> x, In<T> grad, bool bias, Out<T> out) {
    const Index units = grad.cols;
    parallel_for(x.rows, 1, 2.0 * static_cast<double>(x.rows * x.cols * units), [=](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            const T* from = grad.row(i);
            T* to = out.row(i);
            for (Index a = 0; a < x.cols; ++a, to += units) {
                const T factor = x.row(i)[a];
                for (Index j = 0; j < units; ++j) {
                    to[j] = factor * from[j];
                }
            }
            if (bias) {
                std::copy(from, from + units, to);
            }
        }
    });
}

#define FASTOPT_INSTANTIATE(T)                                                                                                            \
    template Index dense_scratch<T>(Index, Index, Index, int);                                                                            \
    template void dense_forward<T>(ConstMatrix<T>, ConstMatrix<T>, const T*, Activation, Matrix<T>, Matrix<T>, T*, Precision, Matrix<T>,  \
                                   Tape*);                                                                                                \
    template void dense_forward_onto<T>(ConstMatrix<T>, ConstMatrix<T>, ConstMatrix<T>, const T*, Activation, Matrix<T>, Matrix<T>, T*,   \
                                        Tape*);                                                                                           \
    template void dense_backward_weight<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, T*, Precision, Matrix<T>, Tape*);                   \
    template void dense_backward_input<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, Activation, ConstMatrix<T>, T*, Precision, Tape*);   \
    template void dense_backward<T>(ConstMatrix<T>, ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, Activation, ConstMatrix<T>, Matrix<T>, T*, \
                                    Precision, Tape*);                                                                                    \
    template void dense_add_weight_gradient<T>(ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, T*);                                            \
    template void dense_accumulate<T>(const Operand<T>&, const Operand<T>&, Matrix<T>, Index, Index, T*, Precision);                      \
    template void outer_rows<T>(ConstMatrix<T>, ConstMatrix<T>, bool, Matrix<T>);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
