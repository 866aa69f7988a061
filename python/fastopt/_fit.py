"""The loop of `Trainer.fit`: epochs of native runs, cut into pieces short enough for Ctrl-C and the progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _links, _prepare, _progress, _specs, _validate
from fastopt._backend import core
from fastopt._callback import Callback, as_callbacks, check_monitors
from fastopt._evaluate import Evaluator, metric_table
from fastopt._native import native_loss
from fastopt._snapshot import Snapshot
from fastopt.errors import NonFiniteLossError
from fastopt.history import History
from fastopt.losses import Loss

if TYPE_CHECKING:
    from fastopt.training import Trainer

PIECE_SECONDS = 0.05  # of native work between two looks at Ctrl-C; the promise is 0.1
MOST_EPOCHS = 1024  # in one native run: Python has to write down each,
MOST_ROWS = 1 << 20  # and their order is in memory
PROBE_ROWS = 256
ASSUMED_FLOPS = 2e10  # before the first measurement
STEEP = ("exp", "gaussian")  # links under which modest outputs may already overflow
SUSPECT = 1e-10  # of the largest number: where a loss of one batch is larger, that of another may be infinite
LOOKED_AT = 1024  # rows at most, when an epoch may have ended badly
GROWN, JUMPED, RISEN = 8.0, 10.0, 3.0  # weights, a loss over its epoch's mean, and this over the one before: it may have ended badly


class BrokenRowsError(Exception):
    """Raised by the native steps of an epoch that met a row of X that is not finite."""


class FinishedError(Exception):
    """Raised by `Epochs.one_epoch` when there is nothing more to do; the text says why."""


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


class StreamEpochs(Epochs):
    """Epochs over an iterable of batches."""

    stream: _prepare.Stream

    def one_epoch(self) -> float:
        """Train on all batches once and return the mean loss."""
        trainer, losses, weights = self.trainer, [], []
        for x, y, weight in self.stream:
            batch = x, y, weight
            self.rate = trainer.learning_rate
            value = trainer._update(x, y, weight, self.rate)
            if not math.isfinite(value):
                raise self.not_finite(value)
            losses.append(value)
            weights.append(float(len(x)) if weight is None else float(weight.sum(dtype=np.float64)))
            if self.bar is not None:
                self.bar.update(len(x))
        x, y, weight = batch
        part = x[:LOOKED_AT], y[:LOOKED_AT], None if weight is None else weight[:LOOKED_AT]
        self._last_loss, self._last = losses[-1], lambda: part
        self._flush()
        return core.weighted_means(np.asarray([losses]), np.asarray([weights]))[0]


def _solver_fit() -> Any:
    """Imported only when a solver trains."""
    from fastopt import _solver_fit

    return _solver_fit


def plan(
    trainer: Trainer,
    X: Any,
    y: Any,
    *,
    epochs: int,
    batch_size: int | None,
    validation: Any,
    sample_weight: Any,
    class_weight: Any,
    shuffle: bool,
    metrics: Iterable[Any],
    callbacks: Iterable[Any],
    progress: bool | None,
) -> Epochs:
    """Check every argument of a fit before anything is changed."""
    count = _validate.positive_int(epochs, "epochs")
    size = None if batch_size is None else _validate.positive_int(batch_size, "batch_size")
    table = metric_table(metrics)
    hooks = as_callbacks(callbacks)
    bar = _progress.wanted(progress)
    shuffled = _specs.check_flag("shuffle", shuffle)
    if trainer._memory is not None:
        _solver_fit().refuse_batches(trainer, X, y, size)
    for hook in hooks:
        if getattr(hook, "needs_rates", False):
            trainer._needs_rates(type(hook).__name__)
    if y is None:
        if hasattr(X, "__array__") or not (callable(X) or isinstance(X, Iterable)):
            raise TypeError(f"y is missing: give X and y, or an iterable of (x, y) batches; got X of type {type(X).__name__} alone")
        if sample_weight is not None or class_weight is not None:
            raise ValueError("sample_weight and class_weight need arrays; with an iterable give (x, y, sample_weight) batches")
        checked = _prepare.validation_set(trainer, None, validation, table)
        if table and checked is None:
            raise ValueError("metrics need validation=(X, y) when the training data is an iterable of batches")
        _prepare.adapt(trainer, None)
        stream = StreamEpochs(trainer, count, checked, None, hooks, bar)
        check_monitors(hooks, stream.columns(table))
        stream.stream = _prepare.Stream(trainer, X)
        return stream
    unseen = (
        trainer._memory is None
        and not hooks
        and _prepare.may_look_later(trainer, X, validation, lambda n: pace_of(trainer, size or n).of(n))
    )
    train = _prepare.arrays(trainer, X, y, sample_weight, unseen=unseen)
    checked = _prepare.validation_set(trainer, train, validation, table)
    _prepare.class_weights(trainer, train, class_weight)
    training = None
    if table and checked is None:
        training = Evaluator(trainer.network, trainer.loss, train.x, train.y, train.weight, table, stacklevel=4)
    if trainer._memory is not None:
        solving = _solver_fit().SolverEpochs(trainer, count, checked, training, hooks, bar)
        solving.prepare(train, trainer._memory)
        epochs_of: Epochs = solving
        _solver_fit().warn_of_kinks(trainer)
    else:
        arrays = ArrayEpochs(trainer, count, checked, training, hooks, bar)
        arrays.prepare(train, min(size or train.count, train.count), shuffled)
        epochs_of = arrays
    check_monitors(hooks, epochs_of.columns(table))
    epochs_of.adapted = _prepare.adapt(trainer, train)
    if hooks:
        probe = np.arange(min(PROBE_ROWS, train.count)) if train.rows is None else train.rows[:PROBE_ROWS]
        trainer._probe = (train.x[probe], train.y[probe])
    return epochs_of
