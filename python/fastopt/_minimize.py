"""Minimize a function of one or many variables with any optimizer or solver of the library."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _specs, _steps, optimizers, schedules, solvers
from fastopt._directions import Vector
from fastopt._method import Method
from fastopt._problem import Point, Problem, start_vector

__all__ = ["MinimizeResult", "minimize"]

CONVERGED, MAX_STEPS, SEARCH, NOT_FINITE, CALLBACK = 0, 1, 2, 3, 4  # status; 0 to 3 as in SciPy's BFGS
SAME = {"success": "converged", "nit": "n_steps"}
LARGEST_VALUE = 1e290  # beyond it a function has fallen almost as far as numbers go


@dataclass(eq=False)
class MinimizeResult:
    """What `minimize` found; entries can also be read as `result["x"]`, and `dict(result)` works as with SciPy's OptimizeResult.

    Attributes
    ----------
    x : float or ndarray
        In the shape of `x0`: the last point, or the best one when the run ended in a failure (`status` 2 or 3).
    fun, jac, grad_norm : float, ndarray, float
        Value, gradient and its Euclidean norm at x.
    n_steps, nit : int
        Steps done.
    converged, success : bool
        Whether the gradient or the relative change got below its tolerance.
    status, message : int, str
        0 converged, 1 `max_steps` done, 2 no further step found, 3 not finite, 4 stopped by the callback; and that in words.
    nfev, njev, nhev : int
        Calls of `fun`, `grad` and `hess`, those for differences included.
    method : Optimizer or Solver
    trajectory : ndarray or None
        `(n_steps + 1, *shape of x0)`: the start and the point after each step; None without `record`.
    values, grad_norms, seconds : ndarray or None
        Value, norm of the gradient and seconds since the start at each of these points.

    Examples
    --------
    >>> import fastopt as fo
    >>> result = fo.minimize(lambda x: (x - 2) ** 2, 0.0)
    >>> result["success"], round(result.x, 6), "fun" in dict(result)
    (True, 2.0, True)
    """

    x: Any
    fun: float
    jac: Any
    grad_norm: float
    n_steps: int
    converged: bool
    status: int
    message: str
    nfev: int
    njev: int
    nhev: int
    method: Method
    trajectory: NDArray[np.float64] | None = field(default=None, repr=False)
    values: NDArray[np.float64] | None = field(default=None, repr=False)
    grad_norms: NDArray[np.float64] | None = field(default=None, repr=False)
    seconds: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def nit(self) -> int:
        """As `n_steps`."""
        return self.n_steps

    @property
    def success(self) -> bool:
        """As `converged`."""
        return self.converged

    def keys(self) -> list[str]:
        """Names of all entries."""
        return [*(each.name for each in fields(self)), *SAME]

    def get(self, key: str, default: Any = None) -> Any:
        """An entry, or the default when there is none of that name."""
        return self[key] if key in self else default  # noqa: SIM401 - this is get

    def items(self) -> list[tuple[str, Any]]:
        """Names and entries."""
        return [(key, self[key]) for key in self]

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(f"{key!r}; the entries are: {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __str__(self) -> str:
        lines = [("message", self.message), ("x", self.x), ("fun", self.fun), ("grad_norm", self.grad_norm), ("n_steps", self.n_steps)]
        calls = f"{self.nfev} of fun, {self.njev} of grad, {self.nhev} of hess"
        return "\n".join(f"{name:>10}: {value}" for name, value in [*lines, ("calls", calls), ("method", self.method)])


class _Record:
    """Points of a run, when asked for."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.start = wanted, time.perf_counter()
        self.points: list[Vector] = []
        self.values: list[float] = []
        self.norms: list[float] = []
        self.seconds: list[float] = []

    def add(self, point: Point, norm: float) -> None:
        if self.wanted:
            self.points.append(np.array(point.x))
            self.values.append(point.value)
            self.norms.append(norm)
            self.seconds.append(time.perf_counter() - self.start)

    def arrays(self, shape: tuple[int, ...]) -> dict[str, Any]:
        if not self.wanted:
            return {}
        columns = {"values": self.values, "grad_norms": self.norms, "seconds": self.seconds}
        trajectory = np.array(self.points).reshape(len(self.points), *shape)
        return {"trajectory": trajectory, **{name: np.array(column) for name, column in columns.items()}}


