"""Line searches on plain float64 vectors: how far to go from x along a direction of descent d.

They know neither the method that chose the direction nor the function behind the numbers; `fastopt.minimize` and the full-batch training
of networks use the same ones. With phi(t) = f(x + t d):

* sufficient decrease (Armijo): `phi(t) <= phi(0) + c1 t phi'(0)`;
* strong Wolfe: that, and `|phi'(t)| <= c2 |phi'(0)|`.

A rise of the size of rounding, `rounding |f|`, counts as none: near a minimum the decrease is smaller than what f can show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUNDING", "Step", "backtracking", "strong_wolfe"]

Vector: TypeAlias = NDArray[np.float64]
FunAndGrad: TypeAlias = Callable[[Vector], tuple[float, Vector]]

ROUNDING = 4.0 * float(np.finfo(np.float64).eps)  # relative error of a value that is computed in double
CLOSEST, FARTHEST = 1.1, 4.0  # an extrapolated trial lies between these multiples of the last one (Moré and Thuente 1994)


class Step(NamedTuple):
    """Where a search ended.

    Attributes
    ----------
    accepted : bool
        Whether the conditions hold there; when False the other fields describe the best point of sufficient decrease that was seen, or
        the start (`t = 0`).
    t : float
        Multiple of the direction.
    x : ndarray
        `x + t d`.
    value : float
        f there.
    grad : ndarray or None
        Gradient there, if the search computed it.
    evaluations : int
        Calls of the function.
    """

    accepted: bool
    t: float
    x: Vector
    value: float
    grad: Any
    evaluations: int


def backtracking(
    fun: Callable[[Vector], float],
    x: Vector,
    value: float,
    grad: Vector,
    direction: Vector,
    *,
    step: float = 1.0,
    c1: float = 1e-4,
    shrink: float = 0.5,
    max_evaluations: int = 40,
    rounding: float = ROUNDING,
) -> Step:
    """Shorten the step until the decrease is sufficient: `f(x + t d) <= f(x) + c1 t g'd`.

    Parameters
    ----------
    fun : callable
        Vector to float; not finite means too far.
    x, value, grad : ndarray, float, ndarray
        The start, f and its gradient there.
    direction : ndarray
        d with `g'd < 0`.
    step : float
        First t.
    c1 : float
        In (0, 1).
    shrink : float
        Factor on t, in (0, 1).
    max_evaluations : int
        Calls of `fun` before it gives up.
    rounding : float
        Relative error of a value of `fun`; 0 never lets the value rise.

    Returns
    -------
    Step
        Without a gradient; `accepted` is False when no t was short enough, or d is no direction of descent.

    Raises
    ------
    ValueError
        For a value that is not finite, and for a step, c1, shrink or max_evaluations outside of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import line_search
    >>> x = np.array([3.0])
    >>> line_search.backtracking(lambda x: float(x @ x), x, 9.0, 2 * x, -2 * x, step=4.0).t
    0.5

    References
    ----------
    Armijo 1966; Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 3.1.
    """
    _check(value, step, max_evaluations, c1=(0.0, c1, 1.0), shrink=(0.0, shrink, 1.0))
    slope = float(grad @ direction)
    t, tries = float(step), 0
    if slope < 0.0:
        while tries < max_evaluations:
            trial = x + t * direction
            new = fun(trial)
            tries += 1
            if math.isfinite(new) and new <= value + c1 * t * slope + rounding * abs(value):
                return Step(True, t, trial, new, None, tries)
            t *= shrink
    return Step(False, 0.0, x, value, grad, tries)


def _check(value: float, step: float, max_evaluations: int, **between: tuple[float, float, float]) -> None:
    if not math.isfinite(value):
        raise ValueError(f"value must be finite, f at the start of the search; got {value}")
    if not 0.0 < step < math.inf:
        raise ValueError(f"step must be greater than 0 and finite; got {step}")
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations must be at least 1; got {max_evaluations}")
    for name, (low, given, high) in between.items():
        if not low < given < high:
            raise ValueError(f"{name} must lie in ({low:g}, {high:g}); got {given}")


class _Trial(NamedTuple):
    t: float
    x: Vector
    value: float
    grad: Vector
    slope: float


def strong_wolfe(
    fun_and_grad: FunAndGrad,
    x: Vector,
    value: float,
    grad: Vector,
    direction: Vector,
    *,
    step: float = 1.0,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_evaluations: int = 25,
    rounding: float = ROUNDING,
) -> Step:
    """Find t with `f(x + t d) <= f(x) + c1 t g'd` and `|g(x + t d)'d| <= c2 |g'd|`.

    Trials are lengthened by cubic extrapolation until an interval is known to hold such a t, which cubic interpolation then narrows; an
    interval that does not halve in two trials is bisected.

    Parameters
    ----------
    fun_and_grad : callable
        Vector to (float, vector); a value or gradient that is not finite means too far.
    x, value, grad : ndarray, float, ndarray
        The start, f and its gradient there.
    direction : ndarray
        d with `g'd < 0`.
    step : float
        First t.
    c1, c2 : float
        `0 < c1 < c2 < 1`.
    max_evaluations : int
        Calls of the function before it gives up.
    rounding : float
        Relative error of a value of the function.

    Returns
    -------
    Step
        `accepted` is False when the conditions were met nowhere, or d is no direction of descent.

    Raises
    ------
    ValueError
        For a value that is not finite, and for a step, c1, c2 or max_evaluations outside of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import line_search
    >>> x = np.array([3.0])
    >>> found = line_search.strong_wolfe(lambda x: (float(x @ x), 2 * x), x, 9.0, 2 * x, -2 * x, step=4.0, c2=0.1)
    >>> found.accepted, found.t, found.evaluations
    (True, 0.5, 2)

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 3.5; Moré and Thuente 1994 for the safeguards.
    """
    _check(value, step, max_evaluations, c1=(0.0, c1, c2), c2=(c1, c2, 1.0))
    slope = float(grad @ direction)
    start = low = _Trial(0.0, x, value, grad, slope)
    if not slope < 0.0:
        return Step(False, 0.0, x, value, grad, 0)
    slack = rounding * abs(value)
    high: _Trial | None = None
    t, width, wider = float(step), math.inf, math.inf
    for tries in range(1, max_evaluations + 1):
        at = x + t * direction
        new, new_grad = fun_and_grad(at)
        trial = _Trial(t, at, new, new_grad, float(new_grad @ direction))
        previous = low
        finite = math.isfinite(new) and math.isfinite(trial.slope)
        if not finite or new > value + c1 * t * slope + slack or (low is not start and new > low.value + slack):
            high = trial
        elif abs(trial.slope) <= c2 * abs(slope):
            return Step(True, t, at, new, new_grad, tries)
        else:
            if trial.slope * ((math.inf if high is None else high.t) - low.t) >= 0.0:
                high = low
            low = trial
        if high is None:
            steeper = low.slope < previous.slope and previous.value - low.value > slack  # the cubic has its minimum behind
            wanted = math.nan if steeper else _cubic_minimum(previous, low)
            t = _clamp(wanted, CLOSEST * low.t, FARTHEST * low.t, FARTHEST * low.t)
            continue
        t = _inside(low, high, halved=abs(high.t - low.t) <= 0.5 * wider)
        wider, width = width, abs(high.t - low.t)
        if width <= 1e-16 * max(abs(low.t), abs(high.t)):
            break
    return Step(False, low.t, low.x, low.value, low.grad, tries)


def _inside(low: _Trial, high: _Trial, *, halved: bool) -> float:
    """A trial between the ends of an interval, not too close to either."""
    gap = high.t - low.t
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        return low.t + 0.1 * gap
    if not halved:
        return low.t + 0.5 * gap
    ends = sorted((low.t + 0.05 * gap, low.t + 0.95 * gap))
    return _clamp(_cubic_minimum(low, high), ends[0], ends[1], low.t + 0.5 * gap)


def _cubic_minimum(a: _Trial, b: _Trial) -> float:
    """Minimum of the cubic through two values and two slopes (Nocedal and Wright, equation 3.59), or NaN."""
    if a.t == b.t:
        return math.nan
    d1 = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not (square >= 0.0 and math.isfinite(square)):
        return math.nan
    d2 = math.copysign(math.sqrt(square), b.t - a.t)
    divisor = b.slope - a.slope + 2.0 * d2
    return b.t - (b.t - a.t) * (b.slope + d2 - d1) / divisor if divisor != 0.0 else math.nan


def _clamp(t: float, low: float, high: float, otherwise: float) -> float:
    return min(max(t, low), high) if math.isfinite(t) else otherwise
