"""SciPy: Levenberg-Marquardt of MINPACK on the residuals of a network, with this library's own Jacobian."""

from typing import Any

import numpy as np
from scipy.optimize import least_squares

LABEL = "SciPy"


def set_threads(threads: int) -> None:
    """MINPACK runs on one thread."""


def put(net: Any, values: np.ndarray) -> None:
    at = 0
    for view in net.parameters.values():
        view[...] = values[at : at + view.size].reshape(view.shape)
        at += view.size


def levenberg_marquardt(net: Any, x: np.ndarray, y: np.ndarray, tolerance: float) -> float:
    """Train `net` on the mean squared error; returns the final loss."""
    root = 1 / np.sqrt(len(x))

    def residuals(w: np.ndarray) -> np.ndarray:
        put(net, w)
        return root * (net(x) - y).ravel()

    def jacobian(w: np.ndarray) -> np.ndarray:
        put(net, w)
        return root * net.jacobian(x)[:, 0]

    start = np.concatenate([view.ravel() for view in net.parameters.values()])
    found = least_squares(residuals, start, jac=jacobian, method="lm", ftol=tolerance, xtol=1e-15, gtol=1e-15)
    put(net, found.x)
    return float(2 * found.cost)