def minimize(
    fun: Callable[[Any], Any],
    x0: ArrayLike,
    grad: Callable[[Any], Any] | bool | None = None,
    hess: Callable[[Any], Any] | None = None,
    *,
    method: str | Method = "lbfgs",
    max_steps: int = 1000,
    tol: float = 1e-8,
    relative_tol: float = 1e-12,
    record: bool = False,
    callback: Callable[[Any], Any] | None = None,
) -> MinimizeResult:
    """Minimize `fun` from `x0`, in float64.

    Parameters
    ----------
    fun : callable
        x, a float64 copy in the shape of `x0` (a float for a number), to a number.
    x0 : float or array_like
        Start, of any shape.
    grad : callable or True, optional
        x to the gradient in the shape of x; True when `fun` returns `(value, gradient)`; else central differences are used.
    hess : callable, optional
        x to the `(n, n)` Hessian; for `Newton` only, which else takes differences of the gradient.
    method : str, Optimizer or Solver
        "lbfgs", `fo.solvers.Newton()`, `fo.optimizers.Adam(learning_rate=0.1)`, ...; an optimizer makes the same native update as in
        training, with its schedule.
    max_steps : int
        At least 1.
    tol : float
        Stop when the norm of the gradient is at most this.
    relative_tol : float
        Stop when a step changes both value and x, but each by at most this part of itself; where a schedule has brought the learning rate
        down to a part of its largest one, by at most as much of this, since steps are small then wherever x is.
    record : bool
        Keep `trajectory`, `values`, `grad_norms` and `seconds`.
    callback : callable, optional
        Called with a copy of x after each step; ends the run when it raises StopIteration.

    Returns
    -------
    MinimizeResult
        `converged` and `message` say how it ended. A value that is not finite, or a step that cannot be found, ends the run with the best
        point seen.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument, or a function that returns something of another shape.

    Examples
    --------
    >>> import fastopt as fo
    >>> f = fo.functions.himmelblau
    >>> result = fo.minimize(f, f.start, grad=f.grad, method=fo.optimizers.SGD(learning_rate=0.01, momentum=0.5))
    >>> result.converged, result.x.round(6).tolist()
    (True, [3.0, 2.0])
    >>> round(fo.minimize(lambda x: (x - 1) ** 2 + 3, 10.0, method="newton").fun, 6)
    3.0
    """
    rule = _resolve(method)
    start, shape = start_vector(x0)
    problem = Problem(fun, grad, hess, shape)
    max_steps = _specs.check_integer("max_steps", max_steps, low=1)
    tol, relative_tol = (
        _specs.check_number(name, value, low=0.0, high=math.inf, low_open=False, high_open=True)
        for name, value in (("tol", tol), ("relative_tol", relative_tol))
    )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of x; got {type(callback).__name__}")
    kept = _Record(bool(record))
    with np.errstate(over="ignore", invalid="ignore"):  # runs that diverge say so by their status
        point = problem.point(start)
        end = _descend(rule, problem, point, kept, callback, max_steps, tol, relative_tol)
    point = end.point
    if end.status in (SEARCH, NOT_FINITE) and problem.best is not None and not point.value <= problem.best.value:
        point = problem.best
    norm = _steps.norm_of(point.grad)
    return MinimizeResult(
        x=problem.shaped(point.x), fun=point.value, jac=problem.shaped(point.grad), grad_norm=norm, n_steps=end.n_steps,
        converged=end.status == CONVERGED, status=end.status, message=end.message, nfev=problem.fun_calls, njev=problem.grad_calls,
        nhev=problem.hess_calls, method=rule, **kept.arrays(shape),
    )  # fmt: skip


class _End(NamedTuple):
    """How a run ended, and where."""

    point: Point
    n_steps: int
    status: int
    message: str


