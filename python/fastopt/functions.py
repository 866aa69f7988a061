"""Classic functions to try a method on: frozen objects with gradient, Hessian, minima, a start, and bounds for a picture.

Each is called with a vector and returns a float. Where a formula has a sum over i, any number of variables is taken; `start`, `minimum` and
`bounds` are those of two.
"""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _specs
from fastopt._specs import Spec, spec

__all__ = [
    "Beale", "Function", "Himmelblau", "Minimum", "Plateau", "Quadratic", "Rastrigin", "Rosenbrock", "Saddle", "StyblinskiTang", "beale",
    "himmelblau", "plateau", "quadratic", "rastrigin", "rosenbrock", "saddle", "styblinski_tang", "table", "valley",
]  # fmt: skip

Vector: TypeAlias = NDArray[np.float64]
Bounds: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


class Minimum(NamedTuple):
    """Where a function is smallest, and its value there."""

    x: Vector
    value: float


@spec
class _Fields(Spec):
    """No fields: the only dataclass that most functions need, which keeps the import short."""


class Function(_Fields):
    """Base of the test functions.

    Attributes
    ----------
    bounds : ((float, float), (float, float))
        What a picture of two variables should show.

    Examples
    --------
    >>> import fastopt as fo
    >>> f = fo.functions.beale
    >>> f(f.minimum.x), f.grad(f.start).shape, f.hess(f.start).shape
    (0.0, (2,), (2, 2))
    """

    bounds: ClassVar[Bounds]
    _start: ClassVar[tuple[float, ...]]
    _minima: ClassVar[tuple[tuple[float, ...], ...]]
    _variables: ClassVar[int | None] = 2

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __call__(self, x: ArrayLike) -> float:
        return float(self._value(self._checked(x)))

    def grad(self, x: ArrayLike) -> Vector:
        """The gradient, `(n,)`."""
        return np.asarray(self._grad(self._checked(x)), dtype=np.float64)

    def hess(self, x: ArrayLike) -> Vector:
        """The Hessian, `(n, n)`."""
        return np.asarray(self._hess(self._checked(x)), dtype=np.float64)

    @property
    def start(self) -> Vector:
        """Where runs usually begin; a new array."""
        return np.array(self._start)

    @property
    def minimum(self) -> Minimum:
        """The first of `minima`."""
        return self.minima[0]

    @property
    def minima(self) -> tuple[Minimum, ...]:
        """Every global minimum."""
        return tuple(Minimum(np.array(x), self(x)) for x in self._minima)

    def _checked(self, x: ArrayLike) -> Vector:
        array = np.asarray(x, dtype=np.float64)
        fits = array.ndim == 1 and (array.size == self._variables if self._variables else array.size > 0)
        if not fits:
            wanted = self._variables or "any"
            raise ValueError(f"{type(self).__name__} is a function of {wanted} variables in one vector; got shape {array.shape}")
        return array

    def _value(self, x: Vector) -> Any:
        raise NotImplementedError

    def _grad(self, x: Vector) -> Any:
        raise NotImplementedError

    def _hess(self, x: Vector) -> Any:
        raise NotImplementedError


@spec
class Quadratic(Function):
    """`f(x) = x'A x / 2`, an ellipse: A has the given curvatures as eigenvalues, its axes turned by `angle`; minimum 0 at 0.

    Parameters
    ----------
    curvatures : (float, float)
        Eigenvalues of A, > 0; their ratio is the condition number, which decides how fast gradient descent is.
    angle : float
        Radians.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.functions.Quadratic(curvatures=(1.0, 4.0))([1.0, 1.0])
    2.5

    References
    ----------
    Any course; Shewchuk 1994, "An introduction to the conjugate gradient method without the agonizing pain".
    """

    curvatures: tuple[float, ...] = _specs.numbers((1.0, 5.0), low=0.0, low_open=True, length=2)
    angle: float = _specs.number(0.0)
    bounds: ClassVar[Bounds] = ((-4.5, 4.5), (-2.5, 2.5))
    _start: ClassVar[tuple[float, ...]] = (4.0, 1.5)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((0.0, 0.0),)

    def _value(self, x: Vector) -> Any:
        return 0.5 * (x @ self._hess(x) @ x)

    def _grad(self, x: Vector) -> Any:
        return self._hess(x) @ x

    def _hess(self, x: Vector) -> Any:
        c, s = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[c, -s], [s, c]])
        return turn @ np.diag(self.curvatures) @ turn.T


