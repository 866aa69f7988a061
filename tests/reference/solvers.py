"""Damped Gauss-Newton as a plain loop over the whole Jacobian, float64."""

import numpy as np


def levenberg_marquardt(residuals, w, decay, damping, steps):
    """`residuals(w)` gives r and J; minimizes r'r + sum decay w^2. Returns w, r'r and the damping after every step."""
    losses, dampings = [], []
    for _ in range(steps):
        r, j = residuals(w)
        value = r @ r + decay @ w**2
        grad = j.T @ r + decay * w
        matrix = j.T @ j + np.diag(decay)
        scale = np.maximum(np.diag(matrix), np.diag(matrix).mean())
        growth = 2.0
        while True:
            step = np.linalg.solve(matrix + damping * np.diag(scale), -grad)
            promised = damping * step @ (scale * step) - grad @ step
            new = residuals(w + step)[0]
            rho = (value - new @ new - decay @ (w + step) ** 2) / promised
            if rho > 1e-4:
                break
            damping *= growth
            growth *= 2.0
        damping *= max(0.2, 1 - (2 * rho - 1) ** 3)
        w = w + step
        losses.append(new @ new)
        dampings.append(damping)
    return w, losses, dampings
