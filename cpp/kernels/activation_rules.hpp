// The activations as rules over Vecs, and the way from an Activation to its rule. Included by the kernels that loop over them.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/simd_math.hpp"

namespace fastopt::activation_rules {

using namespace simd;

// One struct per activation: value(a), slope(s) = g' and bend(s) = g'', where s is h or, with needs_input, a.
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>&) {
        return zero<T>();
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& h) {
        return h * (T(1) - h) * (T(1) - T(2) * h);
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& h) {
        return T(-2) * (h * fma(-h, h, set1(T(1))));
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>&) {
        return zero<T>();
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>&) {
        return zero<T>();
    }
};
struct Elu {
    static constexpr bool needs_input = false;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return select(less(a, zero<T>()), expm1_of_nonpositive(a), a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return select(less(h, zero<T>()), h + T(1), set1(T(1)));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& h) {
        return keep(less(h, zero<T>()), h + T(1));
    }
};
// Klambauer et al., "Self-normalizing neural networks" (2017).
struct Selu {
    static constexpr bool needs_input = false;
    static constexpr double scale = 1.0507009873554804934193349852946;
    static constexpr double alpha = 1.6732632423543772848170429916717;
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return select(less(a, zero<T>()), T(scale * alpha) * expm1_of_nonpositive(a), T(scale) * a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& h) {
        return select(less(h, zero<T>()), h + T(scale * alpha), set1(T(scale)));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& h) {
        return keep(less(h, zero<T>()), h + T(scale * alpha));
    }
};
// x Phi(x); Phi(-x) = 1 - Phi(x), so that both sides come from the left tail, which keeps digits of its own.
struct Gelu {
    static constexpr bool needs_input = true;
    static constexpr double density = 0.3989422804014326779;  // of the normal distribution, at 0
    // The size of a, or one beyond which nothing changes: infinity times a tail of 0 would be NaN.
    template <class T>
    static FASTOPT_INLINE Vec<T> size_of(const Vec<T>& a) {
        return min(abs(a), set1(T(64)));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        const Vec<T> size = size_of(a);
        return fma(-size, gauss(a) * normal_tail(size), max(a, zero<T>()));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& a) {
        const Vec<T> size = size_of(a);
        const Vec<T> left = gauss(a) * fma(set1(T(-density)), size, normal_tail(size));  // of -size
        return select(less(a, zero<T>()), left, T(1) - left);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& a) {
        const Vec<T> size = size_of(a);
        return T(density) * gauss(a) * (T(2) - size * size);
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
    // Where the gate is open or shut its slope is 0, whose product with the square of a large a would be NaN.
    template <class T>
    static FASTOPT_INLINE Vec<T> limited(const Vec<T>& a) {
        return clamp(a, set1(T(-100)), set1(T(100)));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> value(const Vec<T>& a) {
        return a * gate(a);
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> slope(const Vec<T>& a) {
        const Vec<T> s = gate(a);
        const Vec<T> near = limited(a);
        const Vec<T> inner = T(twice_c) * fma(T(3 * 0.044715) * near, near, set1(T(1)));
        return s + near * (s * (T(1) - s)) * inner;
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& a) {
        const Vec<T> s = gate(a);
        const Vec<T> near = limited(a);
        const Vec<T> first = T(twice_c) * fma(T(3 * 0.044715) * near, near, set1(T(1)));
        const Vec<T> second = T(twice_c * 6 * 0.044715) * near;
        return s * (T(1) - s) * (T(2) * first + near * fma(first * first, T(1) - T(2) * s, second));
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& a) {
        const Vec<T> s = sigmoid(a);
        return s * (T(1) - s) * fma(a, T(1) - T(2) * s, set1(T(2)));
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
        return abs(expm1_of_nonpositive(-h));
    }
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>& h) {
        return exp_of_nonpositive(-h) * abs(expm1_of_nonpositive(-h));
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
    template <class T>
    static FASTOPT_INLINE Vec<T> bend(const Vec<T>&) {
        return zero<T>();
    }
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

}  // namespace fastopt::activation_rules
