#include "kernels/activations.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "core/threads.hpp"
#include "kernels/simd_math.hpp"

namespace fastopt {

namespace {

using namespace simd;

// One struct per activation: value(a) and slope(s), where s is h or, with needs_input, a.
struct Identity_ {
    static constexpr bool needs_input = false;
    template <class V>
    static FASTOPT_INLINE V value(const V& a) {
        return a;
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>&) {
        return set1(T(1));
    }
};
struct Sigmoid {
    static constexpr bool needs_input = false;
    template <class V>
    static FASTOPT_INLINE V value(const V& a) {
        return sigmoid(a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return h * (T(1) - h);
    }
};
struct Tanh {
    static constexpr bool needs_input = false;
    template <class V>
    static FASTOPT_INLINE V value(const V& a) {
        return tanh(a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return fma(-h, h, set1(T(1)));
    }
};
struct Relu {
    static constexpr bool needs_input = false;
    template <class V>
    static FASTOPT_INLINE V value(const V& a) {
        return relu(a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return keep(less(zero<T>(), h), set1(T(1)));
    }
};
struct LeakyRelu {
    static constexpr bool needs_input = false;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return select(less(a, zero<T>()), T(0.01) * a, a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return select(less(zero<T>(), h), set1(T(1)), set1(T(0.01)));
    }
};
struct Elu {
    static constexpr bool needs_input = false;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return select(less(a, zero<T>()), expm1(a), a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return select(less(h, zero<T>()), h + T(1), set1(T(1)));
    }
};
// Klambauer et al., "Self-normalizing neural networks" (2017).
struct Selu {
    static constexpr bool needs_input = false;
    static constexpr double scale = 1.0507009873554804934193349852946;
    static constexpr double alpha = 1.6732632423543772848170429916717;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return select(less(a, zero<T>()), T(scale * alpha) * expm1(a), T(scale) * a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return select(less(h, zero<T>()), h + T(scale * alpha), set1(T(scale)));
    }
};
struct Gelu {
    static constexpr bool needs_input = true;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return a * normal_cdf(a, gauss(a));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& a) {
        const Vec<T> bell = gauss(a);
        return normal_cdf(a, bell) + a * (T(0.3989422804014326779) * bell);
    }
};
// x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): the sigmoid keeps the left tail accurate.
struct GeluTanh {
    static constexpr bool needs_input = true;
    static constexpr double twice_c = 2 * 0.79788456080286535588;
    template <class T>
    static FASTOPT_INLINE Vec<T> gate(const Vec<T>& a) {
        return sigmoid(T(twice_c) * (a * fma(T(0.044715) * a, a, set1(T(1)))));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return a * gate(a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& a) {
        const Vec<T> s = gate(a);
        const Vec<T> inner = T(twice_c) * fma(T(3 * 0.044715) * a, a, set1(T(1)));
        return s + a * (s * (T(1) - s)) * inner;
    }
};
struct Silu {
    static constexpr bool needs_input = true;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return a * sigmoid(a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& a) {
        const Vec<T> s = sigmoid(a);
        return s + a * (s * (T(1) - s));
    }
};
struct Softplus {
    static constexpr bool needs_input = false;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return softplus(a);
    }
    // sigmoid(a) = 1 - exp(-h)
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return -expm1(-h);
    }
};
struct HardTanh {
    static constexpr bool needs_input = false;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return min(max(a, set1(T(-1))), set1(T(1)));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return keep(less(abs(h), set1(T(1))), set1(T(1)));
    }
};

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

// Call f with the struct of an activation.
template <class F>
auto dispatch(Activation activation, F&& f) {
    switch (activation) {
        case Activation::sigmoid:
            return f(Sigmoid{});
        case Activation::tanh:
            return f(Tanh{});
        case Activation::relu:
            return f(Relu{});
        case Activation::leaky_relu:
            return f(LeakyRelu{});
        case Activation::elu:
            return f(Elu{});
        case Activation::selu:
            return f(Selu{});
        case Activation::gelu:
            return f(Gelu{});
        case Activation::gelu_tanh:
            return f(GeluTanh{});
        case Activation::silu:
            return f(Silu{});
        case Activation::softplus:
            return f(Softplus{});
        case Activation::hard_tanh:
            return f(HardTanh{});
        case Activation::identity:
            break;
    }
    return f(Identity_{});
}

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

#define FASTOPT_INSTANTIATE(T)                                                                       \
    template void activation_forward_tile<T>(Activation, const T*, Index, T*, Index, Index, Index);  \
    template void activation_backward_tile<T>(Activation, const T*, Index, T*, Index, Index, Index); \
    template void activation_forward<T>(Activation, const T*, T*, Index);                            \
    template void activation_backward<T>(Activation, const T*, const T*, T*, Index);                 \
    template void activation_forward<T>(Activation, ConstMatrix<T>, Matrix<T>);                      \
    template void activation_backward<T>(Activation, ConstMatrix<T>, Matrix<T>);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)

}  // namespace fastopt
