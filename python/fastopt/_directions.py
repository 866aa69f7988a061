"""Directions of descent from curvature, on plain float64 vectors: the limited memory of L-BFGS, Newton with damping."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = NDArray[np.float64]


class CurvaturePairs:
    """The last `history` pairs `s = x_new - x_old`, `y = g_new - g_old` with `y's > threshold |y| |s|`, in buffers used in turn."""

    def __init__(self, history: int, size: int, threshold: float = 1e-10) -> None:
        self.s, self.y = np.zeros((history, size)), np.zeros((history, size))
        self.rho = np.zeros(history)
        self.threshold = threshold
        self.count = self.skipped = 0
        self.replaced: tuple[int, Vector, Vector] | None = None  # the slot of the last pair, and what it held before

    def __len__(self) -> int:
        return min(self.count, len(self.rho))

    def clear(self) -> None:
        """Forget all pairs."""
        self.count = 0

    def add(self, s: Vector, y: Vector) -> bool:
        """Keep a pair, unless its curvature is not safely positive (then False)."""
        curvature = float(y @ s)
        sizes = float(np.linalg.norm(y) * np.linalg.norm(s))  # relative: near a minimum of 0 every curvature is small
        if not (curvature > self.threshold * sizes and math.isfinite(sizes)):
            self.skipped += 1
            return False
        slot = self.count % len(self.rho)
        self.replaced = slot, self.s[slot].copy(), self.y[slot].copy()
        self.s[slot], self.y[slot], self.rho[slot] = s, y, 1.0 / curvature
        self.count += 1
        return True

    def put_back(self) -> None:
        """The vectors that the last pair replaced; not its curvature and not the count."""
        if self.replaced is not None:
            slot, self.s[slot], self.y[slot] = self.replaced
            self.replaced = None

    def newest_first(self) -> list[int]:
        """Slots in use."""
        return [(self.count - 1 - i) % len(self.rho) for i in range(len(self))]


def lbfgs_direction(grad: Vector, pairs: CurvaturePairs) -> Vector:
    """`-H g` by the two-loop recursion, H starting from `s'y / y'y` times the identity (Nocedal 1980; Nocedal and Wright, algorithm 7.4).

    Steepest descent when there is no pair.
    """
    direction: Vector = -grad
    slots = pairs.newest_first()
    if not slots:
        return direction
    alphas = []
    for i in slots:
        alpha = pairs.rho[i] * float(pairs.s[i] @ direction)
        direction -= alpha * pairs.y[i]
        alphas.append(alpha)
    newest = pairs.y[slots[0]]
    direction *= 1.0 / (pairs.rho[slots[0]] * float(newest @ newest))
    for i, alpha in zip(reversed(slots), reversed(alphas), strict=True):
        direction += (alpha - pairs.rho[i] * float(pairs.y[i] @ direction)) * pairs.s[i]
    return direction


def newton_direction(hessian: Matrix, grad: Vector, damping: float = 1e-3) -> tuple[Vector, float]:
    """Solve `(H + lam I) d = -g`; lam is 0 when H is positive definite, else the first of a growing row that makes it so.

    The row starts at `damping max|H_ii|` above what makes the diagonal positive and grows fourfold (Levenberg 1944; Nocedal and Wright,
    algorithm 3.3). Returns d and lam.

    Raises
    ------
    ValueError
        When the Hessian is not finite.
    """
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian is not finite")
    diagonal = np.diagonal(hessian)
    scale = max(float(np.abs(hessian).max()), 1e-300)
    lam = 0.0
    identity = np.eye(len(grad))
    while True:
        damped = hessian + lam * identity if lam > 0.0 else hessian
        direction = _solved(damped, -grad)
        if direction is not None:
            return direction, lam
        lam = max(4.0 * lam, damping * scale - min(0.0, float(diagonal.min())))


def _solved(matrix: Matrix, right: Vector) -> Vector | None:
    """The solution for a positive definite matrix, None for another. In variables that make its diagonal 1, so that their units do not
    matter."""
    diagonal = np.diagonal(matrix)
    if not (diagonal > 0.0).all():
        return None
    unit = 1.0 / np.sqrt(diagonal)
    scaled = matrix * unit * unit[:, None]
    try:
        factor = np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        return None
    if float(np.diagonal(factor).min()) ** 2 <= 1e-14:
        return None
    solution: Vector = unit * np.linalg.solve(scaled, unit * right)
    return solution
