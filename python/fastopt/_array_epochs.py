"""Epochs over arrays: native runs of steps, cut into pieces short enough for Ctrl-C and the progress bar."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _prepare, _validate
from fastopt._backend import core
from fastopt._epochs import LOOKED_AT, Epochs
from fastopt._snapshot import Snapshot
from fastopt.history import History
from fastopt.losses import Loss

if TYPE_CHECKING:
    from fastopt.training import Trainer

PIECE_SECONDS = 0.05  # of native work between two looks at Ctrl-C; the promise is 0.1
MOST_EPOCHS = 1024  # in one native run: Python has to write down each,
MOST_ROWS = 1 << 20  # and their order is in memory
ASSUMED_FLOPS = 2e10  # before the first measurement
SUSPECT = 1e-10  # of the largest number: where a loss of one batch is larger, that of another may be infinite


class BrokenRowsError(Exception):
    """Raised by the native steps of an epoch that met a row of X that is not finite."""


class Pace:
    """How many steps of `batch` rows make a piece, from the time that steps took so far."""

    steps: int  # of the next piece
    measured = False

    def __init__(self, trainer: Trainer, batch: int) -> None:
        self.batch = batch
        self._take(max(6.0 * trainer.network.num_parameters * batch / ASSUMED_FLOPS, 1e-6))

    def _take(self, seconds: float) -> None:
        self._seconds = seconds
        self.steps = max(1, int(PIECE_SECONDS / seconds))

    def of(self, rows: int) -> float:
        """Seconds of an epoch, as far as known."""
        return self._seconds * -(-rows // self.batch)

    def saw(self, steps: int, seconds: float) -> None:
        """Learn from a piece that was run."""
        each = seconds / steps
        self._take(0.5 * (self._seconds + each) if self.measured else max(each, 1e-7))
        self.measured = True


def pace_of(trainer: Trainer, batch: int) -> Pace:
    """That of the last fit, when its batches were as large."""
    last = trainer._pace
    return Pace(trainer, batch) if last is None or last.batch != batch else last


class ArrayEpochs(Epochs):
    """Epochs over arrays: an order and one rate per step, then native runs."""

    def prepare(self, data: _prepare.ArrayData, batch_size: int, shuffle: bool) -> None:
        """Allocate once what every epoch needs."""
        trainer = self.trainer
        self.rows, self._data, self._batch, self._shuffle = data.count, data, batch_size, shuffle
        self._steps = -(-data.count // batch_size)
        self._reserve(1)
        self._pace = trainer._pace = pace_of(trainer, batch_size)
        self._native = isinstance(trainer.loss, Loss)
        looks_between = self._callbacks or self._validation or self._training or self._steep or trainer._options["accumulate"] > 1
        self._joins = self._native and not looks_between and trainer._rates.known_ahead
        self._largest = _validate.LARGEST[trainer.network.dtype]
        self._message = trainer.history.message

    def _remember(self, order: NDArray[Any]) -> None:
        """What the last step of an order was on."""
        d, first = self._data, (self._steps - 1) * self._batch
        self._last_loss = self._losses.item(len(order) - 1, self._steps - 1)

        def last() -> _prepare.Batch:
            rows = order[-1, first : first + LOOKED_AT]
            return d.x[rows], d.y[rows], None if d.weight is None else d.weight[rows]

        self._last = last

    def _reserve(self, epochs: int) -> None:
        self._losses, self._weights = np.zeros((epochs, self._steps)), np.zeros((epochs, self._steps))
        self._penalties = np.zeros(epochs) if self._penalty else None

    def _order(self, epochs: int) -> NDArray[np.integer[Any]]:
        """Rows of the next epochs, one below the other."""
        n, rows = self._data.count, self._data.rows
        order: NDArray[np.integer[Any]]
        if self._shuffle and self._steps > 1:  # of a sum over all rows any order is as good, and this one reads memory in order
            order = core.permutations(n, self.trainer.seed, self.trainer.epoch, epochs)
        else:
            order = np.tile(np.arange(n, dtype=np.int32 if n < 1 << 31 else np.int64), (epochs, 1))
        return order if rows is None else rows[order]

    def one_epoch(self) -> float:
        """Train on all data once and return the mean loss."""
        order, rates = self._order(1), self.trainer._rates.block(self.trainer._native.micro_steps, self._steps)
        self._lap("order")
        run = self._native_steps if self._native else self._python_steps
        done = 0
        while done < self._steps:
            stop = min(done + self._pace.steps, self._steps)
            start = time.perf_counter()
            count = run(order, rates, done, stop)
            self._pace.saw(stop - done, time.perf_counter() - start)
            if count < stop - done:
                raise self.not_finite(float(self._losses[0, done + count]))
            if self.bar is not None:
                self.bar.update(min(stop * self._batch, self._data.count) - done * self._batch)
            done = stop
        self.rate = float(rates[-1])
        self._remember(order)
        self._flush()
        return core.weighted_means(self._losses[:1], self._weights[:1])[0]

    def at_once(self, most: int) -> int:
        """As many as make a piece, when nobody looks between them: Python then costs an epoch of few rows no more than its steps."""
        if not (self._joins and self._pace.measured) or self._data.unseen:
            return 1
        return max(1, min(most, self._pace.steps // self._steps, MOST_EPOCHS, MOST_ROWS // self._data.count))

    def _epoch(self, start: float, history: History, snapshot: Snapshot) -> None:
        """One epoch; the first one may have to look at the data too."""
        try:
            super()._epoch(start, history, snapshot)
        except BrokenRowsError:
            snapshot.restore()
            self.trainer.history.message = self._message
        except BaseException:
            if self._data.unseen and not snapshot.finite():
                snapshot.restore()
            raise
        else:
            self._data.unseen = False
            return
        self._data.refuse(self.trainer.network.dtype)

    def epochs(self, count: int, start: float, history: History, snapshot: Snapshot) -> None:
        """Train and record them; where one of them fails, nothing, and from then on they are run one by one, to the same end."""
        trainer, steps = self.trainer, self._steps
        epoch, first = trainer.epoch, trainer._native.micro_steps
        try:
            rates = trainer._rates.block(first, count * steps)
        except (ValueError, ArithmeticError, Warning):
            rates = np.full(1, np.nan)
        fixed = trainer._rates.fixed  # of all steps, when it is a number
        if not (bool((rates <= self._largest).all()) if fixed is None else fixed <= self._largest):
            self._joins = False  # the epoch whose rates fail will say so
            return
        try:
            order = self._order(count)
            self._lap("order")
            if len(self._losses) < count:
                self._reserve(count)
            begin = time.perf_counter()
            trainer._under_way = lambda: self._ended(first, start, rates)
            done = self._native_steps(order, rates, 0, count * steps)
            self._pace.saw(count * steps, time.perf_counter() - begin)
            self._lap("python")
            self._remember(order)
            rows = self._rows(count, rates) if done == count * steps else []
            finite = bool(rows) and not self._wrong(snapshot, rows[-1]["loss"])
            self._lap("snapshot")
            if finite:
                self._record(rows, time.perf_counter() - start, history)
            else:
                snapshot.restore()
        except BaseException:  # Ctrl-C, or what another signal handler raised, comes when the native steps are done
            if not snapshot.finite():
                snapshot.restore()
            elif trainer.epoch == epoch:
                self._record(*self._ended(first, start, rates), history)
            raise
        finally:
            trainer._under_way = None
        if not finite:
            self._joins = False
        elif self.bar is not None:
            self.bar.epoch(trainer.epoch - 1)
            self.bar.update(count * self._data.count)

    def _ended(self, first: int, start: float, rates: NDArray[np.float64]) -> tuple[list[dict[str, Any]], float]:
        """Rows of the epochs that have ended, of a run that began after so many micro-batches, and the seconds since its start."""
        return self._rows((self.trainer._native.micro_steps - first) // self._steps, rates), time.perf_counter() - start

    def _rows(self, epochs: int, rates: NDArray[np.float64]) -> list[dict[str, Any]]:
        losses = core.weighted_means(self._losses[:epochs], self._weights[:epochs])
        ends = rates[self._steps - 1 : epochs * self._steps : self._steps].tolist()
        rows: list[dict[str, Any]] = []
        for epoch, (loss, rate) in enumerate(zip(losses, ends, strict=True), self.trainer.epoch):
            row = {"epoch": epoch, "loss": loss}
            if self._penalties is not None:
                row["penalty"] = float(self._penalties[len(rows)])
            row["learning_rate"] = self.rate = rate
            rows.append(row)
        return rows

    def _native_steps(self, order: NDArray[Any], rates: NDArray[np.float64], first: int, stop: int) -> int:
        d, epochs = self._data, len(order)
        penalties = None if self._penalties is None or epochs == 1 else self._penalties[:epochs]
        losses, weights = self._losses[:epochs], self._weights[:epochs]
        most = math.inf if epochs == 1 else SUSPECT * self._largest  # alone, an epoch that breaks the weights is seen when it ends
        with self.trainer._turn:
            count = self.trainer._native.run_steps(
                d.x, d.y, d.weight, order, self._batch, rates, losses, weights, first, stop, d.count, penalties, most, d.unseen
            )
        if count < 0:
            raise BrokenRowsError
        return count

    def _python_steps(self, order: NDArray[Any], rates: NDArray[np.float64], first: int, stop: int) -> int:
        d = self._data
        for step in range(first, stop):
            rows = order[0, step * self._batch : (step + 1) * self._batch]
            value = self.trainer._update(d.x[rows], d.y[rows], None, float(rates[step]))
            self._losses[0, step], self._weights[0, step] = value, len(rows)
            if not math.isfinite(value):
                return step - first
        return stop - first
