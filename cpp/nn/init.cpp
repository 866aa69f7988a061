#include "nn/init.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"

namespace fastopt {

namespace {

enum class Law { uniform, normal, orthogonal, constant };

struct Initializer {
    const char* name;
    Law law;
    double gain;  // variance is gain / fan
    bool both_fans;
};

// Glorot and Bengio 2010; He et al. 2015; LeCun et al. 1998; Saxe, McClelland, Ganguli 2014 (orthogonal).
constexpr Initializer initializers[] = {
    {"glorot_uniform", Law::uniform, 2, true}, {"glorot_normal", Law::normal, 2, true},   {"he_uniform", Law::uniform, 2, false},
    {"he_normal", Law::normal, 2, false},      {"lecun_uniform", Law::uniform, 1, false}, {"lecun_normal", Law::normal, 1, false},
    {"orthogonal", Law::orthogonal, 1, false}, {"zeros", Law::constant, 0, false},        {"constant", Law::constant, 0, false},
};

const char* resolve_auto(Activation next) {
    switch (next) {
        case Activation::relu:
        case Activation::leaky_relu:
        case Activation::elu:
        case Activation::gelu:
        case Activation::gelu_tanh:
        case Activation::silu:
            return "he_uniform";
        case Activation::selu:
            return "lecun_normal";
        default:
            return "glorot_uniform";
    }
}

const Initializer& find(const std::string& name) {
    std::string known = "auto";
    for (const Initializer& entry : initializers) {
        if (name == entry.name) {
            return entry;
        }
        known += std::string(", ") + entry.name;
    }
    throw std::invalid_argument(sentence("unknown initializer '", name, "'; known: ", known));
}

// Box and Muller, two uniforms of one block.
double normal_at(const Stream& stream, std::uint64_t element) {
    const Words words = random_words(stream, element);
    const double radius = std::sqrt(-2 * std::log((words[0] + 1.0) * 0x1p-32));
    return radius * std::cos(6.28318530717958647693 * (words[1] * 0x1p-32));
}

// Orthonormal rows or columns, whichever are fewer, by modified Gram-Schmidt on normal vectors, done twice for accuracy.
template <class T>
void orthogonal(const Stream& stream, Index rows, Index cols, T* weight) {
    const bool by_row = rows <= cols;
    const Index count = by_row ? rows : cols;
    const Index length = by_row ? cols : rows;
    std::vector<double> v(static_cast<std::size_t>(count * length));
    for (std::size_t i = 0; i < v.size(); ++i) {
        v[i] = normal_at(stream, i);
    }
    for (Index i = 0; i < count; ++i) {
        double* a = v.data() + i * length;
        for (int sweep = 0; sweep < 2; ++sweep) {
            for (Index j = 0; j < i; ++j) {
                const double* b = v.data() + j * length;
                double dot = 0;
                for (Index k = 0; k < length; ++k) {
                    dot += a[k] * b[k];
                }
                for (Index k = 0; k < length; ++k) {
                    a[k] -= dot * b[k];
                }
            }
            double norm = 0;
            for (Index k = 0; k < length; ++k) {
                norm += a[k] * a[k];
            }
            norm = std::sqrt(norm);
            for (Index k = 0; k < length; ++k) {
                a[k] /= norm;
            }
        }
    }
    for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) {
            weight[i * cols + j] = static_cast<T>(v[static_cast<std::size_t>(by_row ? i * cols + j : j * rows + i)]);
        }
    }
}

}  // namespace

std::vector<std::string> initializer_names() {
    std::vector<std::string> names{"auto"};
    for (const Initializer& entry : initializers) {
        names.emplace_back(entry.name);
    }
    return names;
}

void check_initializer(const std::string& name) {
    if (name != "auto") {
        find(name);
    }
}

template <class T>
void initialize_weight(const std::string& name, Activation next, double value, const Stream& stream, Index fan_in, Index fan_out,
                       T* weight) {
    const Initializer& how = find(name == "auto" ? resolve_auto(next) : name);
    const double fan = static_cast<double>(how.both_fans ? fan_in + fan_out : fan_in);
    const double deviation = std::sqrt(how.gain / fan);
    const double reach = std::sqrt(3.0) * deviation;
    const Index count = fan_in * fan_out;
    switch (how.law) {
        case Law::uniform:
            for (Index i = 0; i < count; ++i) {
                weight[i] = static_cast<T>(reach * (2 * uniform_at(stream, static_cast<std::uint64_t>(i)) - 1));
            }
            break;
        case Law::normal:
            for (Index i = 0; i < count; ++i) {
                weight[i] = static_cast<T>(deviation * normal_at(stream, static_cast<std::uint64_t>(i)));
            }
            break;
        case Law::orthogonal:
            orthogonal(stream, fan_in, fan_out, weight);
            break;
        case Law::constant:
            std::fill(weight, weight + count, static_cast<T>(name == "constant" ? value : 0));
            break;
    }
}

template void initialize_weight<float>(const std::string&, Activation, double, const Stream&, Index, Index, float*);
template void initialize_weight<double>(const std::string&, Activation, double, const Stream&, Index, Index, double*);

}  // namespace fastopt
