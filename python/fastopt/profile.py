"""Where the time of training goes: calls, seconds and floating-point operations of each stage, measured inside the native step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from fastopt._backend import core

if TYPE_CHECKING:
    from fastopt.network import Network

__all__ = ["Profile", "StageTime"]

Cell: TypeAlias = tuple[str, int | None, int, int, float]  # phase, layer, calls, rows of all calls, seconds
Cells: TypeAlias = list[Cell]

BACKWARD = ("input_gradient", "weight_gradient")
PER_LAYER = ("forward", *BACKWARD)
BEFORE_BACKWARD = ("gather", "forward", "loss")


@dataclass(frozen=True)
class StageTime:
    """What one stage took, without the clock's own cost.

    Attributes
    ----------
    stage : str
    calls : int
    seconds : float
        Of all calls.
    micros_per_step : float
        Microseconds, over the steps of the whole profile.
    share : float
        Of the wall time of the whole profile, 0 to 1.
    flops : int
        Multiplications and additions of all calls on all threads: `2 rows inputs units` for each product of a dense layer, 0 for other
        stages.
    gflops : float
        `flops / seconds`, in 1e9 per second.

    Examples
    --------
    >>> from fastopt.profile import StageTime
    >>> round(StageTime("0.forward", calls=2, seconds=1e-6, micros_per_step=0.5, share=0.25, flops=50_000).gflops, 3)
    50.0
    """

    stage: str
    calls: int
    seconds: float
    micros_per_step: float
    share: float
    flops: int = 0

    @property
    def gflops(self) -> float:
        """Floating-point operations per second, in 1e9."""
        return 1e-9 * self.flops / self.seconds if self.seconds > 0.0 else 0.0


class Profile(Mapping[str, StageTime]):
    """The stages of a trainer's steps by name, made by `Trainer.profile`; measures while it is entered as a context.

    Stages of a step, in order: "gather" (rows, targets and weights of the batch), "0.forward", "1.forward", ... (an activation behind a
    dense layer or a normalization is part of it), "loss" (value and gradient), "1.input_gradient" (with the derivative of the
    activation below; of a layer that is not dense also its parameters' gradients), "1.weight_gradient" (with the bias),
    "0.weight_gradient", "wait", "accumulate" (micro-batches), "norm" (`clip_norm`), "update" (with penalties and clipping), "average"
    (`ema`).

    Threads share every product of a large network, and gather the next batch while they wait for each other, so that "gather" is only what
    is left of it. In a small one without batch normalization each takes rows of its own through all layers, then its part of every weight
    gradient and, layer by layer, of the update; times are then those of the first thread, and "wait" is until the others are done.

    Between the steps of a fit: "snapshot" (a copy of the state, to go back to when a loss is not finite), "order" (shuffling),
    "evaluation" (validation, metrics), "callbacks", and "python" for all the rest, with what the caller's own code takes between two
    calls. Steps of a solver are not taken apart and not counted: they are "python" too. "clock" is the cost of measuring: it is taken off
    from every stage, so that all stages together make up the wall time. `profile["forward"]`, `profile["weight_gradient"]` and
    `profile["input_gradient"]` are sums over layers.

    The clock's cost is that of an undisturbed reading. It also keeps the processor from overlapping two stages, so a small network runs a
    few percent slower while it is profiled, beyond what "clock" says. Weights and losses have the same bits as without a profile.

    Attributes
    ----------
    clock_seconds : float
        Cost of one reading of the clock, measured when the profile is made.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> X = np.random.default_rng(0).normal(size=(256, 8))
    >>> trainer = fo.Trainer(fo.mlp(8, [32], 1, seed=0), loss="mse")
    >>> with trainer.profile() as profile:
    ...     history = trainer.fit(X, X[:, 0], epochs=2, batch_size=32)
    >>> abs(sum(row.share for row in profile.rows) - 1.0) < 1e-9
    True
    >>> profile["forward"].flops == profile["0.forward"].flops + profile["1.forward"].flops
    True
    """

    def __init__(self, network: Network) -> None:
        self._network = network._native
        weights = {name: view.size for name, view in network.parameters.items() if name.endswith(".weight")}
        self._weight_size = [weights.get(f"{number}.weight", 0) for number in range(len(network.layers))]
        self._native = core.Profile(len(network.layers))
        self.clock_seconds = core.Profile.lap_seconds()

    def __enter__(self) -> Profile:
        self._network.set_profile(self._native)
        self._native.resume()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._network.lap("python")
        self._network.set_profile(None)

    @property
    def steps(self) -> int:
        """Training steps so far: micro-batches, where gradients are accumulated."""
        return _steps(self._native.cells())

    @property
    def seconds(self) -> float:
        """Wall time inside the context, the clock's cost included."""
        return _seconds(self._native.cells())

    @property
    def rows(self) -> list[StageTime]:
        """Every stage that was met, in the order of a step: `pandas.DataFrame(profile.rows)`."""
        cells = self._native.cells()  # once: another thread may be training
        steps, total, laps, clock = _steps(cells), _seconds(cells), 0, 0.0
        rows = []
        for phase, layer, calls, batch_rows, seconds in sorted(cells, key=_order_in_step):
            cost = min(seconds, calls * self.clock_seconds)
            laps, clock = laps + calls, clock + cost
            flops = 2 * batch_rows * self._weight_size[layer] if layer is not None else 0
            rows.append(_stage(phase if layer is None else f"{layer}.{phase}", calls, seconds - cost, steps, total, flops))
        if laps:
            rows.append(_stage("clock", laps, clock, steps, total))
        return rows

    def __getitem__(self, stage: str) -> StageTime:
        rows = self.rows
        for row in rows:
            if row.stage == stage:
                return row
        parts = [row for row in rows if stage in PER_LAYER and row.stage.endswith(f".{stage}")]
        if not parts:
            raise KeyError(f"{stage!r}; the stages are: {', '.join(self) or 'none yet'}")
        calls, flops = (sum(getattr(row, name) for row in parts) for name in ("calls", "flops"))
        return _stage(stage, calls, sum(row.seconds for row in parts), self.steps, self.seconds, flops)

    def __iter__(self) -> Iterator[str]:
        return iter([row.stage for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Profile({self.steps} steps, {self.seconds:.4g} s)"

    def __str__(self) -> str:
        rows = self.rows
        cells = [["stage", "calls", "seconds", "µs/step", "share", "GFLOP/s"]]
        cells += [
            [row.stage, str(row.calls), f"{row.seconds:.4g}", f"{row.micros_per_step:.3f}", f"{row.share:.1%}", f"{row.gflops:.1f}"]
            for row in rows
        ]
        for line, row in zip(cells[1:], rows, strict=True):
            line[-1] = line[-1] if row.flops else ""
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        table = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells]
        head = f"{self.steps} steps in {self.seconds:.4g} s; reading the clock takes {self.clock_seconds * 1e9:.0f} ns and is taken off"
        return "\n".join([head, *table])


def _steps(cells: Cells) -> int:
    return sum(calls for phase, _, calls, _, _ in cells if phase == "loss")


def _seconds(cells: Cells) -> float:
    return sum(seconds for *_, seconds in cells)


def _order_in_step(cell: Cell) -> tuple[int, int, int]:
    """Forward from the first layer to the last, backward from the last to the first, the rest as the core lists it."""
    phase, layer, *_ = cell
    if phase in BEFORE_BACKWARD:
        return BEFORE_BACKWARD.index(phase), layer or 0, 0
    if phase in BACKWARD and layer is not None:
        return len(BEFORE_BACKWARD), -layer, BACKWARD.index(phase)
    return len(BEFORE_BACKWARD) + 1, 0, 0


def _stage(name: str, calls: int, seconds: float, steps: int, total: float, flops: int = 0) -> StageTime:
    return StageTime(name, calls, seconds, 1e6 * seconds / max(steps, 1), seconds / total if total > 0.0 else 0.0, flops)