class Rosenbrock(Function):
    """`f(x) = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2`, a banana-shaped valley; minimum 0 at (1, ..., 1).

    References
    ----------
    Rosenbrock 1960, "An automatic method for finding the greatest or least value of a function".
    """

    bounds: ClassVar[Bounds] = ((-2.0, 2.0), (-1.0, 3.0))
    _start: ClassVar[tuple[float, ...]] = (-1.2, 1.0)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((1.0, 1.0),)
    _variables: ClassVar[int | None] = None

    def _checked(self, x: ArrayLike) -> Vector:
        array = super()._checked(x)
        if array.size < 2:
            raise ValueError(f"Rosenbrock needs at least 2 variables; got shape {array.shape}")
        return array

    def _value(self, x: Vector) -> Any:
        return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()

    def _grad(self, x: Vector) -> Any:
        out = np.zeros_like(x)
        out[:-1] = -400.0 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2.0 * (1.0 - x[:-1])
        out[1:] += 200.0 * (x[1:] - x[:-1] ** 2)
        return out

    def _hess(self, x: Vector) -> Any:
        diagonal = np.zeros_like(x)
        diagonal[:-1] = 1200.0 * x[:-1] ** 2 - 400.0 * x[1:] + 2.0
        diagonal[1:] += 200.0
        beside = np.diag(-400.0 * x[:-1], 1)
        return np.diag(diagonal) + beside + beside.T


class Himmelblau(Function):
    """`f(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2`; four minima of value 0, one of them (3, 2).

    References
    ----------
    Himmelblau 1972, Applied Nonlinear Programming.
    """

    bounds: ClassVar[Bounds] = ((-5.0, 5.0), (-5.0, 5.0))
    _start: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = (
        (3.0, 2.0),
        (-2.805118086952745, 3.131312518250573),
        (-3.779310253377747, -3.283185991286170),
        (3.584428340330492, -1.848126526964404),
    )

    def _value(self, x: Vector) -> Any:
        return (x[0] ** 2 + x[1] - 11.0) ** 2 + (x[0] + x[1] ** 2 - 7.0) ** 2

    def _grad(self, x: Vector) -> Any:
        a, b = x[0] ** 2 + x[1] - 11.0, x[0] + x[1] ** 2 - 7.0
        return [4.0 * x[0] * a + 2.0 * b, 2.0 * a + 4.0 * x[1] * b]

    def _hess(self, x: Vector) -> Any:
        mixed = 4.0 * (x[0] + x[1])
        return [[12.0 * x[0] ** 2 + 4.0 * x[1] - 42.0, mixed], [mixed, 4.0 * x[0] + 12.0 * x[1] ** 2 - 26.0]]