def _descend(
    rule: Method,
    problem: Problem,
    point: Point,
    kept: _Record,
    callback: Callable[[Any], Any] | None,
    max_steps: int,
    tol: float,
    relative_tol: float,
) -> _End:
    """Take steps until a stopping rule holds."""
    if not point.finite():
        return _End(point, 0, NOT_FINITE, f"the value or gradient at x0 is not finite (value {point.value})")
    steps, n_steps, small = _steps_of(rule, problem, point), 0, False
    rate = _Rate(rule)
    while True:
        norm = _steps.norm_of(point.grad)
        kept.add(point, norm)
        if n_steps > 0 and callback is not None:
            try:
                callback(problem.shaped(point.x))
            except StopIteration:
                return _End(point, n_steps, CALLBACK, "stopped by the callback")
        now = f"the norm of the gradient is {norm:.3g}, tol = {tol:g}"
        if norm <= tol:
            return _End(point, n_steps, CONVERGED, f"the gradient is small: {now}")
        if small:
            return _End(point, n_steps, CONVERGED, f"value and x change by at most relative_tol = {relative_tol:g} in a step; {now}")
        if n_steps == max_steps:
            return _End(point, n_steps, MAX_STEPS, f"max_steps = {max_steps} steps done; {now}")
        try:
            new = next(steps)
        except _steps.StepFailedError as failure:
            hint = ""
            if failure.flat and abs(point.value) > LARGEST_VALUE:
                hint = "; values here are near the largest numbers: perhaps the function has no minimum"
            elif failure.flat and problem.has_grad:
                hint = "; away from a minimum this means that grad is wrong"
            return _End(point, n_steps, SEARCH, f"no further step after {n_steps}: {failure}{hint}; {now}")
        if not new.finite():
            return _End(point, n_steps, NOT_FINITE, f"the value or gradient became not finite in step {n_steps + 1}; x is the best before")
        small = _small_change(point, new, relative_tol) and _small_change(point, new, relative_tol * rate.part(n_steps))
        point, n_steps = new, n_steps + 1


class _Rate:
    """How far the schedule of a method has brought its learning rate down; asked only when that matters."""

    def __init__(self, rule: Method) -> None:
        rate = getattr(rule, "learning_rate", None)
        self._schedule = rate if callable(rate) else None
        self._largest, self._asked = 0.0, 0

    def part(self, step: int) -> float:
        """Of the largest rate up to this step."""
        if self._schedule is None:
            return 1.0
        rates = schedules.values(self._schedule, self._asked, step + 1 - self._asked)
        self._largest, self._asked = max(self._largest, float(rates.max())), step + 1
        return float(rates[-1]) / self._largest if self._largest > 0.0 else 1.0


def _small_change(old: Point, new: Point, relative_tol: float) -> bool:
    moved = float(np.linalg.norm(new.x - old.x))
    value = abs(new.value - old.value) <= relative_tol * max(abs(old.value), abs(new.value))
    return value and 0.0 < moved <= relative_tol * float(np.linalg.norm(new.x))


def _resolve(method: str | Method) -> Method:
    if isinstance(method, str):
        name = method.lower().replace("-", "_")
        known: dict[str, type[Method]] = {**solvers.table(), **optimizers.table()}
        if name not in known:
            raise ValueError(_specs.unknown("method", method, sorted(known)))
        return known[name]()
    if isinstance(method, type) and issubclass(method, Method):
        raise TypeError(f"method must be an instance; got the class {method.__name__}: write {method.__name__}()")
    if not isinstance(method, Method):
        raise TypeError(f"method must be a name, an Optimizer or a Solver; got {type(method).__name__}")
    return method


def _steps_of(method: Method, problem: Problem, start: Point) -> Iterator[Point]:
    if isinstance(method, optimizers.Optimizer):
        return _steps.optimizer_steps(method, problem, start)
    if isinstance(method, solvers.GradientDescent):
        return _steps.gradient_descent_steps(method, problem, start)
    if isinstance(method, solvers.Newton):
        return _steps.newton_steps(method, problem, problem.hessian, start)
    if isinstance(method, solvers.LBFGS):
        return _steps.lbfgs_steps(method, problem.value_and_grad, start)
    raise TypeError(f"{type(method).__name__} trains networks; minimize takes optimizers, GradientDescent, Newton and LBFGS")
