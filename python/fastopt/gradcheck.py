"""Gradients against central differences, per parameter array."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _evaluate, _links, _specs, _validate
from fastopt._links import AnyLoss
from fastopt._native import FLOAT64, native_loss
from fastopt.losses import Loss
from fastopt.network import Network

__all__ = ["GradientCheck", "GradientReport", "check_gradients"]

Array = NDArray[Any]


@dataclass(frozen=True)
class GradientCheck:
    """One array: how many entries were compared, their relative error, the worst entry, and kinks left out."""

    name: str
    shape: tuple[int, ...]
    checked: int
    kinks: int
    relative_error: float
    worst_index: tuple[int, ...]
    analytic: float
    numeric: float
    passed: bool


@dataclass(frozen=True)
class GradientReport:
    """All arrays; true when every one passed, and a table as text."""

    tolerance: float
    checks: tuple[GradientCheck, ...] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether every array agrees."""
        return all(check.passed for check in self.checks)

    @property
    def relative_error(self) -> float:
        """The largest relative error."""
        return max((check.relative_error for check in self.checks), default=0.0)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        lines = [f"{'array':<14}{'shape':>14}{'checked':>9}{'kinks':>7}{'rel. error':>12}   worst entry (analytic, numeric)"]
        for c in self.checks:
            mark = "" if c.passed else "   FAILED"
            worst = f"{list(c.worst_index)} ({c.analytic:.9g}, {c.numeric:.9g})" if c.checked else "-"
            lines.append(f"{c.name:<14}{c.shape!s:>14}{c.checked:>9}{c.kinks:>7}{c.relative_error:>12.2e}   {worst}{mark}")
        verdict = "passed" if self.passed else "FAILED"
        return "\n".join([*lines, f"{verdict}: largest relative error {self.relative_error:.2e}, tolerance {self.tolerance:.0e}"])


def check_gradients(
    network: Network,
    loss: str | AnyLoss,
    x: ArrayLike,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    eps: float = 1e-6,
    tolerance: float = 1e-6,
    max_entries: int = 200,
    seed: int = 0,
) -> GradientReport:
    """Compare the gradients of a network, and with respect to its input, with `(f(w + e) - f(w - e)) / 2e` in float64.

    The check runs on a float64 copy (in full precision, also of a network with bf16 products) with dropout masks held fixed; the network
    is not touched. Layers that are not trainable have no gradient to check, and their arrays are left out. An entry where the two
    one-sided differences disagree sits on a kink (of ReLU, of an absolute value) and is reported as such, not as a failure.

    Parameters
    ----------
    network : Network
        Of any dtype and precision.
    loss : str, Loss or callable
        As for `Trainer`; your own `(prediction, target) -> (value, gradient)` too.
    x, y : array_like
        A small batch.
    sample_weight : array_like, optional
        `(n,)`.
    eps : float
        Step, scaled by `max(1, |w|)`.
    tolerance : float
        On `max|a - n| / max(|a|, |n|)` of each array, whose size counts as at least 1e-3 of the largest gradient in the network. What
        rounding of the loss leaves in the differences (1e-9 of it, or 1e-9 while that is below a tenth of the size) is no error: an array
        with no more counts as within the tolerance.
    max_entries : int
        Entries checked per array, chosen at random when there are more.
    seed : int
        Of that choice.

    Returns
    -------
    GradientReport
        True when all agree; print it for the table. An entry that is not finite does not agree.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument, sample weights with a loss of your own, or a loss that is not finite there.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> net = fo.mlp(3, [5], 2, activation="tanh", seed=0)
    >>> bool(fo.check_gradients(net, "cross_entropy", np.eye(3), [0, 1, 0]))
    True
    """
    spec: AnyLoss = _links.resolve(loss)
    eps = _specs.check_number("eps", eps, low=0.0, high=1.0, low_open=True, high_open=True)
    tolerance = _specs.check_number("tolerance", tolerance, low=0.0, high=1.0, low_open=True, high_open=True)
    limit = _specs.check_integer("max_entries", max_entries, low=1)
    net = network.copy(dtype=FLOAT64)
    rows = np.array(_validate.matrix(x, net.inputs, FLOAT64, "x"))
    _validate.check_finite(rows, "x")
    target = _evaluate.target_of(spec, net.outputs, y, FLOAT64, "y")
    _validate.same_rows(rows, target, "x", "y")
    if sample_weight is not None and not isinstance(spec, Loss):
        raise ValueError("sample_weight needs a loss of fastopt; the Python loss gets no weights")
    weight = None if sample_weight is None else _validate.sample_weight(sample_weight, len(rows), FLOAT64)
    if not net._native.adapted():
        net.adapt(rows)
    step, buffers = net.training_step, np.array(net._native.buffers)

    def value_and_grad() -> tuple[float, Array]:
        net.training_step = step
        net._native.buffers[...] = buffers
        outputs = net._native.forward(rows, True)
        if isinstance(spec, Loss):
            return native_loss(spec, FLOAT64).value_and_grad(outputs, target, weight)
        return _links.call(spec, outputs, target)

    centre, grad_output = value_and_grad()
    if not math.isfinite(centre):
        raise ValueError(f"the loss is {centre}; gradients can be checked where it is finite")
    grad_x = np.array(net._native.backward(np.ascontiguousarray(grad_output)))
    analytic = {name: np.array(g) for name, g in net.gradients.items()}
    rng = np.random.default_rng(seed)
    largest = max(float(np.abs(g[np.isfinite(g)]).max(initial=0.0)) for g in (grad_x, *analytic.values()))
    checks = []
    trained = [(name, view) for name, view in net.parameters.items() if net._trains(name)]
    for name, array in [*trained, ("input", rows)]:
        exact = grad_x if name == "input" else analytic[name]
        checks.append(_check_array(name, array, exact, lambda: value_and_grad()[0], centre, largest, eps, tolerance, limit, rng))
    return GradientReport(tolerance, tuple(checks))