class Beale(Function):
    """`f(x, y) = sum_k (c_k - x (1 - y^k))^2`, k = 1, 2, 3, c = 1.5, 2.25, 2.625: flat, with sharp edges; minimum 0 at (3, 1/2).

    References
    ----------
    Beale 1958, "On an iterative method for finding a local minimum of a function of more than one variable".
    """

    bounds: ClassVar[Bounds] = ((-1.0, 4.5), (-2.0, 2.0))
    _start: ClassVar[tuple[float, ...]] = (1.0, 1.0)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((3.0, 0.5),)

    def _terms(self, x: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """Residuals, their slopes in x and y, their second derivative in y; that in x and y is the slope in y divided by x."""
        k, c = np.arange(1, 4), np.array([1.5, 2.25, 2.625])
        powers = x[1] ** k
        bend = np.array([0.0, 2.0, 6.0 * x[1]])
        return c - x[0] * (1.0 - powers), powers - 1.0, k * x[1] ** (k - 1), bend

    def _value(self, x: Vector) -> Any:
        return (self._terms(x)[0] ** 2).sum()

    def _grad(self, x: Vector) -> Any:
        r, rx, by_x, _ = self._terms(x)
        return [2.0 * r @ rx, 2.0 * x[0] * (r @ by_x)]

    def _hess(self, x: Vector) -> Any:
        r, rx, by_x, bend = self._terms(x)
        mixed = 2.0 * (x[0] * (rx @ by_x) + r @ by_x)
        return [[2.0 * rx @ rx, mixed], [mixed, 2.0 * (x[0] ** 2 * (by_x @ by_x) + x[0] * (r @ bend))]]


class StyblinskiTang(Function):
    """`f(x) = sum_i (x_i^4 - 16 x_i^2 + 5 x_i) / 2`; 2^n minima, the global one -39.166166 n at (-2.903534, ...).

    References
    ----------
    Styblinski and Tang 1990, "Experiments in nonconvex optimization".
    """

    bounds: ClassVar[Bounds] = ((-5.0, 5.0), (-5.0, 5.0))
    _start: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((-2.903534027771177, -2.903534027771177),)
    _variables: ClassVar[int | None] = None

    def _value(self, x: Vector) -> Any:
        return 0.5 * (x**4 - 16.0 * x**2 + 5.0 * x).sum()

    def _grad(self, x: Vector) -> Any:
        return 2.0 * x**3 - 16.0 * x + 2.5

    def _hess(self, x: Vector) -> Any:
        return np.diag(6.0 * x**2 - 16.0)


class Rastrigin(Function):
    """`f(x) = sum_i 10 + x_i^2 - 10 cos(2 pi x_i)`: a minimum near every point of whole numbers, the global one 0 at 0.

    References
    ----------
    Rastrigin 1974, Systems of Extremal Control; Mühlenbein, Schomisch and Born 1991 for n variables.
    """

    bounds: ClassVar[Bounds] = ((-5.12, 5.12), (-5.12, 5.12))
    _start: ClassVar[tuple[float, ...]] = (0.2, -0.15)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((0.0, 0.0),)
    _variables: ClassVar[int | None] = None

    def _value(self, x: Vector) -> Any:
        return (x**2 + 20.0 * np.sin(math.pi * x) ** 2).sum()  # 1 - cos 2t = 2 sin^2 t, without cancellation at 0

    def _grad(self, x: Vector) -> Any:
        return 2.0 * x + 20.0 * math.pi * np.sin(2.0 * math.pi * x)

    def _hess(self, x: Vector) -> Any:
        return np.diag(2.0 + 40.0 * math.pi**2 * np.cos(2.0 * math.pi * x))


class Saddle(Function):
    """`f(x, y) = x^2 / 2 + y^4 / 4 - y^2 / 2`: a saddle at 0, which attracts along the line y = 0; minima -1/4 at (0, 1) and (0, -1).

    References
    ----------
    Nesterov 2004, Introductory Lectures on Convex Optimization, example 1.2.2.
    """

    bounds: ClassVar[Bounds] = ((-1.8, 1.8), (-1.5, 1.5))
    _start: ClassVar[tuple[float, ...]] = (1.5, 1e-3)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((0.0, 1.0), (0.0, -1.0))

    def _value(self, x: Vector) -> Any:
        return 0.5 * x[0] ** 2 + 0.25 * x[1] ** 4 - 0.5 * x[1] ** 2

    def _grad(self, x: Vector) -> Any:
        return [x[0], x[1] ** 3 - x[1]]

    def _hess(self, x: Vector) -> Any:
        return [[1.0, 0.0], [0.0, 3.0 * x[1] ** 2 - 1.0]]


class Plateau(Function):
    """`f(x) = 1 - exp(-|x|^2 / 2)`: a hole in a plain whose gradient fades with the distance; minimum 0 at 0.

    References
    ----------
    An upside-down Gaussian; the plateaus of Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.2.
    """

    bounds: ClassVar[Bounds] = ((-4.0, 4.0), (-4.0, 4.0))
    _start: ClassVar[tuple[float, ...]] = (2.5, 1.5)
    _minima: ClassVar[tuple[tuple[float, ...], ...]] = ((0.0, 0.0),)
    _variables: ClassVar[int | None] = None

    def _value(self, x: Vector) -> Any:
        return -math.expm1(-0.5 * float(x @ x))

    def _grad(self, x: Vector) -> Any:
        return x * math.exp(-0.5 * float(x @ x))

    def _hess(self, x: Vector) -> Any:
        return math.exp(-0.5 * float(x @ x)) * (np.eye(x.size) - np.outer(x, x))


quadratic = Quadratic()
valley = Quadratic(curvatures=(1.0, 100.0))
rosenbrock = Rosenbrock()
himmelblau = Himmelblau()
beale = Beale()
styblinski_tang = StyblinskiTang()
rastrigin = Rastrigin()
saddle = Saddle()
plateau = Plateau()


def table() -> dict[str, Function]:
    """Every function by its name; "valley" is a quadratic of condition number 100.

    Examples
    --------
    >>> import fastopt as fo
    >>> sorted(fo.functions.table())[:3]
    ['beale', 'himmelblau', 'plateau']
    """
    return {
        "quadratic": quadratic, "rosenbrock": rosenbrock, "himmelblau": himmelblau, "beale": beale, "styblinski_tang": styblinski_tang,
        "rastrigin": rastrigin, "saddle": saddle, "plateau": plateau, "valley": valley,
    }  # fmt: skip
