"""The loop of `Trainer.fit` over epochs: what they begin and end with, whatever an epoch is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt import _links, _prepare, _progress
from fastopt._backend import core
from fastopt._callback import Callback
from fastopt._evaluate import Evaluator
from fastopt._native import native_loss
from fastopt._snapshot import Snapshot
from fastopt.errors import NonFiniteLossError
from fastopt.history import History
from fastopt.losses import Loss

if TYPE_CHECKING:
    from fastopt.training import Trainer

STEEP = ("exp", "gaussian")  # links under which modest outputs may already overflow
GROWN, JUMPED, RISEN = 8.0, 10.0, 3.0  # weights, a loss over its epoch's mean, and this over the one before: it may have ended badly
LOOKED_AT = 1024  # rows at most, then


class FinishedError(Exception):
    """Raised by `Epochs.one_epoch` when there is nothing more to do; the text says why."""


class Epochs:
    """The loop over epochs; subclasses run one epoch."""

    rows: int | None = None

    def __init__(
        self,
        trainer: Trainer,
        epochs: int,
        validation: Evaluator | None,
        training: Evaluator | None,
        callbacks: list[Callback],
        progress: bool,
    ) -> None:
        self.trainer, self._epochs, self._callbacks, self._progress = trainer, epochs, callbacks, progress
        self._validation, self._training = validation, training
        options = trainer._options
        self._penalty = bool(options["l1"] or options["l2"]) or any(
            getattr(layer, "l1", 0.0) or getattr(layer, "l2", 0.0) for layer in trainer.network.layers
        )
        self._steep = getattr(trainer.loss, "link", "") in STEEP
        self.bar: _progress.Bar | None = None
        self._lap = trainer.network._native.lap  # tells a profile, when there is one, what has ended
        self.rate = trainer.learning_rate
        self._last_loss = 0.0  # of the last step,
        self._last: Callable[[], _prepare.Batch] | None = None  # and what that was on
        self.adapted = False  # this fit gave a Standardize layer its statistics, and no epoch has ended since

    def one_epoch(self) -> float:
        """Train on all data once and return the mean loss."""
        raise NotImplementedError

    def at_once(self, most: int) -> int:
        """How many of the next epochs are one native run."""
        return 1

    def epochs(self, count: int, start: float, history: History, snapshot: Snapshot) -> None:
        """Train and record them, or nothing."""
        raise NotImplementedError

    def run(self) -> History:
        """Train, and leave a usable trainer whatever happens."""
        trainer, history = self.trainer, History()
        core.look_at_cores()
        with trainer._turn:
            evaluating = trainer._native.swapped
        snapshot = Snapshot(trainer)
        if trainer._modest_weight == 0.0:
            self._look_at_weights(snapshot)
        trainer.stop_training = False
        trainer.history.message = ""
        if self._progress:
            self.bar = _progress.Bar(trainer.epoch, self._epochs, self.rows)
        try:
            for callback in self._callbacks:
                callback.on_fit_begin(trainer)
            while len(history.rows) < self._epochs:
                start = time.perf_counter()
                if self.bar is not None:
                    self.bar.epoch(trainer.epoch)
                try:
                    self._next(start, history, snapshot)
                except FinishedError as end:
                    history.message = trainer.history.message = str(end)
                    break
                self._call_back(history)
                if self.bar is not None and history:
                    self.bar.row(history.rows[-1])
                if trainer.stop_training:
                    break
        finally:
            trainer._probe = None
            if not evaluating:
                with trainer._turn:
                    trainer._native.settle()
            if self.bar is not None:
                self.bar.close(history.rows[-1] if history else None)
        for callback in self._callbacks:
            callback.on_fit_end(trainer)
        return history

    def _next(self, start: float, history: History, snapshot: Snapshot) -> None:
        """One epoch, or several that are one native run."""
        self._lap("python")
        snapshot.take()
        self._lap("snapshot")
        count = self.at_once(self._epochs - len(history.rows))
        if count > 1:
            self.epochs(count, start, history, snapshot)
        else:
            self._epoch(start, history, snapshot)

    def _epoch(self, start: float, history: History, snapshot: Snapshot) -> None:
        """One epoch, and what is measured after it."""
        trainer = self.trainer
        try:
            loss = self.one_epoch()
            self._lap("python")
            wrong = self._wrong(snapshot, loss)
            self._lap("snapshot")
            if wrong:
                raise NonFiniteLossError(f"{wrong} after step {trainer.steps}", step=trainer.steps)
        except NonFiniteLossError as error:
            snapshot.restore()
            text = f"{error}; the weights and the optimizer are those of the start of epoch {trainer.epoch}"
            raise NonFiniteLossError(text, step=error.step, epoch=trainer.epoch) from None
        self._record([self._row(loss)], time.perf_counter() - start, history)

    def _call_back(self, history: History) -> None:
        """After an epoch; there are no callbacks where several are one run."""
        for callback in self._callbacks:
            if callback.on_epoch_end(self.trainer, history.rows[-1]):
                self.trainer.stop_training = True
        if self._callbacks:
            self._lap("callbacks")

    def _wrong(self, snapshot: Snapshot, mean: float) -> str:
        """What the last step of an epoch broke, which no step after it has seen: no later epoch may go back to such weights.

        The loss of the last batch is looked at again where an explosion would show: a weight has grown GROWN times since the last look, or
        the loss has jumped within the epoch or risen from the one before; that of a loss with exponentials always.
        """
        before = self.trainer.history.rows[-1]["loss"] if self.trainer.history.rows else math.inf
        rises = self._last_loss > JUMPED * abs(mean) or mean > RISEN * abs(before)
        modest = snapshot.finite(self.trainer._modest_weight) and not rises
        if modest and not self._steep:
            return ""
        if not snapshot.finite():
            return "a weight is not finite"
        loss = self._loss_now()
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self._look_at_weights(snapshot)
        return ""

    def _look_at_weights(self, snapshot: Snapshot) -> None:
        largest = snapshot.largest()
        self.trainer._modest_weight = GROWN * max(0.1, largest) if math.isfinite(largest) else GROWN

    def _loss_now(self) -> float:
        """That another step on the last batch, or on so many of its rows, would see."""
        if self._last is None:
            return 0.0
        trainer, (x, y, weight) = self.trainer, self._last()
        native = trainer.network._native
        rows = np.ascontiguousarray(x, dtype=trainer.network.dtype)
        with trainer._turn:
            outputs = native.forward(rows, True, undone=True)
        if isinstance(trainer.loss, Loss):
            return native_loss(trainer.loss, trainer.network.dtype).value(outputs, y, weight)
        return float(_links.call(trainer.loss, outputs, y)[0])

    def _record(self, rows: list[dict[str, Any]], seconds: float, history: History) -> None:
        """Epochs that ended, which share the time; without a call in between, where Ctrl-C could come."""
        trainer, count = self.trainer, len(rows)
        each, whole = [seconds / max(1, count)] * count, trainer.history
        self.adapted = self.adapted and not rows
        with trainer._turn, trainer.network._native:  # whoever saves beside this finds all of it or nothing
            whole.rows += rows
            whole.seconds += each
            history.rows += rows
            history.seconds += each
            trainer.epoch += count
            trainer._under_way = None

    def columns(self, metrics: Iterable[str]) -> list[str]:
        """Names of what `_row` will give."""
        names = ["epoch", "loss"]
        if self._penalty:
            names.append("penalty")
        if self._validation is not None:
            names += ["val_loss", *(f"val_{name}" for name in metrics)]
        elif self._training is not None:
            names += metrics
        if self.trainer._memory is None:
            names.append("learning_rate")
        elif "damping" in self.trainer._memory.arrays:
            names.append("damping")
        return names

    def _row(self, loss: float) -> dict[str, Any]:
        trainer = self.trainer
        row: dict[str, Any] = {"epoch": trainer.epoch, "loss": loss}
        if self._penalty:
            with trainer._turn:
                row["penalty"] = trainer._native.penalty()
        self._lap("python")
        if self._validation is not None:
            with trainer.evaluation_weights():
                row.update(self._validation("val_"))
        elif self._training is not None:
            with trainer.evaluation_weights():
                measured = self._training()
            measured.pop("loss")
            row.update(measured)
        if self._validation is not None or self._training is not None:
            self._lap("evaluation")
        row["learning_rate"] = self.rate
        return row

    def not_finite(self, loss: float) -> NonFiniteLossError:
        """The error that names the step."""
        step = self.trainer.steps
        return NonFiniteLossError(f"the loss is {loss} at step {step} (epoch {self.trainer.epoch})", step=step, epoch=self.trainer.epoch)

    def _flush(self) -> None:
        """The last micro-batches of an epoch make an update of their own when they are fewer than `accumulate`."""
        if self.trainer._options["accumulate"] > 1:
            with self.trainer._turn:
                self.trainer._native.flush(self.rate)
