#include "kernels/activations.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "core/threads.hpp"
#include "kernels/activation_rules.hpp"

namespace fastopt {

namespace {

using namespace simd;
using activation_rules::dispatch;

struct Entry {
    Activation activation;
    const char* name;
};
constexpr Entry entries[] = {
    {Activation::identity, "identity"},
    {Activation::identity, "linear"},
    {Activation::sigmoid, "sigmoid"},
    {Activation::tanh, "tanh"},
    {Activation::relu, "relu"},
    {Activation::leaky_relu, "leaky_relu"},
    {Activation::elu, "elu"},
    {Activation::selu, "selu"},
    {Activation::gelu, "gelu"},
    {Activation::gelu_tanh, "gelu_tanh"},
    {Activation::silu, "silu"},
    {Activation::softplus, "softplus"},
    {Activation::hard_tanh, "hard_tanh"},
};

// Operations per element for the thread rule: a transcendental costs about 20.
constexpr double work_per_element = 40;

template <class T>
constexpr Index lanes = Vec<T>::lanes;

}  // namespace

Activation activation_from_name(const std::string& name) {
    std::string known;
    for (const Entry& entry : entries) {
        if (name == entry.name) {
            return entry.activation;
        }
        known += (known.empty() ? "" : ", ") + std::string(entry.name);
    }
    throw std::invalid_argument(sentence("unknown activation '", name, "'; known: ", known));
}

const char* activation_name(Activation activation) {
    const auto* entry = std::find_if(std::begin(entries), std::end(entries), [&](const Entry& e) { return e.activation == activation; });
    return entry->name;
}

std::vector<std::string> activation_names() {
    std::vector<std::string> names;
    for (const Entry& entry : entries) {
        names.emplace_back(entry.name);
    }
    return names;
}

bool activation_needs_input(Activation activation) {
    return dispatch(activation, [](auto rule) { return decltype(rule)::needs_input; });
}

template <class T>
void activation_forward_tile(Activation activation, const T* a, Index lda, T* h, Index ldh, Index rows, Index vecs) {
    dispatch(activation, [=](auto rule) {
        for (Index i = 0; i < rows; ++i) {
            for (Index v = 0; v < vecs; ++v) {
                store(h + i * ldh + v * lanes<T>, rule.value(load(a + i * lda + v * lanes<T>)));
            }
        }
    });
}

template <class T>
void activation_backward_tile(Activation activation, const T* source, Index lds, T* d, Index ldd, Index rows, Index vecs) {
    if (activation == Activation::identity) {
        return;
    }
    dispatch(activation, [=](auto rule) {
        for (Index i = 0; i < rows; ++i) {
            for (Index v = 0; v < vecs; ++v) {
                T* to = d + i * ldd + v * lanes<T>;
                store(to, load(to) * rule.slope(load(source + i * lds + v * lanes<T>)));
            }
        }
    });
}

template <class T>
void activation_forward(Activation activation, const T* a, T* h, Index count) {
    parallel_for(count, lanes<T>, work_per_element * static_cast<double>(count), [=](Index begin, Index end) {
        dispatch(activation, [=](auto rule) {
            Index i = begin;
            for (; i + lanes<T> <= end; i += lanes<T>) {
                store(h + i, rule.value(load(a + i)));
            }
            if (i < end) {
                store_partial(h + i, rule.value(load_partial(a + i, end - i)), end - i);
            }
        });
    });
}

template <class T>
void activation_backward(Activation activation, const T* source, const T* grad_h, T* grad_a, Index count) {
    parallel_for(count, lanes<T>, work_per_element * static_cast<double>(count), [=](Index begin, Index end) {
        dispatch(activation, [=](auto rule) {
            Index i = begin;
            for (; i + lanes<T> <= end; i += lanes<T>) {
                store(grad_a + i, load(grad_h + i) * rule.slope(load(source + i)));
            }
            if (i < end) {
                const Index n = end - i;
                store_partial(grad_a + i, load_partial(grad_h + i, n) * rule.slope(load_partial(source + i, n)), n);
            }
        });
    });
}

template <class T>
void activation_forward(Activation activation, In<T> a, Out<T> h) {
    const Index vecs = ceil_div(a.cols, lanes<T>);
    parallel_for(a.rows, 1, work_per_element * static_cast<double>(a.rows * a.cols), [=](Index begin, Index end) {
        activation_forward_tile(activation, a.row(begin), a.ld, h.row(begin), h.ld, end - begin, vecs);
    });
}

template <class T>
void activation_backward(Activation activation, In<T> source, Out<T> d) {
    const Index vecs = ceil_div(d.cols, lanes<T>);
    parallel_for(d.rows, 1, work_per_element * static_cast<double>(d.rows * d.cols), [=](Index begin, Index end) {
        activation_backward_tile(activation, source.row(begin), source.ld, d.row(begin), d.ld, end - begin, vecs);
    });
}

template <class T>
void activation_of_sum(Activation activation, In<T> a, In<T> b, Out<T> h, Out<T> pre) {
    const Index padded = round_up(a.cols, lanes<T>);
    const bool joined = a.ld == padded && b.ld == padded && h.ld == padded && (pre.data == nullptr || pre.ld == padded);
    parallel_for(a.rows, 1, work_per_element * static_cast<double>(a.rows * a.cols), [=](Index begin, Index end) {
        const Index length = joined ? (end - begin) * padded : padded;  // rows without a gap are one
        const Index step = joined ? end - begin : 1;
        dispatch(activation, [=](auto rule) {
            for (Index i = begin; i < end; i += step) {
                const T* const one = a.row(i);  // pointers of their own: the compiler thinks that a store may change a matrix
                const T* const other = b.row(i);
                T* const to = h.row(i);
                T* const kept = pre.data != nullptr ? pre.row(i) : nullptr;
                const Index count = length;
                for (Index at = 0; at < count; at += lanes<T>) {
                    const Vec<T> sum = load(one + at) + load(other + at);
                    if (kept != nullptr) {
                        store(kept + at, sum);
                    }
                    store(to + at, rule.value(sum));
                }
            }
        });
    });
}

template <class T>
void activation_curvature(Activation activation, In<T> source, In<T> grad_h, In<T> tangent_a, Out<T> d) {
    const Index vecs = ceil_div(d.cols, lanes<T>);
    parallel_for(d.rows, 1, work_per_element * static_cast<double>(d.rows * d.cols), [=](Index begin, Index end) {
        dispatch(activation, [=](auto rule) {
            for (Index i = begin; i < end; ++i) {
                for (Index at = 0; at < vecs * lanes<T>; at += lanes<T>) {
                    const Vec<T> change = rule.bend(load(source.row(i) + at)) * load(tangent_a.row(i) + at);
                    store(d.row(i) + at, fma(load(grad_h.row(i) + at), change, load(d.row(i) + at)));
                }
            }
        });
    });
}

#define FASTOPT_INSTANTIATE(T)                                                                            \
    template void activation_forward_tile<T>(Activation, const T*, Index, T*, Index, Index, Index);       \
    template void activation_backward_tile<T>(Activation, const T*, Index, T*, Index, Index, Index);      \
    template void activation_forward<T>(Activation, const T*, T*, Index);                                 \
    template void activation_backward<T>(Activation, const T*, const T*, T*, Index);                      \
    template void activation_forward<T>(Activation, ConstMatrix<T>, Matrix<T>);                           \
    template void activation_backward<T>(Activation, ConstMatrix<T>, Matrix<T>);                          \
    template void activation_of_sum<T>(Activation, ConstMatrix<T>, ConstMatrix<T>, Matrix<T>, Matrix<T>); \
    template void activation_curvature<T>(Activation, ConstMatrix<T>, ConstMatrix<T>, ConstMatrix<T>, Matrix<T>);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
