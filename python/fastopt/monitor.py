"""Looking into a training run: gradients per layer and epoch, and the learning-rate range test."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _links, _prepare, _specs, _validate, layers
from fastopt._backend import core
from fastopt._callback import Callback
from fastopt._native import native_loss
from fastopt.losses import Loss

if TYPE_CHECKING:
    from fastopt.network import Network
    from fastopt.training import Trainer

__all__ = ["GradientMonitor", "LearningRateFinder", "LearningRateRange"]


class GradientMonitor(Callback):
    """Norms of gradients and updates per layer and epoch, dead ReLUs, saturated sigmoids; says "vanishing" or "exploding" and where.

    After each epoch one training pass over a fixed probe batch (the first rows of the training data, at most 256) is made on the side;
    the run itself keeps its bits.

    Parameters
    ----------
    vanishing : float
        A layer vanishes when the norm of its gradient is below this share of the largest one.
    exploding : float
        A layer explodes when the norm of its gradient is above this, or not finite.

    Attributes
    ----------
    gradient_norms, update_norms : dict
        Layer's weight name to one value per epoch.
    dead, saturated : dict
        Layer name to the share, per epoch, of ReLU units that give 0 on the whole probe, and of sigmoid or tanh outputs at their ends.
    epochs : list of int
        The epoch of each value. A fit of another network begins all of these anew.
    messages : list of str
        What was found, such as "epoch 0: vanishing gradient in 0.weight (norm 1.2e-12, largest 0.31 in 19.weight)".

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> monitor = fo.callbacks.GradientMonitor()
    >>> trainer = fo.Trainer(fo.mlp(2, [4], 1, seed=0), loss="mse")
    >>> _ = trainer.fit(np.ones((8, 2)), np.ones(8), epochs=2, callbacks=[monitor])
    >>> {name: len(norms) for name, norms in monitor.gradient_norms.items()}
    {'0.weight': 2, '1.weight': 2}

    References
    ----------
    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """

    def __init__(self, *, vanishing: float = 1e-4, exploding: float = 1e3) -> None:
        self.vanishing = _specs.check_number("vanishing", vanishing, low=0.0, high=1.0, low_open=False, high_open=False)
        self.exploding = _specs.check_number("exploding", exploding, low=0.0, high=math.inf, low_open=True, high_open=True)
        self.gradient_norms: dict[str, list[float]] = {}
        self.update_norms: dict[str, list[float]] = {}
        self.dead: dict[str, list[float]] = {}
        self.saturated: dict[str, list[float]] = {}
        self.messages: list[str] = []
        self.epochs: list[int] = []
        self._before: dict[str, NDArray[Any]] = {}
        self._network: weakref.ref[Network] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Remember the weights."""
        if trainer._probe is None:
            raise ValueError("GradientMonitor needs training data in arrays, not an iterable of batches")
        self._probe = trainer._probe
        with trainer._turn:
            self._before = {name: np.array(view) for name, view in trainer.network.parameters.items() if name.endswith(".weight")}
        known, self._network = self._network, weakref.ref(trainer.network)
        another = known is not None and known() is not trainer.network
        if self.update_norms and (another or list(self.update_norms) != list(self._before)):
            for record in (self.gradient_norms, self.update_norms, self.dead, self.saturated, self.messages, self.epochs):
                record.clear()

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> bool | None:
        """Measure, and say what is wrong."""
        with trainer._turn:
            for name, before in self._before.items():
                now = trainer.network.parameters[name]
                self.update_norms.setdefault(name, []).append(float(np.linalg.norm(now - before)))
                np.copyto(before, now)
            norms = self._probe_pass(trainer)
        for name, norm in norms.items():
            self.gradient_norms.setdefault(name, []).append(norm)
        self.epochs.append(int(row["epoch"]))
        self._judge(self.epochs[-1], norms)
        return None

    def _probe_pass(self, trainer: Trainer) -> dict[str, float]:
        net, (x, y) = trainer.network, self._probe
        kept = [(flat, np.array(flat)) for flat in (net._native.buffers, net._native.gradients)]
        step = net.training_step
        try:
            outputs = net._native.forward(np.ascontiguousarray(x, dtype=net.dtype), True)
            if isinstance(trainer.loss, Loss):
                grad = native_loss(trainer.loss, net.dtype).value_and_grad(outputs, y, None)[1]
            else:
                grad = _links.call(trainer.loss, outputs, y)[1]
            net._native.backward(grad)
            norms = {name: float(np.linalg.norm(g)) for name, g in net.gradients.items() if name.endswith(".weight") and net._trains(name)}
            self._activations(trainer)
        finally:
            for flat, copy in kept:
                np.copyto(flat, copy)
            net.training_step = step
        return norms

    def _activations(self, trainer: Trainer) -> None:
        for i, layer in enumerate(trainer.network.layers):
            name = layer.name if isinstance(layer, layers.Activation) else getattr(layer, "activation", None)
            if name == "relu":
                output = trainer.network._native.layer_output(i)
                self.dead.setdefault(str(i), []).append(float(np.mean(~(output > 0).any(axis=0))))
            elif name in ("sigmoid", "tanh"):
                output = trainer.network._native.layer_output(i)
                distance = np.minimum(output, 1 - output) if name == "sigmoid" else (1 - np.abs(output)) / 2
                self.saturated.setdefault(str(i), []).append(float(np.mean(distance < 0.01)))

    def _judge(self, epoch: int, norms: dict[str, float]) -> None:
        finite = {name: norm for name, norm in norms.items() if math.isfinite(norm)}
        largest = max(finite, key=finite.__getitem__, default="")
        for name, norm in norms.items():
            if not math.isfinite(norm) or norm > self.exploding:
                self.messages.append(f"epoch {epoch}: exploding gradient in {name} (norm {norm:.3g})")
            elif norm < self.vanishing * finite[largest]:
                self.messages.append(
                    f"epoch {epoch}: vanishing gradient in {name} (norm {norm:.3g}, largest {finite[largest]:.3g} in {largest})"
                )

    def report(self) -> str:
        """The last epoch as a table, and what was found in it."""
        lines = [f"{'weights':<16}{'gradient norm':>15}{'update norm':>15}"]
        for name, norms in self.gradient_norms.items():
            lines.append(f"{name:<16}{norms[-1]:>15.3g}{self.update_norms[name][-1]:>15.3g}")
        for what, table in (("dead ReLU units", self.dead), ("saturated outputs", self.saturated)):
            lines += [f"layer {layer}: {shares[-1]:.1%} {what}" for layer, shares in table.items() if shares[-1] > 0]
        last = [m for m in self.messages if self.epochs and m.startswith(f"epoch {self.epochs[-1]}:")]
        return "\n".join(lines + (last or ["no vanishing or exploding gradient in the last epoch"]))


