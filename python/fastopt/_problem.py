"""Somebody's function as one of flat float64 vectors: counts its calls, checks what it returns, fills in derivatives by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastopt import _validate
from fastopt._directions import Matrix, Vector

EPS = float(np.finfo(np.float64).eps)
FIRST_STEP, SECOND_STEP = EPS ** (1 / 3), EPS ** (1 / 4)  # where truncation and rounding of central differences balance


class Point(NamedTuple):
    """A vector with the function and its gradient there."""

    x: Vector
    value: float
    grad: Vector

    def finite(self) -> bool:
        """Whether value and gradient are numbers."""
        return math.isfinite(self.value) and bool(np.isfinite(self.grad).all())


def start_vector(x0: Any) -> tuple[Vector, tuple[int, ...]]:
    """A flat float64 copy of the start, and its shape.

    Raises
    ------
    TypeError, ValueError
        When it is empty, not finite, or does not hold real numbers.
    """
    array = _validate.numeric(x0, "x0")
    if array.size == 0:
        raise ValueError(f"x0 must not be empty; got shape {array.shape}")
    flat = np.array(array, dtype=np.float64).reshape(-1)
    if not np.isfinite(flat).all():
        raise ValueError(f"x0 must be finite; got {flat[~np.isfinite(flat)][0]} at position {int(np.argmin(np.isfinite(flat)))}")
    return flat, array.shape


def _check_callable(name: str, value: Any, purpose: str) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function of x that returns {purpose}; got {type(value).__name__}")


class Problem:
    """Value, gradient and Hessian of a user's function at flat vectors, with the counts of calls and the best point so far."""

    def __init__(self, fun: Any, grad: Any, hess: Any, shape: tuple[int, ...]) -> None:
        _check_callable("fun", fun, "a number")
        if grad is not None and grad is not True:
            _check_callable("grad", grad, "the gradient (or True, when fun returns value and gradient)")
        if hess is not None:
            _check_callable("hess", hess, "the matrix of second derivatives")
        self._fun, self._grad, self._hess, self.shape = fun, grad, hess, shape
        self.fun_calls = self.grad_calls = self.hess_calls = 0
        self.best: Point | None = None

    @property
    def has_grad(self) -> bool:
        """Whether the gradient is the user's own."""
        return self._grad is not None

    def shaped(self, x: Vector) -> Any:
        """A copy in the shape of x0; a float when x0 was a number."""
        return float(x[0]) if self.shape == () else np.array(x).reshape(self.shape)

    def value(self, x: Vector) -> float:
        """The function at x."""
        return self._both(x)[0] if self._grad is True else self._value(x)

    def value_and_grad(self, x: Vector) -> tuple[float, Vector]:
        """The function and its gradient at x; a gradient of NaN where the value is not finite, without computing it."""
        value, grad = self._both(x) if self._grad is True else (self._value(x), None)
        if not math.isfinite(value):
            return value, np.full(x.size, np.nan)
        if grad is None:
            grad = self.grad(x)
        if (self.best is None or value < self.best.value) and np.isfinite(grad).all():
            self.best = Point(np.array(x), value, grad)
        return value, grad

    def point(self, x: Vector) -> Point:
        """As `value_and_grad`, with a copy of x."""
        kept = np.array(x)
        return Point(kept, *self.value_and_grad(kept))

    def grad(self, x: Vector) -> Vector:
        """The gradient that was given, or central differences."""
        if self._grad is True:
            return self._both(x)[1]
        if self._grad is None:
            return self._difference_gradient(x)
        self.grad_calls += 1
        return self._as_gradient(self._call(self._grad, x), "grad(x)")

    def hessian(self, x: Vector) -> Matrix:
        """The Hessian that was given, or central differences of the gradient, or second differences of the function; symmetric."""
        n = x.size
        if self._hess is not None:
            self.hess_calls += 1
            returned = _validate.numeric(self._call(self._hess, x), "hess(x)")
            if returned.shape not in ((n, n), self.shape * 2) and not (n == 1 and returned.size == 1):
                raise ValueError(f"hess(x) must have shape {(n, n)} for {n} variables; got {returned.shape}")
            matrix = np.asarray(returned, dtype=np.float64).reshape(n, n)
        elif self._grad is not None:
            matrix = np.empty((n, n))
            for i, above, below, width in self._neighbours(x, FIRST_STEP):
                matrix[i] = (self.grad(above) - self.grad(below)) / width
        else:
            matrix = self._second_differences(x)
        return 0.5 * (matrix + matrix.T)

    def _call(self, function: Callable[[Any], Any], x: Vector) -> Any:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a value that is not finite is dealt with, not warned of
            return function(self.shaped(x))

    def _value(self, x: Vector) -> float:
        self.fun_calls += 1
        return _as_value(self._call(self._fun, x), "fun(x)")

    def _both(self, x: Vector) -> tuple[float, Vector]:
        self.fun_calls += 1
        self.grad_calls += 1
        returned = self._call(self._fun, x)
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise TypeError(f"fun(x) must return (value, gradient) when grad is True; got {type(returned).__name__}")
        return _as_value(returned[0], "the value of fun(x)"), self._as_gradient(returned[1], "the gradient of fun(x)")

    def _as_gradient(self, returned: Any, name: str) -> Vector:
        array = _validate.numeric(returned, name)
        if np.squeeze(array).shape != tuple(side for side in self.shape if side != 1):
            raise ValueError(f"{name} must have the shape {self.shape} of x; got {array.shape}")
        return np.array(array, dtype=np.float64).reshape(-1)

    def _neighbours(self, x: Vector, step: float) -> list[tuple[int, Vector, Vector, float]]:
        out = []
        for i in range(x.size):
            above, below = np.array(x), np.array(x)
            h = step * max(1.0, abs(float(x[i])))
            above[i] += h
            below[i] -= h
            out.append((i, above, below, float(above[i] - below[i])))
        return out

    def _difference_gradient(self, x: Vector) -> Vector:
        pairs = [(self._value(above) - self._value(below)) / width for _, above, below, width in self._neighbours(x, FIRST_STEP)]
        return np.array(pairs, dtype=np.float64)

    def _second_differences(self, x: Vector) -> Matrix:
        n, centre = x.size, self._value(x)
        h = SECOND_STEP * np.maximum(1.0, np.abs(x))
        matrix = np.empty((n, n))
        for i in range(n):
            for j in range(i, n):
                a, b = np.zeros(n), np.zeros(n)
                a[i], b[j] = h[i], h[j]
                if i == j:
                    matrix[i, i] = (self._value(x + a) - 2.0 * centre + self._value(x - a)) / h[i] ** 2
                else:
                    mixed = self._value(x + a + b) - self._value(x + a - b) - self._value(x - a + b) + self._value(x - a - b)
                    matrix[i, j] = matrix[j, i] = mixed / (4.0 * h[i] * h[j])
        return matrix


def _as_value(returned: Any, name: str) -> float:
    if type(returned) is float:
        return returned
    array = _validate.numeric(returned, name)
    if array.size != 1:
        raise ValueError(f"{name} must be one number; got shape {array.shape}")
    return float(array.reshape(()))
