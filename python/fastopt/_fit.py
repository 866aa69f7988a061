"""What `Trainer.fit` does: its arguments checked, and the epochs that they ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt import _prepare, _progress, _specs, _validate
from fastopt._array_epochs import ArrayEpochs, pace_of
from fastopt._backend import core
from fastopt._callback import as_callbacks, check_monitors
from fastopt._epochs import LOOKED_AT, Epochs
from fastopt._evaluate import Evaluator, metric_table

if TYPE_CHECKING:
    from fastopt.training import Trainer

PROBE_ROWS = 256


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