def _check_array(
    name: str,
    array: Array,
    analytic: Array,
    value: Callable[[], float],
    centre: float,
    largest: float,
    eps: float,
    tolerance: float,
    limit: int,
    rng: np.random.Generator,
) -> GradientCheck:
    flat, exact = array.reshape(-1), analytic.reshape(-1)
    entries = np.arange(flat.size) if flat.size <= limit else np.sort(rng.choice(flat.size, limit, replace=False))
    numeric, kink = np.zeros(len(entries)), np.zeros(len(entries), dtype=bool)
    scale = float(np.abs(exact[np.isfinite(exact)]).max(initial=0.0))

    def slopes(entry: int, h: float) -> tuple[float, float, float]:
        """By the difference to both sides, to the right and to the left."""
        at = flat[entry]
        flat[entry] = at + h
        up, h_up = value(), flat[entry] - at
        flat[entry] = at - h
        down, h_down = value(), at - flat[entry]
        flat[entry] = at
        return (up - down) / (h_up + h_down), (up - centre) / h_up, (centre - down) / h_down

    for i, entry in enumerate(entries):
        h = eps * max(1.0, abs(flat[entry]))
        numeric[i], right, left = slopes(entry, h)
        noise = 1e-15 * max(abs(centre), 1.0) / h
        if abs(right - left) > 1e-3 * max(abs(right), abs(left), scale) + 10 * noise:
            _, nearer_right, nearer_left = slopes(entry, h / 16)  # the jump of a kink stays, what comes of curvature shrinks with the step
            kink[i] = abs(nearer_right - nearer_left) > 0.25 * abs(right - left)
    smooth = ~kink
    a, n = exact[entries][smooth], numeric[smooth]
    if len(a) == 0:
        return GradientCheck(name, array.shape, 0, int(kink.sum()), 0.0, (), 0.0, 0.0, True)
    finite = np.isfinite(a) & np.isfinite(n)
    difference = np.where(finite, np.abs(a - n), np.inf)
    worst = int(np.argmax(difference))
    size = max(float(np.abs(a[finite]).max(initial=0.0)), float(np.abs(n[finite]).max(initial=0.0)), 1e-3 * largest)
    floor = 1e-9 * max(abs(centre), 1.0 if size > 1e-8 else 0.0)  # what rounding of the loss leaves in the differences
    error = float(difference[worst]) / size if size > 0.0 else float(difference[worst])
    if difference[worst] <= floor:
        error = min(error, tolerance)
    index = tuple(int(k) for k in np.unravel_index(int(entries[smooth][worst]), array.shape))
    passed = bool(finite.all() and error <= tolerance)
    return GradientCheck(name, array.shape, len(a), int(kink.sum()), error, index, float(a[worst]), float(n[worst]), passed)
