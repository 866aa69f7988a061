"""Penalties on weights, and clipping of gradients."""

import numpy as np


def penalty(weights, l1=0.0, l2=0.0):
    return sum(l1 * np.abs(w).sum() + l2 * (w**2).sum() for w in weights)


def penalty_gradient(w, l1=0.0, l2=0.0):
    return l1 * np.sign(w) + 2 * l2 * w


def clip_by_value(grads, limit):
    return [np.clip(g, -limit, limit) for g in grads]


def clip_by_norm(grads, max_norm):
    """All arrays together are scaled by min(1, max_norm / (norm + 1e-6))."""
    norm = np.sqrt(sum((g**2).sum() for g in grads))
    return [g * min(1.0, max_norm / (norm + 1e-6)) for g in grads]
