"""Activations and their derivatives with respect to the input, elementwise in float64."""

import math

import numpy as np

LEAKY_SLOPE = 0.01
ELU_ALPHA = 1.0
# Klambauer et al. 2017, the fixed point of zero mean and unit variance.
SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x):
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + z), z / (1 + z))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softmax(x):
    z = np.exp(x - x.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def identity(x):
    return x.copy()


def d_identity(x):
    return np.ones_like(x)


def d_sigmoid(x):
    return sigmoid(x) * sigmoid(-x)


def d_tanh(x):
    return 1 - np.tanh(x) ** 2


def relu(x):
    return np.maximum(x, 0)


def d_relu(x):
    return np.where(x > 0, 1.0, 0.0)


def leaky_relu(x):
    return np.where(x > 0, x, LEAKY_SLOPE * x)


def d_leaky_relu(x):
    return np.where(x > 0, 1.0, LEAKY_SLOPE)


def elu(x):
    return np.where(x > 0, x, ELU_ALPHA * np.expm1(np.minimum(x, 0)))


def d_elu(x):
    return np.where(x > 0, 1.0, ELU_ALPHA * np.exp(np.minimum(x, 0)))


def selu(x):
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def d_selu(x):
    return SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(x, 0)))


def normal_cdf(x):
    return 0.5 * _erfc(-x / math.sqrt(2))


def gelu(x):
    return x * normal_cdf(x)


def d_gelu(x):
    return normal_cdf(x) + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _gelu_inner(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def gelu_tanh(x):
    # ½(1 + tanh u) is sigmoid(2u), which keeps its digits for very negative u.
    return x * sigmoid(2 * _gelu_inner(x))


def d_gelu_tanh(x):
    inner = _gelu_inner(x)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return sigmoid(2 * inner) + x * 2 * slope * d_sigmoid(2 * inner)


def silu(x):
    return x * sigmoid(x)


def d_silu(x):
    return sigmoid(x) + x * d_sigmoid(x)


def hard_tanh(x):
    return np.clip(x, -1, 1)


def d_hard_tanh(x):
    return np.where(np.abs(x) < 1, 1.0, 0.0)


ACTIVATIONS = {
    "identity": (identity, d_identity),
    "linear": (identity, d_identity),
    "sigmoid": (sigmoid, d_sigmoid),
    "tanh": (np.tanh, d_tanh),
    "relu": (relu, d_relu),
    "leaky_relu": (leaky_relu, d_leaky_relu),
    "elu": (elu, d_elu),
    "selu": (selu, d_selu),
    "gelu": (gelu, d_gelu),
    "gelu_tanh": (gelu_tanh, d_gelu_tanh),
    "silu": (silu, d_silu),
    "softplus": (softplus, sigmoid),
    "hard_tanh": (hard_tanh, d_hard_tanh),
}

# Points where a rule has no derivative: finite differences stay away from them.
KINKS = {"relu": (0.0,), "leaky_relu": (0.0,), "selu": (0.0,), "hard_tanh": (-1.0, 1.0)}