FEWEST = 10  # losses that tell something


@dataclass(frozen=True)
class LearningRateRange:
    """Result of a range test: rates tried, losses seen (raw and smoothed), and a suggestion; NaN when no rate lowered the loss."""

    rates: NDArray[np.float64] = field(repr=False)
    losses: NDArray[np.float64] = field(repr=False)
    smoothed: NDArray[np.float64] = field(repr=False)
    suggestion: float = math.nan


@dataclass(frozen=True, kw_only=True)
class LearningRateFinder:
    """Range test: train with a rate that grows geometrically from `low` to `high`, and see where the loss is smallest.

    What is suggested is a tenth of that rate: far enough from where training diverges. If that is a tenth of `high`, try higher ones. The
    trainer is left exactly as it was, but for `network.gradients`.

    Parameters
    ----------
    low, high : float
        First and last rate.
    steps : int
        Steps in between, at least 10.
    smoothing : float
        Of the exponential average of the losses, in [0, 1).
    diverged : float
        Stop when the smoothed loss is this many times the smallest one.

    Raises
    ------
    ValueError
        For rates in the wrong order, and for a trainer with a solver, which chooses its own steps.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(256, 4))
    >>> trainer = fo.Trainer(fo.mlp(4, [16], 1, seed=0), loss="mse", optimizer="sgd")
    >>> found = fo.callbacks.LearningRateFinder(steps=60).run(trainer, X, X.sum(axis=1), batch_size=32)
    >>> 1e-5 < found.suggestion < 1.0
    True

    References
    ----------
    Smith 2017, "Cyclical learning rates for training neural networks".
    """

    low: float = _specs.positive(1e-6)
    high: float = _specs.positive(10.0)
    steps: int = _specs.integer(100, low=10)
    smoothing: float = _specs.fraction(0.85)
    diverged: float = _specs.number(4.0, low=1.0)

    def __post_init__(self) -> None:
        _specs.Spec.__post_init__(self)  # type: ignore[arg-type]
        if self.low >= self.high:
            raise ValueError(f"LearningRateFinder: low must be below high; got {self.low} and {self.high}")

    def run(self, trainer: Trainer, X: ArrayLike, y: ArrayLike, *, batch_size: int = 32) -> LearningRateRange:
        """Make the test on batches of these data."""
        trainer._needs_rates("LearningRateFinder")
        train = _prepare.arrays(trainer, X, y, None)
        _validate.same_columns(trainer.columns, _validate.column_names(X), "X")
        size = min(_validate.positive_int(batch_size, "batch_size"), train.count)
        state = trainer.state_dict()
        rates = np.geomspace(self.low, self.high, self.steps)
        losses: list[float] = []
        try:
            _prepare.adapt(trainer, train, stacklevel=3)
            self._train(trainer, train, size, rates, losses)
        finally:
            try:
                trainer.load_state_dict(state)
            except BaseException:  # Ctrl-C in the middle of it
                trainer.load_state_dict(state)
                raise
        smoothed = _smooth(losses, self.smoothing)
        lowest = int(np.argmin(smoothed)) if len(losses) >= FEWEST else 0
        suggestion = float(rates[lowest]) / 10 if lowest > 0 else math.nan
        return LearningRateRange(rates[: len(losses)], np.array(losses), smoothed, suggestion)

    def _train(self, trainer: Trainer, train: _prepare.ArrayData, size: int, rates: NDArray[np.float64], losses: list[float]) -> None:
        per_epoch = -(-train.count // size)
        average, best = 0.0, math.inf
        for i, rate in enumerate(rates.tolist()):
            if i % per_epoch == 0:
                order = core.permutation(train.count, trainer.seed, i // per_epoch)
            rows = order[i % per_epoch * size : (i % per_epoch + 1) * size]
            x, y = train.x[rows], train.y[rows]
            loss = trainer._update(x, y, None, rate)
            if not math.isfinite(loss):
                break
            losses.append(loss)
            average = self.smoothing * average + (1 - self.smoothing) * loss
            smoothed = average / (1 - self.smoothing ** (i + 1))
            best = min(best, smoothed)
            if i > 10 and smoothed > self.diverged * best:
                break


def _average(values: list[float], smoothing: float) -> NDArray[np.float64]:
    """Bias-corrected exponential averages from the left."""
    average, out = 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        average = smoothing * average + (1 - smoothing) * value
        out[i] = average / (1 - smoothing ** (i + 1))
    return out


def _smooth(losses: list[float], smoothing: float) -> NDArray[np.float64]:
    """Averages from both ends, averaged, so that the curve does not lag behind the rate.

    Losses above the first ones only say that training diverged, not how far: uncut, a few of them would lift the curve far to their left.
    """
    bounded = np.minimum(losses, max(losses[:FEWEST], default=0.0)).tolist()
    return 0.5 * (_average(bounded, smoothing) + _average(bounded[::-1], smoothing)[::-1])
