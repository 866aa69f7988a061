"""Figures of merit on NumPy arrays, all with optional sample weights: one per row, finite, not negative and not all zero.

`Trainer` takes them by name, or any callable `(target, prediction) -> float`, to which it gives `sample_weight=` when it has a parameter of
that name. Each has an attribute `needs` that says what it reads: "labels", "values", "probabilities" or "scores" (raw outputs); without
one a callable gets what `predict` gives. `functools.partial(fo.metrics.top_k, k=2)` is another k. A shape, a label or a weight that does
not fit raises ValueError, what holds no numbers TypeError.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _specs, _validate

__all__ = ["accuracy", "auc", "balanced_accuracy", "get", "larger_is_better", "log_loss", "mae", "mse", "names", "r2", "rmse", "top_k"]

Metric: TypeAlias = Callable[..., float]
F = TypeVar("F", bound=Metric)
_TABLE: dict[str, Metric] = {}
_OF_EVERY_FIT = ("epoch", "loss", "penalty", "learning_rate", "damping")
_READ = ("labels", "values", "probabilities", "scores")
_ROUNDING = 1e-3  # by which probabilities may leave [0, 1], as their sums may leave 1


def _metric(needs: str, *, larger_is_better: bool) -> Callable[[F], F]:
    def register(function: F) -> F:
        function.needs = needs  # type: ignore[attr-defined]
        function.larger_is_better = larger_is_better  # type: ignore[attr-defined]
        _TABLE[function.__name__] = function
        return function

    return register


def names() -> list[str]:
    """Names of all metrics."""
    return list(_TABLE)


def get(metric: str | Metric) -> Metric:
    """A metric as given, or by its name.

    Raises
    ------
    ValueError
        For an unknown name; the text lists the known ones.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.get("accuracy").__name__
    'accuracy'
    """
    if isinstance(metric, str):
        found = _TABLE.get(metric)
        if found is None:
            raise ValueError(_specs.unknown("metric", metric, _TABLE))
        return found
    if not callable(metric):
        raise TypeError(f"a metric must be a name or a callable (target, prediction) -> float; got {metric!r}")
    needs = needs_of(metric)
    if needs is not None and needs not in _READ:
        raise ValueError(f"metric {name_of(metric)!r} has needs={needs!r}; it must be one of {', '.join(map(repr, _READ))}")
    return metric


def _inner(metric: Metric) -> Metric:
    """What a `functools.partial` calls."""
    return _inner(metric.func) if isinstance(metric, functools.partial) else metric


def name_of(metric: Metric) -> str:
    """Of a callable, as its column is called."""
    inner = _inner(metric)
    return str(getattr(inner, "__name__", type(inner).__name__))


def needs_of(metric: Metric) -> str | None:
    """What a callable reads; None: what `predict` gives."""
    needs: str | None = getattr(metric, "needs", getattr(_inner(metric), "needs", None))
    return needs


def takes_weights(metric: Metric) -> bool | None:
    """Whether a callable can be given sample_weight by name; None when it has some already."""
    if isinstance(metric, functools.partial) and "sample_weight" in metric.keywords:
        return None
    try:
        parameters = inspect.signature(metric, follow_wrapped=False).parameters
        if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):  # a decorator that passes on what it is given
            parameters = inspect.signature(metric).parameters
    except (TypeError, ValueError):  # some that are written in C
        return False
    found = parameters.get("sample_weight")
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def larger_is_better(column: str) -> bool | None:
    """Whether larger values of a column of a history are better; None when nobody said so.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.larger_is_better("val_accuracy"), fo.metrics.larger_is_better("val_loss")
    (True, False)
    """
    name = str(column).removeprefix("val_")
    if name in _OF_EVERY_FIT:
        return False
    return getattr(_TABLE.get(name), "larger_is_better", None)


def _pair(target: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as they are, one column as (rows,), when their shapes agree."""
    y, p = (a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for a in (target, prediction))
    if y.shape != p.shape:
        raise ValueError(f"target and prediction must have the same shape; got {target.shape} and {prediction.shape}")
    if y.ndim == 0 or y.size == 0:
        raise ValueError(f"target must have at least one row; got shape {target.shape}")
    return y, p


