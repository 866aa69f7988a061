"""The solvers of networks as generators of accepted points, like those of `_steps`, and what they remember between two fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt import line_search
from fastopt._directions import CurvaturePairs, Matrix, Vector
from fastopt._objective import Objective
from fastopt._problem import Point
from fastopt._solver import Solver
from fastopt._steps import StepFailedError, lbfgs_steps, newton_steps
from fastopt.network_solvers import LevenbergMarquardt, NewtonCG
from fastopt.solvers import LBFGS, Newton

LARGEST_NEWTON = 2000  # parameters whose Hessian is still formed
ACCEPTED_SHARE = 1e-4  # of the predicted decrease
LOWEST_FACTOR = 0.2  # of the damping after a good step: Nielsen's 1/3 needs a tenth more steps on small tanh networks
LARGEST_ACCELERATION = 0.75  # against the step (Transtrum and Sethna 2011)


class Memory:
    """What a solver carries from one step to the next, as named arrays that are saved with the trainer."""

    def __init__(self, solver: Solver, size: int) -> None:
        self.solver = solver
        self.first_order = isinstance(solver, LBFGS)
        self.pairs: CurvaturePairs | None = None
        self.arrays: dict[str, NDArray[Any]] = {}
        if isinstance(solver, LBFGS):
            self.pairs = CurvaturePairs(solver.history, size, solver.min_curvature)
            self.arrays = {"s": self.pairs.s, "y": self.pairs.y, "rho": self.pairs.rho, "count": np.zeros(1, np.int64)}
        elif isinstance(solver, LevenbergMarquardt):
            self.arrays = {"damping": np.array([solver.damping])}
        self.mark()

    def forget(self) -> None:
        """Back to the start."""
        for name, array in self.arrays.items():
            array[...] = self.solver.damping if name == "damping" and isinstance(self.solver, LevenbergMarquardt) else 0

    def keep(self) -> None:
        """Write down what changed, after a step."""
        if self.pairs is not None:
            self.arrays["count"][0] = self.pairs.count

    def mark(self) -> None:
        """Remember the present for `go_back`."""
        self._marked = {name: array.copy() for name, array in self.arrays.items() if array.ndim == 1}
        if self.pairs is not None:
            self.pairs.replaced = None

    def go_back(self) -> None:
        """To what `mark` saw, at most one step ago."""
        for name, array in self._marked.items():
            self.arrays[name][...] = array
        if self.pairs is not None:
            self.pairs.put_back()

    def steps(self, objective: Objective, first: int) -> Iterator[Point]:
        """Points of a run that starts where the network is, after `first` steps."""
        solver, x = self.solver, objective.read()
        if isinstance(solver, LevenbergMarquardt):
            return levenberg_marquardt_steps(solver, objective, x, self.arrays["damping"])
        start = Point(x, *objective.value_and_grad(x))
        if isinstance(solver, NewtonCG):
            return newton_cg_steps(solver, objective, start)
        if isinstance(solver, Newton):
            return newton_steps(solver, objective, objective.hessian, start, first=first, settle=objective.settle)
        assert isinstance(solver, LBFGS)
        assert self.pairs is not None
        self.pairs.count = int(self.arrays["count"][0])
        return lbfgs_steps(
            solver, objective.value_and_grad, start, rounding=objective.rounding, pairs=self.pairs, settle=objective.settle
        )  # fmt: skip


def levenberg_marquardt_steps(method: LevenbergMarquardt, objective: Objective, x: Vector, memory: NDArray[np.float64]) -> Iterator[Point]:
    """Damped Gauss-Newton; `memory` holds the damping. Points carry half of the gradient at their start."""
    while True:
        value, grad, matrix = objective.gauss_newton(x)
        diagonal = np.array(np.diagonal(matrix))
        scale = np.maximum(diagonal, max(method.floor, 1e-12) * max(float(diagonal.mean()), 1e-300))  # a dead unit has no curvature
        x, value = _damped_step(method, objective, Point(x, value, grad), matrix, diagonal, scale, memory)
        yield Point(x, value, grad)


def _damped_step(
    method: LevenbergMarquardt,
    objective: Objective,
    point: Point,
    matrix: Matrix,
    diagonal: Vector,
    scale: Vector,
    memory: NDArray[np.float64],
) -> tuple[Vector, float]:
    """Raise the damping until a step keeps ACCEPTED_SHARE of what the model promises, then lower it (Nielsen 1999)."""
    x, value, grad = point
    if not grad.any():
        raise StepFailedError("the gradient is 0")
    growth = 2.0
    centre = objective.outputs(x) if method.geodesic else None
    for _ in range(method.max_tries):
        damping = float(memory[0])
        np.fill_diagonal(matrix, diagonal + damping * scale)
        step = _solve(matrix, -grad)
        if step is not None:
            promised = damping * float(step @ (scale * step)) - float(grad @ step)
            if promised <= objective.rounding * abs(value):
                end = "" if objective.has_kinks else "converged: "
                raise StepFailedError(f"{end}a step changes the loss by less than its rounding")
            if centre is not None:
                bend = objective.pull_of_bend(x, step, centre)
                step = _accelerated(step, _solve(matrix, -bend))
        if step is not None:
            new = objective.value(x + step)
            rho = (value - new) / promised if math.isfinite(new) else -math.inf
            if rho > ACCEPTED_SHARE:
                memory[0] = max(damping * max(LOWEST_FACTOR, 1.0 - (2.0 * rho - 1.0) ** 3), 1e-15)
                return objective.settle(x + step), new
        memory[0] = min(damping * growth, 1e15)
        growth *= 2.0
    raise StepFailedError(f"no step decreases the loss, up to a damping of {float(memory[0]):.1e}")


def _solve(matrix: Matrix, right: Vector) -> Vector | None:
    try:
        solution: Vector = np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    return solution if np.isfinite(solution).all() else None


def _accelerated(step: Vector, acceleration: Vector | None) -> Vector | None:
    """The step and half of its acceleration; None when that is too long for the model."""
    if acceleration is None or 2.0 * np.linalg.norm(acceleration) > LARGEST_ACCELERATION * np.linalg.norm(step):
        return None
    return np.asarray(step + 0.5 * acceleration)


def newton_cg_steps(method: NewtonCG, objective: Objective, start: Point) -> Iterator[Point]:
    """Truncated Newton with a strong-Wolfe search; the parameters are those of the point whenever products are asked for."""
    point = start
    while True:
        if not point.grad.any():
            raise StepFailedError("the gradient is 0")
        objective.write(point.x)
        direction = _truncated_newton(method, objective, point.grad)
        found = line_search.strong_wolfe(
            objective.value_and_grad, point.x, point.value, point.grad, direction,
            c1=method.c1, c2=method.c2, max_evaluations=method.max_evaluations, rounding=objective.rounding,
        )  # fmt: skip
        if found.t == 0.0 or found.grad is None:
            raise StepFailedError("the line search failed: no step decreases the loss, by what its rounding can show")
        point = Point(objective.settle(found.x), found.value, found.grad)
        yield point


def _truncated_newton(method: NewtonCG, objective: Objective, grad: Vector) -> Vector:
    """Conjugate gradients on H d = -g until the residual is small or the curvature is not positive."""
    norm = float(np.linalg.norm(grad))
    enough = min(0.5, math.sqrt(norm)) * norm
    d: Vector = np.zeros_like(grad)
    r: Vector = -grad
    p: Vector = np.array(r)
    square = norm * norm
    for i in range(method.max_products):
        product = objective.hvp(p)
        curvature = float(p @ product)
        if not curvature > 1e-14 * float(p @ p):
            return d if i else r
        alpha = square / curvature
        d += alpha * p
        r -= alpha * product
        before, square = square, float(r @ r)
        if math.sqrt(square) <= enough:
            break
        p = r + (square / before) * p
    return d
