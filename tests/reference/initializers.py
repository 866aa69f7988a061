"""What each initialiser draws: the half-width of its uniform law, the deviation of its normal law, or the value itself."""

import math


def glorot_uniform(fan_in, fan_out):
    return "uniform", math.sqrt(6 / (fan_in + fan_out))


def glorot_normal(fan_in, fan_out):
    return "normal", math.sqrt(2 / (fan_in + fan_out))


def he_uniform(fan_in, fan_out):
    return "uniform", math.sqrt(6 / fan_in)


def he_normal(fan_in, fan_out):
    return "normal", math.sqrt(2 / fan_in)


def lecun_uniform(fan_in, fan_out):
    return "uniform", math.sqrt(3 / fan_in)


def lecun_normal(fan_in, fan_out):
    return "normal", math.sqrt(1 / fan_in)


def orthogonal(fan_in, fan_out):
    return "orthogonal", 1.0


def zeros(fan_in, fan_out):
    return "constant", 0.0


def constant(fan_in, fan_out):
    return "constant", None  # any one value


INITIALIZERS = {
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "lecun_uniform": lecun_uniform,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
    "zeros": zeros,
    "constant": constant,
}


def auto(activation):
    """The rule that "auto" stands for in front of this activation."""
    if activation in ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu"):
        return "he_uniform"
    return "lecun_normal" if activation == "selu" else "glorot_uniform"