def _values(target: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    return _pair(_validate.numeric(target, "target"), _validate.numeric(prediction, "prediction"))


def _labels(target: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    _validate.refuse_mask(target, "target")
    _validate.refuse_mask(prediction, "prediction")
    y, p = _pair(np.asarray(target), np.asarray(prediction))
    for labels, name in ((y, "target"), (p, "prediction")):
        if labels.dtype.kind == "f":
            _refuse(~np.isfinite(labels) | (labels != np.floor(labels)), labels, f"{name} must hold labels")
    if {_kind(y, "target"), _kind(p, "prediction")} == {"text", "number"}:
        raise TypeError(f"target and prediction must both hold text or both numbers; got dtypes {y.dtype} and {p.dtype}")
    return y, p


def _kind(labels: NDArray[Any], name: str) -> str:
    """Text, number or something else; of objects, as pandas keeps text, all must be one or the other."""
    if labels.dtype.kind != "O":
        return "text" if labels.dtype.kind in "US" else "number" if labels.dtype.kind in "fiub" else "other"
    known = ((str, "text"), (numbers.Real, "number"))
    kinds = {next((kind for of, kind in known if isinstance(label, of)), type(label).__name__) for label in labels.flat}
    if len(kinds) > 1:
        raise TypeError(f"{name} holds labels of several kinds: {', '.join(sorted(kinds))}")
    return kinds.pop()


def _refuse(wrong: NDArray[np.bool_], array: NDArray[Any], expected: str) -> None:
    """Raise ValueError for the first element that is wrong."""
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"{expected}; got {array[where]} at row {where[0]}{''.join(f', column {i}' for i in where[1:])}")


def _weights(sample_weight: ArrayLike | None, rows: int) -> NDArray[np.float64]:
    return np.ones(rows) if sample_weight is None else _validate.sample_weight(sample_weight, rows, np.dtype(np.float64))


def _mean(rows: NDArray[Any], sample_weight: ArrayLike | None) -> float:
    """Mean over rows, columns averaged with equal weight."""
    if sample_weight is None:
        return float(np.mean(rows, dtype=np.float64))
    w = _weights(sample_weight, len(rows))
    flat = rows.reshape(len(rows), -1).mean(axis=1, dtype=np.float64)
    return float(flat @ w / w.sum())


def _own(target: ArrayLike, table: NDArray[Any], name: str) -> NDArray[Any]:
    """Of each row of (rows, classes) the column of its class."""
    y = np.asarray(target)
    if table.ndim != 2 or y.shape not in (table.shape[:1], (len(table), 1)):
        raise ValueError(f"target must have shape (rows,) and {name} (rows, classes); got {y.shape} and {table.shape}")
    picked: NDArray[Any] = table[np.arange(len(table)), _validate.labels(y, table.shape[1], "target")]
    return picked


def _shares(target: ArrayLike, table: NDArray[Any]) -> NDArray[Any] | None:
    """Shares of the classes, (rows, classes) like the probabilities; None when the target holds class indices."""
    if np.ndim(target) != 2 or np.shape(target) != table.shape:
        return None
    y = _validate.numeric(target, "target")
    _validate.check_finite(y, "target")
    _refuse((y < 0) | (y > 1), y, "target must lie in [0, 1]")
    _validate.check_probabilities(y, "target")
    return y


@_metric("labels", larger_is_better=True)
def accuracy(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Share of labels that are right.

    Parameters
    ----------
    target, prediction : array_like
        Labels `(n,)`, or `(n, labels)` for multi-label problems.
    sample_weight : array_like, optional
        `(n,)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.accuracy([0, 1, 2, 2], [0, 1, 2, 1])
    0.75
    """
    y, p = _labels(target, prediction)
    return _mean(y == p, sample_weight)


@_metric("labels", larger_is_better=True)
def balanced_accuracy(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean over the classes in `target` of the share that is right.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    y, p = _labels(target, prediction)
    if y.ndim != 1:
        raise ValueError(f"target must have shape (rows,); got {y.shape}")
    w = _weights(sample_weight, len(y))
    _, codes = np.unique(y, return_inverse=True)
    total = np.bincount(codes, weights=w)
    right = np.bincount(codes, weights=w * (y == p))
    return float(np.mean(right[total > 0] / total[total > 0]))


@_metric("scores", larger_is_better=True)
def top_k(target: ArrayLike, scores: ArrayLike, sample_weight: ArrayLike | None = None, *, k: int = 5) -> float:
    """Share of rows whose class is among the k largest scores; ties count as right only when fewer than k scores are larger.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.top_k([0, 2], [[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]], k=2)
    0.5
    """
    count, s = _validate.positive_int(k, "k"), _validate.numeric(scores, "scores")
    own = _own(target, s, "scores")
    if np.isnan(s.max()):
        _refuse(np.isnan(s), s, "scores must not hold NaN")
    return _mean((s > own[:, None]).sum(axis=1) < count, sample_weight)


@_metric("scores", larger_is_better=True)
def auc(target: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve of a binary problem: P(score of a positive > score of a negative), ties count half.

    Parameters
    ----------
    target : array_like
        0 and 1, or -1 and 1, `(n,)`.
    score : array_like
        `(n,)`, or `(n, 2)` whose difference is taken.
    sample_weight : array_like, optional
        `(n,)`.

    Raises
    ------
    ValueError
        When only one class is present, or a score is NaN.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    s = _validate.numeric(score, "score").astype(np.float64)
    if s.ndim == 2 and s.shape[1] == 2:
        with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which is refused below
            s = s[:, 1] - s[:, 0]
    if s.ndim == 2 and s.shape[1] > 2:
        raise ValueError(f"auc is for two classes; got scores of {s.shape[1]}: take 'accuracy', or auc of one column after the other")
    y, s = _values(target, s)
    if y.ndim != 1:
        raise ValueError(f"target must have shape (rows,); got {y.shape}")
    low = -1 if (y == -1).any() else 0
    _refuse((y != low) & (y != 1), y, f"target must hold {low} and 1")
    _refuse(np.isnan(s), s, "score must not hold NaN")
    w = _weights(sample_weight, len(y))
    positive = y > 0
    _, codes = np.unique(s, return_inverse=True)
    up, down = np.bincount(codes, weights=w * positive), np.bincount(codes, weights=w * ~positive)
    if up.sum() == 0.0 or down.sum() == 0.0:
        raise ValueError("auc needs both classes in target; got only one")
    below = np.cumsum(down) - down
    return float(np.sum(up * (below + 0.5 * down)) / (up.sum() * down.sum()))


@_metric("probabilities", larger_is_better=False)
def log_loss(target: ArrayLike, probability: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean of `-log p` of the right class, or of `-sum_k y_k log p_k`; probabilities are kept away from 0 by the smallest float64 step.

    Parameters
    ----------
    target : array_like
        Class indices `(n,)`, or shares of the classes: `(n, classes)` with rows that sum to 1.
    probability : array_like
        `(n, classes)` with rows that sum to 1, or `(n,)` of class 1.
    sample_weight : array_like, optional
        `(n,)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> round(fo.metrics.log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 6)
    0.693147
    """
    p = _validate.numeric(probability, "probability").astype(np.float64, copy=False)
    if p.ndim == 2 and p.shape[1] == 1:
        p = p[:, 0]
    table = np.stack([1.0 - p, p], axis=1) if p.ndim == 1 else p
    shares = _shares(target, table)
    own = _own(target, table, "probability") if shares is None else table
    if not (p.min() >= -_ROUNDING and p.max() <= 1.0 + _ROUNDING):  # also for NaN
        _validate.check_finite(p, "probability")
        _refuse((p < -_ROUNDING) | (p > 1.0 + _ROUNDING), p, "probability must lie in [0, 1]")
    if np.abs(table @ np.ones(table.shape[1]) - 1.0).max() > _ROUNDING:
        _validate.check_probabilities(table, "probability")
    cost = -np.log(np.clip(own, np.finfo(np.float64).eps, 1.0))
    return _mean(cost if shares is None else np.sum(shares * cost, axis=1), sample_weight)


@_metric("values", larger_is_better=False)
def mae(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean absolute error.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.mae([1.0, 2.0], [1.0, 4.0])
    1.0
    """
    y, p = _values(target, prediction)
    return _mean(np.abs(np.subtract(y, p, dtype=np.float64)), sample_weight)


@_metric("values", larger_is_better=False)
def mse(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean squared error.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.mse([1.0, 2.0], [1.0, 4.0])
    2.0
    """
    y, p = _values(target, prediction)
    return _mean(np.square(np.subtract(y, p, dtype=np.float64)), sample_weight)


@_metric("values", larger_is_better=False)
def rmse(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Root of the mean squared error.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.rmse([1.0, 2.0], [1.0, 2.0])
    0.0
    """
    return float(np.sqrt(mse(target, prediction, sample_weight)))


@_metric("values", larger_is_better=True)
def r2(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """`1 - sum w (y - p)^2 / sum w (y - mean y)^2`, mean over columns; a constant column gives 1 if met exactly, else 0.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.r2([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    y, p = _values(target, prediction)
    y, p = y.reshape(len(y), -1).astype(np.float64), p.reshape(len(p), -1).astype(np.float64)
    w = _weights(sample_weight, len(y))[:, None]
    residual = np.sum(w * (y - p) ** 2, axis=0)
    spread = np.sum(w * (y - np.sum(w * y, axis=0) / np.sum(w)) ** 2, axis=0)
    counted = y if sample_weight is None else y[w[:, 0] > 0.0]
    constant = (counted.min(axis=0) == counted.max(axis=0)) | (spread == 0.0)  # the spread of equal values need not round to 0
    met = np.where(residual == 0.0, 1.0, np.where(np.isnan(residual), np.nan, 0.0))
    return float(np.mean(np.where(constant, met, 1.0 - residual / np.where(constant, 1.0, spread))))
