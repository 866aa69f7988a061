"""The data of a fit, checked once: arrays for the native gather, validation, weights, batches of an iterable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastopt import _evaluate, _links, _specs, _validate, data
from fastopt._evaluate import Evaluator
from fastopt.losses import Loss

if TYPE_CHECKING:
    from fastopt.metrics import Metric
    from fastopt.training import Trainer

LOOK_LATER_BYTES = 1 << 20  # of X: reading less is no saving,
LOOK_LATER_ROW_BYTES = 512  # nor is it where rows are so short that looking at each takes as long,
LOOK_LATER_SECONDS = 1.0  # and an error should not come later

Array = NDArray[Any]
Batch = tuple[Array, Array, Array | None]


@dataclass
class ArrayData:
    """Training rows in arrays; `rows` are the indices to train on, None for all of them."""

    x: Array
    y: Array
    weight: Array | None
    rows: NDArray[np.int64] | None
    unseen: bool = False  # whether x is finite is found out while the first epoch copies its rows

    @property
    def count(self) -> int:
        """Rows to train on."""
        return len(self.x) if self.rows is None else len(self.rows)

    def refuse(self, dtype: np.dtype[Any]) -> NoReturn:
        """Raise for a row that the first epoch has met."""
        _validate.check_finite(self.x, "X", dtype)
        raise ValueError("X must be finite; a row was not, and has changed since it was trained on")


def arrays(trainer: Trainer, X: Any, y: Any, sample_weight: Any, *, unseen: bool = False) -> ArrayData:
    """Check the arrays of a fit; with `unseen`, not yet whether X is finite."""
    net, loss = trainer.network, trainer.loss
    x = _validate.features(X, net.inputs, net.dtype, "X", finite=not unseen)
    target = _evaluate.target_of(loss, net.outputs, y, net.dtype, "y")
    _validate.same_rows(x, target, "X", "y")
    weight = None
    if sample_weight is not None:
        refuse_weights(loss)
        weight = _validate.sample_weight(sample_weight, len(x), net.dtype)
    return ArrayData(x, target, weight, None, unseen)


def may_look_later(trainer: Trainer, X: Any, validation: Any, epoch_seconds: Callable[[int], float]) -> bool:
    """Whether the first epoch may look at X as it copies the rows, instead of all being read once more before it.

    It must be short, and nothing else may read X before it ends: no statistics of `Standardize`, no rows held out.
    """
    return (
        isinstance(X, np.ndarray)
        and X.nbytes >= LOOK_LATER_BYTES
        and X.ndim == 2
        and X.shape[1] * X.itemsize >= LOOK_LATER_ROW_BYTES
        and X.dtype in _validate.NATIVE_FLOATS
        and _validate.readable(X)
        and isinstance(trainer.loss, Loss)
        and (validation is None or isinstance(validation, tuple | list))
        and trainer.network._native.adapted()
        and epoch_seconds(len(X)) <= LOOK_LATER_SECONDS
    )


def refuse_weights(loss: Any) -> None:
    """Raise when a loss cannot read sample weights."""
    if not isinstance(loss, Loss):
        raise ValueError("sample_weight and class_weight need a loss of fastopt; the Python loss gets no weights")


def validation_set(trainer: Trainer, train: ArrayData | None, validation: Any, table: dict[str, Metric]) -> Evaluator | None:
    """The evaluator of the validation data; a share of the rows is taken out of `train`."""
    net, loss = trainer.network, trainer.loss
    if validation is None:
        return None
    if isinstance(validation, float | int | np.floating | np.integer) and not isinstance(validation, bool):
        if validation == 0:
            return None
        if train is None:
            raise ValueError("validation must be (X, y) when the training data is an iterable of batches; got a share")
        share = _specs.check_number("validation", validation, low=0.0, high=1.0, low_open=False, high_open=True)
        n = len(train.x)
        if n < 2:
            raise ValueError(f"validation: a share needs at least two rows; got {n}")
        count = min(max(1, round(share * n)), n - 1)
        codes = _strata(loss, train.y)
        train.rows, held_out = data.hold_out(n, count, codes, trainer.seed)
        if train.weight is not None:
            for name, part in (("held out", held_out), ("left to train on", train.rows)):
                if not train.weight[part].any():
                    raise ValueError(f"validation: all rows {name} have sample_weight 0; give validation=(X, y) with rows that count")
        return Evaluator(net, loss, train.x, train.y, train.weight, table, held_out, stacklevel=5)
    if not isinstance(validation, Sequence) or isinstance(validation, str) or len(validation) not in (2, 3):
        raise TypeError(f"validation must be a share of the rows, (X, y) or (X, y, sample_weight); got {type(validation).__name__}")
    x = _validate.features(validation[0], net.inputs, net.dtype, "validation X")
    y = _evaluate.target_of(loss, net.outputs, validation[1], net.dtype, "validation y")
    _validate.same_rows(x, y, "validation X", "validation y")
    weight = None
    if len(validation) == 3 and validation[2] is not None:
        refuse_weights(loss)
        weight = _validate.sample_weight(validation[2], len(x), net.dtype, "validation sample_weight")
    return Evaluator(net, loss, x, y, weight, table, stacklevel=5)


def _strata(loss: Any, y: Array) -> NDArray[np.int64] | None:
    if not _links.is_classifier(loss) or (y.ndim == 2 and y.shape[1] != 1):
        return None
    return data.class_codes(y)


def class_weights(trainer: Trainer, train: ArrayData, class_weight: Any) -> None:
    """Multiply the sample weights of training by those of the classes."""
    if class_weight is None:
        return
    loss = trainer.loss
    refuse_weights(loss)
    if not _links.is_classifier(loss) or (train.y.ndim == 2 and train.y.shape[1] != 1):
        name = _links.name_of(loss)
        raise ValueError(f"class_weight needs class labels, one per row; the loss is {name!r} and y has shape {train.y.shape}")
    flat = train.y.reshape(-1)
    used = flat if train.rows is None else flat[train.rows]
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight must be 'balanced' or a mapping of class to weight; got {class_weight!r}")
        present, counts = np.unique(used, return_counts=True)
        table = {value.item(): len(used) / (len(present) * count) for value, count in zip(present, counts.tolist(), strict=True)}
    elif isinstance(class_weight, Mapping):
        allowed = set(range(trainer.network.outputs)) if train.y.ndim == 1 else _classes_of_one_output(loss, flat)
        unknown = [key for key in class_weight if key not in allowed]
        if unknown:
            raise ValueError(f"class_weight has the key {unknown[0]!r}; the classes are {sorted(allowed)}")
        table = {
            key: _specs.check_number(f"class_weight[{key!r}]", w, low=0.0, high=np.inf, low_open=False, high_open=True)
            for key, w in class_weight.items()
        }
    else:
        raise TypeError(f"class_weight must be 'balanced' or a mapping of class to weight; got {type(class_weight).__name__}")
    factors = np.ones(len(flat), dtype=trainer.network.dtype)
    with np.errstate(over="ignore", under="ignore"):  # what is left of them is checked
        for key, w in table.items():
            factors[flat == key] = w
        weight = factors if train.weight is None else train.weight * factors
    counting = weight if train.rows is None else weight[train.rows]
    if not counting.any():
        raise ValueError("class_weight: the weights of all rows to train on are 0")
    name = "class_weight" if train.weight is None else "sample_weight times class_weight"
    _validate.sample_weight(counting, len(counting), trainer.network.dtype, name)
    train.weight = weight


def _classes_of_one_output(loss: Any, y: Array) -> set[float]:
    """0 and 1; -1 and 1 for a loss of signs, which reads both codings; and whatever y holds besides."""
    held = set(np.unique(y).tolist())
    if _links.link_of(loss, 1) != "sign":
        return {0, 1} | held
    return {low for low in (-1, 0) if -1 - low not in held} | {1} | held  # -1 rules 0 out and 0 rules -1 out


def adapt(trainer: Trainer, train: ArrayData | None, *, stacklevel: int = 4) -> bool:
    """Give a Standardize layer that still waits the statistics of the training rows; whether one waited. Warnings are of a call of fit."""
    net = trainer.network
    if net._native.adapted():
        return False
    if train is None:
        raise ValueError("the Standardize layer has not seen data yet; with an iterable of batches call network.adapt(x) first")
    net._take_statistics(lambda: _take(trainer, train), stacklevel + 1)
    return True


def _take(trainer: Trainer, train: ArrayData) -> None:
    native = trainer.network._native
    if train.rows is None:
        native.adapt(train.x)
    elif train.count * train.x.itemsize * train.x.shape[1] <= _evaluate.MATERIALIZE_BYTES:
        native.adapt(train.x[train.rows])
    else:
        _adapt_in_blocks(trainer, train.x, train.rows)


def forget_statistics(trainer: Trainer) -> None:
    """Make the Standardize layer wait again."""
    for part in ("mean", "variance", "count"):
        trainer.network.buffers[f"0.{part}"][...] = 0


def _adapt_in_blocks(trainer: Trainer, x: Array, rows: NDArray[np.int64]) -> None:
    """Mean and biased variance in float64, merged block by block (Chan, Golub and LeVeque 1979): the data may not fit in memory."""
    first = x[rows[0]].astype(np.float64)  # a constant column stays exactly constant
    count, mean, squares = 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for start in range(0, len(rows), _validate.BLOCK_ROWS):
        block = x[rows[start : start + _validate.BLOCK_ROWS]].astype(np.float64) - first
        own = block.mean(axis=0)
        delta, total = own - mean, count + len(block)
        squares += ((block - own) ** 2).sum(axis=0) + delta**2 * (count * len(block) / total)
        mean += delta * (len(block) / total)
        count = total
    variance = squares / count
    for j in np.flatnonzero(~(variance <= np.finfo(trainer.network.dtype).max)).tolist():  # NaN too
        raise ValueError(f"Standardize: the values of column {j} are too large (mean {first[j] + mean[j]:g}, variance {variance[j]:g})")
    buffers = trainer.network.buffers
    buffers["0.mean"][...] = first + mean
    buffers["0.variance"][...] = variance
    buffers["0.count"][...] = count


class Stream:
    """Batches from any iterable, or from a function that returns a fresh one for each epoch."""

    def __init__(self, trainer: Trainer, source: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self._trainer, self._source = trainer, source

    def __iter__(self) -> Iterator[Batch]:
        net, loss = self._trainer.network, self._trainer.loss
        empty = True
        for i, item in enumerate(self._source() if callable(self._source) else self._source):
            if not isinstance(item, tuple | list) or len(item) not in (2, 3):
                raise TypeError(f"batch {i} must be (x, y) or (x, y, sample_weight); got {type(item).__name__}")
            x = _validate.features(item[0], net.inputs, net.dtype, f"x of batch {i}")
            names = _validate.column_names(item[0])
            _validate.same_columns(self._trainer.columns, names, f"x of batch {i}")
            if self._trainer.columns is None:
                self._trainer.columns = names
            y = _evaluate.target_of(loss, net.outputs, item[1], net.dtype, f"y of batch {i}")
            _validate.same_rows(x, y, f"x of batch {i}", "y")
            weight = None
            if len(item) == 3 and item[2] is not None:
                refuse_weights(loss)
                weight = _validate.sample_weight(item[2], len(x), net.dtype, f"sample_weight of batch {i}")
            empty = False
            yield x, y, weight
        if empty:
            raise ValueError("X gave no batch; for several epochs give a list, or a function that returns a fresh iterator")
