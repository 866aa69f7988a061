"""Figures of merit on NumPy arrays, all with optional sample weights.

`Trainer` takes them by name, or any callable `(target, prediction) -> float`. Each has an attribute `needs` that says what it reads:
"labels", "values", "probabilities" or "scores" (raw outputs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["accuracy", "auc", "balanced_accuracy", "get", "log_loss", "mae", "mse", "names", "r2", "rmse", "top_k"]

Metric: TypeAlias = Callable[..., float]
F = TypeVar("F", bound=Metric)
_TABLE: dict[str, Metric] = {}


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
            raise ValueError(f"metric {metric!r} is not known; known are: {', '.join(_TABLE)}")
        return found
    if not callable(metric):
        raise TypeError(f"a metric must be a name or a callable (target, prediction) -> float; got {metric!r}")
    return metric


def _pair(target: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    y, p = np.asarray(target), np.asarray(prediction)
    if y.ndim == 2 and y.shape[1] == 1 and p.ndim == 1:
        y = y[:, 0]
    if p.ndim == 2 and p.shape[1] == 1 and y.ndim == 1:
        p = p[:, 0]
    if y.shape != p.shape:
        raise ValueError(f"target and prediction must have the same shape; got {y.shape} and {p.shape}")
    if len(y) == 0:
        raise ValueError(f"target must have at least one row; got shape {y.shape}")
    return y, p


def _mean(rows: NDArray[Any], sample_weight: ArrayLike | None) -> float:
    """Mean over rows, columns averaged with equal weight."""
    if sample_weight is None:
        return float(np.mean(rows, dtype=np.float64))
    w = np.asarray(sample_weight, dtype=np.float64)
    if w.shape != (len(rows),):
        raise ValueError(f"sample_weight must have shape ({len(rows)},); got {w.shape}")
    flat = rows.reshape(len(rows), -1).mean(axis=1, dtype=np.float64)
    return float(flat @ w / w.sum())


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
    y, p = _pair(target, prediction)
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
    y, p = _pair(target, prediction)
    if y.ndim != 1:
        raise ValueError(f"target must have shape (rows,); got {y.shape}")
    w = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
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
    y, s = np.asarray(target), np.asarray(scores)
    if s.ndim != 2 or y.shape != s.shape[:1]:
        raise ValueError(f"target must have shape (rows,) and scores (rows, classes); got {y.shape} and {s.shape}")
    own = s[np.arange(len(y)), y.astype(np.int64)]
    return _mean((s > own[:, None]).sum(axis=1) < k, sample_weight)


@_metric("scores", larger_is_better=True)
def auc(target: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve of a binary problem: P(score of a positive > score of a negative), ties count half.

    Parameters
    ----------
    target : array_like
        0 and 1, `(n,)`.
    score : array_like
        `(n,)`, or `(n, 2)` whose difference is taken.
    sample_weight : array_like, optional
        `(n,)`.

    Raises
    ------
    ValueError
        When only one class is present.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    s = np.asarray(score, dtype=np.float64)
    if s.ndim == 2 and s.shape[1] == 2:
        s = s[:, 1] - s[:, 0]
    y, s = _pair(target, s)
    w = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    positive = y > 0
    _, codes = np.unique(s, return_inverse=True)
    up, down = np.bincount(codes, weights=w * positive), np.bincount(codes, weights=w * ~positive)
    if up.sum() == 0.0 or down.sum() == 0.0:
        raise ValueError("auc needs both classes in target; got only one")
    below = np.cumsum(down) - down
    return float(np.sum(up * (below + 0.5 * down)) / (up.sum() * down.sum()))


@_metric("probabilities", larger_is_better=False)
def log_loss(target: ArrayLike, probability: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean of `-log p` of the right class; probabilities are kept away from 0 by the smallest float64 step.

    Parameters
    ----------
    target : array_like
        Class indices `(n,)`.
    probability : array_like
        `(n, classes)`, or `(n,)` of class 1.
    sample_weight : array_like, optional
        `(n,)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> round(fo.metrics.log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 6)
    0.693147
    """
    y, p = np.asarray(target).astype(np.int64), np.asarray(probability, dtype=np.float64)
    if p.ndim == 1:
        p = np.stack([1.0 - p, p], axis=1)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise ValueError(f"target must have shape (rows,) and probability (rows, classes); got {y.shape} and {p.shape}")
    own = p[np.arange(len(y)), y]
    return _mean(-np.log(np.clip(own, np.finfo(np.float64).eps, 1.0)), sample_weight)


@_metric("values", larger_is_better=False)
def mae(target: ArrayLike, prediction: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean absolute error.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.mae([1.0, 2.0], [1.0, 4.0])
    1.0
    """
    y, p = _pair(target, prediction)
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
    y, p = _pair(target, prediction)
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
    y, p = _pair(target, prediction)
    y, p = y.reshape(len(y), -1).astype(np.float64), p.reshape(len(p), -1).astype(np.float64)
    w = np.ones((len(y), 1)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64).reshape(-1, 1)
    residual = np.sum(w * (y - p) ** 2, axis=0)
    spread = np.sum(w * (y - np.sum(w * y, axis=0) / np.sum(w)) ** 2, axis=0)
    ratio = np.where(spread > 0.0, 1.0 - residual / np.where(spread > 0.0, spread, 1.0), np.where(residual == 0.0, 1.0, 0.0))
    return float(np.mean(ratio))
