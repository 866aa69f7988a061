"""Losses: for each row its value and the gradient of that value with respect to the row of outputs."""

import math

import numpy as np

from .activations import log_softmax, sigmoid, softmax, softplus

_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def _mean_over_outputs(values, slopes):
    return values.mean(axis=1), slopes / values.shape[1]


def mse(p, y):
    return _mean_over_outputs((p - y) ** 2, 2 * (p - y))


def mae(p, y):
    return _mean_over_outputs(np.abs(p - y), np.sign(p - y))


def huber(p, y, delta=1.0):
    r = p - y
    small = np.abs(r) <= delta
    values = np.where(small, 0.5 * r**2, delta * (np.abs(r) - 0.5 * delta))
    return _mean_over_outputs(values, np.where(small, r, delta * np.sign(r)))


def log_cosh(p, y):
    r = np.abs(p - y)
    return _mean_over_outputs(r + np.log1p(np.exp(-2 * r)) - math.log(2), np.tanh(p - y))


def quantile(p, y, quantiles=(0.5,)):
    q = np.asarray(quantiles, dtype=np.float64)
    r = y.reshape(-1, 1) - p
    return _mean_over_outputs(np.maximum(q * r, (q - 1) * r), np.where(r > 0, -q, 1 - q))


def poisson(p, y, full=False):
    values = np.exp(p) - y * p + (_lgamma(y + 1) if full else 0.0)
    return _mean_over_outputs(values, np.exp(p) - y)


def gaussian_nll(p, y, full=False):
    mu, s = p[:, 0::2], p[:, 1::2]
    precision = np.where(y == mu, 0.0, np.exp(-s))  # 0 times infinity is 0 here
    scaled = (y - mu) ** 2 * precision
    values = 0.5 * (s + scaled) + (0.5 * math.log(2 * math.pi) if full else 0.0)
    slopes = np.empty_like(p)
    slopes[:, 0::2] = (mu - y) * precision
    slopes[:, 1::2] = 0.5 * (1 - scaled)
    return values.mean(axis=1), slopes / values.shape[1]


def bce(p, y, label_smoothing=0.0, pos_weight=1.0):
    y = (1 - label_smoothing) * y + 0.5 * label_smoothing
    values = pos_weight * y * softplus(-p) + (1 - y) * softplus(p)
    slopes = -pos_weight * y * sigmoid(-p) + (1 - y) * sigmoid(p)
    return _mean_over_outputs(values, slopes)


def one_hot(y, k):
    """Rows of probabilities; rows that already are come back as they are."""
    return np.eye(k)[y] if y.ndim == 1 else y.astype(np.float64)


def softmax_cross_entropy(p, y, label_smoothing=0.0):
    k = p.shape[1]
    y = (1 - label_smoothing) * one_hot(y, k) + label_smoothing / k
    return -(y * log_softmax(p)).sum(axis=1), softmax(p) * y.sum(axis=1, keepdims=True) - y


def kl(p, y):
    log_y = np.log(np.where(y > 0, y, 1.0))
    return (y * (log_y - log_softmax(p))).sum(axis=1), softmax(p) * y.sum(axis=1, keepdims=True) - y


def signs(y):
    """Targets 0/1 are read as -1/+1."""
    return np.where(y > 0, 1.0, -1.0)


def hinge(p, y):
    y = signs(y)
    margin = np.maximum(0, 1 - y * p)
    return _mean_over_outputs(margin, np.where(margin > 0, -y, 0.0))


def squared_hinge(p, y):
    y = signs(y)
    margin = np.maximum(0, 1 - y * p)
    return _mean_over_outputs(margin**2, -2 * y * margin)


def multiclass_hinge(p, y, kind="weston_watkins", squared=False):
    n, k = p.shape
    values, grads = np.zeros(n), np.zeros((n, k))
    for i in range(n):
        c = y[i]
        others = [j for j in range(k) if j != c]
        if kind == "crammer_singer" and others:
            others = [max(others, key=lambda j: p[i, j])]
        for j in others:
            margin = np.maximum(0.0, 1 - p[i, c] + p[i, j])
            slope = (2 * margin if squared else 1.0) if margin > 0 else 0.0
            values[i] += margin**2 if squared else margin
            grads[i, j] += slope
            grads[i, c] -= slope
    return values, grads


def perceptron(p, y):
    if p.shape[1] == 1:
        y = signs(y.reshape(-1, 1))
        return np.maximum(0, -y * p)[:, 0], np.where(-y * p > 0, -y, 0.0)
    rows = np.arange(len(p))
    best = p.argmax(axis=1)
    return p[rows, best] - p[rows, y], one_hot(best, p.shape[1]) - one_hot(y, p.shape[1])


def focal(p, y, gamma=2.0):
    rows = np.arange(len(p))
    log_p = log_softmax(p)[rows, y]
    pi = np.exp(log_p)
    miss = -np.expm1(log_p)
    slope = -(miss**gamma)  # of the value with respect to log pi
    if gamma != 0:
        slope = slope + gamma * np.where(miss > 0, miss, 1.0) ** (gamma - 1) * pi * log_p
    return -(miss**gamma) * log_p, slope[:, None] * (one_hot(y, p.shape[1]) - softmax(p))


LOSSES = {
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "log_cosh": log_cosh,
    "quantile": quantile,
    "poisson": poisson,
    "gaussian_nll": gaussian_nll,
    "bce": bce,
    "softmax_cross_entropy": softmax_cross_entropy,
    "kl": kl,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
    "multiclass_hinge": multiclass_hinge,
    "perceptron": perceptron,
    "focal": focal,
}


def value_and_grad(name, prediction, target, weight=None, **options):
    """Weighted mean over the rows and the gradient of exactly that number."""
    p = np.asarray(prediction, dtype=np.float64)
    y = np.asarray(target)
    y = y if y.dtype.kind in "iu" else y.astype(np.float64)
    values, grads = LOSSES[name](p, y, **options)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, dtype=np.float64)
    return float((w * values).sum() / w.sum()), grads * (w / w.sum())[:, None]
