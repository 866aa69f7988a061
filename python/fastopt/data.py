"""Splitting and batching of arrays; all of it a function of the seed only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _specs, _validate
from fastopt._backend import core

__all__ = ["Split", "batches", "split"]

_SPLIT_STREAM = 2**32 - 1  # an epoch number that no training reaches, so that splits and shuffles are independent
_CLASS_STREAM = 2**32 - 2


class Split(NamedTuple):
    """Three pairs (X, y)."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]


def split(X: Any, y: Any, *, validation: float = 0.1, test: float = 0.1, stratify: bool = True, seed: int = 0) -> Split:
    """Split rows into training, validation and test parts without overlap.

    Parameters
    ----------
    X, y : array_like or frame
        As many rows each.
    validation, test : float
        Shares of the rows, in [0, 1), together below 1; 0 gives an empty part.
    stratify : bool
        Keep the shares of the classes when y holds class labels (integers, also as floats, bools, text).
    seed : int
        Of the random choice, from 0 to 2**63 - 1.

    Returns
    -------
    Split
        `(X, y)` of train, validation and test.

    Raises
    ------
    ValueError
        For shares that do not fit, or X and y of different length.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> train, validation, test = fo.data.split(np.zeros((100, 3)), np.arange(100) % 2, seed=1)
    >>> len(train[1]), len(validation[1]), int(test[1].sum())
    (80, 10, 5)
    """
    for name, given in (("X", X), ("y", y)):
        if not hasattr(given, "__len__") or isinstance(given, str):
            raise TypeError(f"{name} must be an array or a frame with rows; got {type(given).__name__}")
    n = len(X)
    if len(y) != n:
        raise ValueError(f"X and y must have the same number of rows; got {n} and {len(y)}")
    for name, share in (("validation", validation), ("test", test)):
        _specs.check_number(name, share, low=0.0, high=1.0, low_open=False, high_open=True)
    if validation + test >= 1.0:
        raise ValueError(f"validation and test must leave rows to train on; got {validation} and {test}")
    seed = _specs.check_seed(seed)
    tested, checked_on = round(n * test), round(n * validation)
    if tested + checked_on >= n:
        raise ValueError(f"validation and test must leave rows to train on; got {validation} and {test} of {n} rows")
    classes = class_codes(np.asarray(y)) if _specs.check_flag("stratify", stratify) else None
    rest, held_out = hold_out(n, tested, classes, seed)
    inner = None if classes is None else classes[rest]
    keep, checked = hold_out(len(rest), checked_on, inner, seed)
    parts = [(_rows(X, i), _rows(y, i)) for i in (rest[keep], rest[checked], held_out)]
    return Split(*parts)


def class_codes(y: NDArray[Any]) -> NDArray[np.int64] | None:
    """Codes 0..K-1 of class labels, None when y does not look like labels."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or (y.dtype.kind == "f" and not bool((y == np.floor(y)).all())):
        return None
    if y.dtype == object:
        y = y.astype(str)
    return np.unique(y, return_inverse=True)[1].astype(np.int64)


def hold_out(n: int, count: int, classes: NDArray[np.int64] | None, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices of the rows that stay and of `count` rows that are held out, with the classes' shares when given."""
    order = core.permutation(n, seed, _SPLIT_STREAM)
    chosen = np.zeros(n, dtype=bool)
    if classes is None or n == 0:
        chosen[order[:count]] = True
    else:
        sizes = np.bincount(classes)
        share = sizes * (count / n)
        take = np.floor(share).astype(np.int64)
        left = count - int(take.sum())
        shuffled = core.permutation(len(sizes), seed, _CLASS_STREAM)  # so that equal remainders do not favour the first classes
        take[shuffled[np.argsort((take - share)[shuffled], kind="stable")[:left]]] += 1
        grouped = order[np.argsort(classes[order], kind="stable")]
        rank = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen[grouped[rank < take[classes[grouped]]]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _rows(x: Any, index: NDArray[np.int64]) -> Any:
    if hasattr(x, "iloc"):
        return x.iloc[index]
    return (x if isinstance(x, np.ndarray) else np.asarray(x))[index]


def batches(
    X: ArrayLike, y: ArrayLike, *, batch_size: int = 32, shuffle: bool = True, seed: int = 0, epoch: int = 0
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs (x, y) that go once through the data, the last one short; the order that `Trainer.fit` takes in this epoch.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> [len(x) for x, y in fo.data.batches(np.zeros((10, 2)), np.zeros(10), batch_size=4)]
    [4, 4, 2]
    """
    _validate.refuse_mask(X, "X")
    _validate.refuse_mask(y, "y")
    a, b = np.asarray(X), np.asarray(y)
    for name, given in (("X", a), ("y", b)):
        if given.ndim == 0:
            raise TypeError(f"{name} must be an array with rows; got {given.item()!r}")
    _validate.same_rows(a, b, "X", "y")
    size = _validate.positive_int(batch_size, "batch_size")
    seed, epoch = _specs.check_seed(seed), _specs.check_seed(epoch, "epoch")
    order = core.permutation(len(a), seed, epoch) if _specs.check_flag("shuffle", shuffle) else np.arange(len(a))
    return ((a[rows], b[rows]) for rows in (order[start : start + size] for start in range(0, len(a), size)))
