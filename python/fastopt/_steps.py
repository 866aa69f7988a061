"""The full-batch methods as generators of accepted points: each takes a start and yields the next points until it can go no further.

They see functions of flat float64 vectors only, so the same steps minimize somebody's function and train a network. Stopping rules,
records and callbacks belong to whoever asks for the next point. A `StepFailedError` says why there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from fastopt import line_search, schedules
from fastopt._directions import CurvaturePairs, Matrix, Vector, lbfgs_direction, newton_direction
from fastopt._problem import Point
from fastopt.line_search import ROUNDING, FunAndGrad, Step
from fastopt.optimizers import Optimizer
from fastopt.solvers import LBFGS, GradientDescent, Newton

IDLE_STEPS = 10  # of Newton with a line search, in which nothing falls: where a Hessian is ill-conditioned, rounding moves x for ever
LONGEST_STEP = 1e6  # of Newton's direction, in sizes of x or 1: a search halves it so often that it comes back to 1


class StepFailedError(Exception):
    """A method cannot find a next point; the text says why.

    `flat` says that the function does not fall along its gradient, by what its rounding can show: a minimum, or a wrong gradient.
    """

    flat = False


class Function(Protocol):
    """What the steps call; `fastopt._problem.Problem` is one."""

    def value(self, x: Vector) -> float: ...

    def grad(self, x: Vector) -> Vector: ...

    def value_and_grad(self, x: Vector) -> tuple[float, Vector]: ...


def optimizer_steps(rule: Optimizer, function: Function, start: Point) -> Iterator[Point]:
    """The native rule of `Optimizer.step`; points are where the rule evaluates (the average of a schedule-free rule)."""
    x = np.array(start.x)
    state = rule.init(x)
    grad = start.grad
    while True:
        rule.step(x, grad, state)
        value, grad = function.value_and_grad(x)
        averaged = np.asarray(rule.evaluation_point(x, state)[0], dtype=np.float64)
        if np.array_equal(averaged, x, equal_nan=True):
            yield Point(averaged, value, grad)
        else:
            yield Point(averaged, *function.value_and_grad(averaged))


def gradient_descent_steps(method: GradientDescent, function: Function, start: Point) -> Iterator[Point]:
    """Steepest descent with a fixed step or a line search."""
    point, step, t = start, None, 0
    while True:
        direction = -point.grad
        rate = float(schedules.values(method.learning_rate, t, 1)[0])
        if method.line_search == "fixed":
            point = _at(function, point.x + rate * direction)
        else:
            growth = 2.0 if method.line_search == "backtracking" else 1.0
            found = _search(method, function, point, direction, rate if step is None else growth * step)
            point, step = _point(function, found), found.t
        t += 1
        yield point


def newton_steps(
    method: Newton,
    function: Function,
    hessian: Callable[[Vector], Matrix],
    start: Point,
    *,
    first: int = 0,
    settle: Callable[[Vector], Vector] | None = None,
) -> Iterator[Point]:
    """Newton's method, damped where the Hessian is not positive definite; `first` is the number of the first step for a schedule.

    `settle` gives the point where the function really was evaluated, when it rounds its argument.
    """
    point, t = start, first
    best_value, best_norm, idle = math.inf, math.inf, 0
    while True:
        norm = float(np.abs(point.grad).max())
        idle = 0 if point.value < best_value or norm < best_norm else idle + 1
        best_value, best_norm = min(best_value, point.value), min(best_norm, norm)
        if idle == IDLE_STEPS and method.line_search != "fixed":
            raise StepFailedError(f"neither the value nor the gradient got smaller in the last {idle} steps: rounding is all that is left")
        matrix = hessian(point.x)
        try:
            direction, _ = newton_direction(matrix, point.grad, method.damping)
        except ValueError as error:
            raise StepFailedError(f"{error} at step {t}") from None
        direction = _bounded(direction, point.x)
        rate = float(schedules.values(method.learning_rate, t, 1)[0])
        if method.line_search == "fixed":
            point = _at(function, point.x + rate * direction)
        else:
            point = _point(function, _search(method, function, point, direction, rate))
        if settle is not None:
            point = point._replace(x=settle(point.x))
        t += 1
        yield point


def _bounded(direction: Vector, x: Vector) -> Vector:
    """A direction no search would come back from, where there is next to no curvature, at the length of LONGEST_STEP."""
    size, most = float(np.abs(direction).max()), LONGEST_STEP * max(1.0, float(np.abs(x).max()))
    return direction if size <= most else direction / size * most


def lbfgs_steps(
    method: LBFGS,
    fun_and_grad: FunAndGrad,
    start: Point,
    *,
    rounding: float = ROUNDING,
    pairs: CurvaturePairs | None = None,
    settle: Callable[[Vector], Vector] | None = None,
) -> Iterator[Point]:
    """L-BFGS with strong-Wolfe steps; `rounding` is the relative error of a value (that of float32 for a float32 network).

    A failed search starts again from steepest descent; it may do so once more only after as many steps as the memory is long.
    `pairs` is a memory to go on with; `settle` gives the point where the function really was evaluated, when it rounds its argument.
    """
    if pairs is None:
        pairs = CurvaturePairs(method.history, start.x.size, method.min_curvature)
    point, since_restart = start, method.history
    while True:
        found = None
        if len(pairs):
            direction = lbfgs_direction(point.grad, pairs)
            found = _wolfe(method, fun_and_grad, point, direction, 1.0, rounding)
        if found is None or not found.accepted:
            if found is not None and since_restart < method.history:
                again = f"the line search failed again {since_restart} steps after a restart from steepest descent"
                raise _failed(again, found, point, rounding)
            since_restart = since_restart if found is None else 0
            pairs.clear()
            found = _wolfe(method, fun_and_grad, point, -point.grad, _first_length(point.grad, fresh=found is None), rounding)
            if not found.accepted:
                raise _failed("the line search failed along steepest descent", found, point, rounding)
        new = Point(found.x if settle is None else settle(found.x), found.value, found.grad)
        pairs.add(new.x - point.x, new.grad - point.grad)
        point = new
        since_restart += 1
        yield point


def norm_of(grad: Vector) -> float:
    """The Euclidean norm, also where its square is no number of float64."""
    largest = float(np.abs(grad).max(initial=0.0))
    unit = largest if 0.0 < largest < 1e-140 or 1e140 < largest < math.inf else 1.0
    return unit * float(np.linalg.norm(grad / unit))


def _first_length(grad: Vector, *, fresh: bool) -> float:
    """First t along steepest descent: x moves by 1 at the start of a run (as L-BFGS-B does), by at most the gradient after a failure."""
    norm = norm_of(grad)
    length = 1.0 / norm if norm > 0.0 else 1.0
    return length if fresh and math.isfinite(length) else min(1.0, length)


def _wolfe(method: LBFGS, fun_and_grad: FunAndGrad, point: Point, direction: Vector, step: float, rounding: float) -> Step:
    return line_search.strong_wolfe(
        fun_and_grad, point.x, point.value, point.grad, direction,
        step=step, c1=method.c1, c2=method.c2, max_evaluations=method.max_evaluations, rounding=rounding,
    )  # fmt: skip


def _search(method: GradientDescent | Newton, function: Function, point: Point, direction: Vector, step: float) -> Step:
    if step <= 0.0:
        raise StepFailedError("the learning rate is 0, so the line search has no step to start from")
    if method.line_search == "backtracking":
        unseen = _unseen_step(function, point, direction, step)
        found = unseen or line_search.backtracking(
            function.value, point.x, point.value, point.grad, direction,
            step=step, c1=method.c1, shrink=method.shrink, max_evaluations=method.max_evaluations, rounding=0.0,
        )  # fmt: skip
    else:
        found = line_search.strong_wolfe(
            function.value_and_grad, point.x, point.value, point.grad, direction,
            step=step, c1=method.c1, c2=method.c2, max_evaluations=method.max_evaluations,
        )  # fmt: skip
    if not found.accepted:
        raise _failed("the line search failed", found, point)
    if np.array_equal(found.x, point.x):  # a step below the rounding of x
        raise _failed("the line search ended where it began", found, point)
    return found


def _unseen_step(function: Function, point: Point, direction: Vector, step: float) -> Step | None:
    """The whole step, where its decrease is too small for the value to show, provided that the gradient shrinks.

    Backtracking alone would let the value creep up by its rounding in every step, or refuse the last steps of Newton's method.
    """
    slack = ROUNDING * abs(point.value)
    if step * abs(float(point.grad @ direction)) > slack:
        return None
    x = point.x + step * direction
    value, grad = function.value_and_grad(x)
    if value <= point.value + slack and float(np.linalg.norm(grad)) < float(np.linalg.norm(point.grad)):
        return Step(True, step, x, value, grad, 1)
    return None


def _failed(what: str, found: Step, start: Point, rounding: float = ROUNDING) -> StepFailedError:
    if not start.grad.any():
        return StepFailedError("the gradient is 0")
    if found.evaluations == 0:
        return StepFailedError(f"{what}: the direction does not descend")
    if found.value < start.value - rounding * abs(start.value):
        if found.grad is None or float(found.grad @ (found.x - start.x)) < 0.0:
            return StepFailedError(f"{what}: the function still falls where it ended, perhaps without bound")
        return StepFailedError(f"{what}: no step meets the condition on the slope; perhaps the function has a kink")
    error = StepFailedError(f"{what}: no step decreases the function, by what its rounding can show")
    error.flat = True
    return error


def _at(function: Function, x: Vector) -> Point:
    return Point(x, *function.value_and_grad(x))


def _point(function: Function, found: Step) -> Point:
    """The point of a search; a gradient that it did not need is computed now."""
    return Point(found.x, found.value, function.grad(found.x) if found.grad is None else found.grad)
