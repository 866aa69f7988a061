"""Forward and backward of the layers, on one batch of rows."""

import numpy as np

from .philox import uniform


def dense_forward(x, weight, bias=None):
    return x @ weight + (0.0 if bias is None else bias)


def dense_backward(x, weight, grad_pre):
    """Gradients of weight, bias and input from the gradient of x W + b."""
    return x.T @ grad_pre, grad_pre.sum(axis=0), grad_pre @ weight.T


def batchnorm_forward(x, gamma, beta, running_mean, running_variance, momentum=0.1, eps=1e-5, first=False):
    """Training mode: (out, mean, 1/sqrt(var + eps), new running mean, new running variance)."""
    mean = x.mean(axis=0)
    variance = ((x - mean) ** 2).mean(axis=0)
    inverse_std = 1 / np.sqrt(variance + eps)
    if first:
        running_mean, running_variance = mean, variance
    else:
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_variance = (1 - momentum) * running_variance + momentum * variance
    return gamma * (x - mean) * inverse_std + beta, mean, inverse_std, running_mean, running_variance


def batchnorm_inference(x, gamma, beta, mean, variance, eps=1e-5):
    return gamma * (x - mean) / np.sqrt(variance + eps) + beta


def batchnorm_backward(x, gamma, mean, inverse_std, grad_out):
    """Gradients of input, gamma and beta, through the statistics of the batch."""
    normal = (x - mean) * inverse_std
    grad_gamma = (grad_out * normal).sum(axis=0)
    grad_beta = grad_out.sum(axis=0)
    m = x.shape[0]
    grad_x = gamma * inverse_std * (grad_out - grad_beta / m - normal * grad_gamma / m)
    return grad_x, grad_gamma, grad_beta


def dropout_scale(shape, rate, seed, step, layer):
    """What each element is multiplied with: 0, or 1/(1-rate) where its uniform is at least `rate`."""
    keep = uniform(int(np.prod(shape)), seed, step, layer) >= rate
    return keep.reshape(shape) / (1 - rate)


def dropout_forward(x, rate, seed, step, layer):
    return x * dropout_scale(x.shape, rate, seed, step, layer)


def standardize_fit(x):
    mean = x.mean(axis=0)
    return mean, ((x - mean) ** 2).mean(axis=0)


def standardize_forward(x, mean, variance, eps=1e-8):
    return np.where(variance > 0, (x - mean) / np.sqrt(variance + eps), 0.0)


LAYERS = {
    "dense": (dense_forward, dense_backward),
    "activation": None,  # see activations.py
    "batchnorm": (batchnorm_forward, batchnorm_backward),
    "dropout": (dropout_forward, dropout_forward),
    "standardize": (standardize_forward, None),
}
