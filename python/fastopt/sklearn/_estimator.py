"""What both estimators share: options, network, training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

import fastopt as fo

Array = NDArray[Any]
Spec = str | fo.optimizers.Optimizer | fo.solvers.Solver

READABLE = (np.float64, np.float32, np.int16, np.uint8)  # what training reads as it is; the first of them is for everything else
MOST_ROWS = 200  # of batch_size="auto"
NAMES = {"logistic": "sigmoid"}  # scikit-learn's names of activations that are called otherwise here


def weights(sample_weight: ArrayLike | None, X: Array) -> Array | None:
    """One per row, none below 0 and not all of them 0."""
    if sample_weight is None:
        return None
    found = np.asarray(sample_weight, dtype=np.float64)
    if found.shape != (len(X),):
        raise ValueError(f"sample_weight must have shape ({len(X)},); got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"sample_weight must be finite; got {found[~np.isfinite(found)][0]} at row {np.argmin(np.isfinite(found))}")
    if (found < 0).any():
        raise ValueError(f"sample_weight must not be negative; got {found.min()} at row {np.argmin(found)}")
    if not found.any():
        raise ValueError("sample_weight must contain at least one non-zero number")
    return found


def number(name: str, value: Any, high: float = np.inf) -> float:
    """At least 0 and finite, or inside (0, high)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {value!r}")
    found = float(value)
    if not (0.0 <= found < np.inf if high == np.inf else 0.0 < found < high):
        raise ValueError(f"{name} must {'be at least 0 and finite' if high == np.inf else f'lie in (0, {high:g})'}; got {value!r}")
    return found


def count(name: str, value: Any) -> int:
    """An integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value!r}")
    return int(value)


class Estimator(BaseEstimator):  # type: ignore[misc]
    """Options are attributes, as scikit-learn wants it; they are looked at in `fit`."""

    hidden_layer_sizes: Any
    activation: str
    solver: Spec
    alpha: float
    batch_size: Any
    learning_rate_init: Any
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: bool
    warm_start: bool
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    loss: Any
    batch_norm: bool
    dropout: float
    l1: float
    standardize: bool
    dtype: Any
    trainer_: fo.Trainer

    def _keep(self, given: dict[str, Any]) -> None:
        """The arguments of `__init__` as attributes, as they are."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def _table(self, X: ArrayLike, *, reset: bool = False) -> Array:
        table: Array = validate_data(self, X, dtype=READABLE, reset=reset)
        return table

    def _prepare(self, X: Array, outputs: int, loss: fo.losses.Loss, sample_weight: Array | None, *, part: bool, targets: int = 1) -> None:
        """A new trainer; the statistics of a Standardize layer are those of these rows, which may be a part of all."""
        alpha = number("alpha", self.alpha)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        sizes = self.hidden_layer_sizes
        if hasattr(sizes, "__next__"):
            raise TypeError("hidden_layer_sizes must be a sequence or a number; an iterator would be used up by the first fit")
        hidden = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else [sizes]
        network = fo.mlp(
            X.shape[1], hidden, outputs, activation=NAMES.get(self.activation, self.activation), batch_norm=self.batch_norm,
            dropout=self.dropout, standardize=self.standardize, dtype=self.dtype, seed=seed,
        )  # fmt: skip
        rows = self._batch(len(X)) * (1.0 if sample_weight is None else float(np.mean(sample_weight)))
        half = 1.0 if isinstance(loss, fo.losses.MeanSquaredError) else 0.5  # scikit-learn's squared error has a half, and its penalty
        l2 = half * alpha / (rows * targets)  # its losses sum over several targets, and ours are means
        self.trainer_ = fo.Trainer(network, loss, self._method(), l1=self.l1, l2=l2, seed=seed)
        if self.standardize and (part or (sample_weight is not None and not self.early_stopping)):
            mean, variance = moments(X, sample_weight)
            limit = np.finfo(network.dtype).max
            for j in np.flatnonzero(~((variance <= limit) & (np.abs(mean) <= limit))).tolist():
                raise ValueError(f"X: the values of column {j} are too large (mean {mean[j]:g}, variance {variance[j]:g})")
            if part:
                variance[variance == 0.0] = 1.0  # what is constant here may not stay so
            for name, value in (("mean", mean), ("variance", variance), ("count", len(X))):
                network.buffers[f"0.{name}"][...] = value

    def _full_batch(self) -> bool:
        return isinstance(self.solver, fo.solvers.Solver) or (isinstance(self.solver, str) and self.solver in fo.solvers.table())

    def _batch(self, rows: int) -> int:
        """Rows of a batch."""
        if self._full_batch() or self.batch_size is None:
            return rows
        if self.batch_size == "auto":
            return min(MOST_ROWS, rows)
        if not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise ValueError(f"batch_size must be 'auto', None or an integer of at least 1; got {self.batch_size!r}")
        return min(int(self.batch_size), rows)

    def _method(self) -> fo.optimizers.Optimizer | fo.solvers.Solver:
        if isinstance(self.solver, str) and self._full_batch():
            return fo.solvers.get(self.solver)
        if not isinstance(self.solver, str):
            return self.solver
        rule: Any = fo.optimizers.table().get(self.solver)
        if rule is None or self.learning_rate_init is None:
            return fo.optimizers.get(self.solver)
        found: fo.optimizers.Optimizer = rule(learning_rate=self.learning_rate_init)
        return found

    def _train(self, X: Array, target: Array, sample_weight: Array | None, epochs: int) -> None:
        most, held_out = count("max_iter", epochs), None
        if self.early_stopping:
            held_out = number("validation_fraction", self.validation_fraction, 1.0)
        stopping = fo.callbacks.EarlyStopping(
            patience=count("n_iter_no_change", self.n_iter_no_change),
            min_delta=number("tol", self.tol),
            monitor="val_loss" if self.early_stopping else "loss", restore_best=self.early_stopping,
        )  # fmt: skip
        self.trainer_.fit(
            X, target, epochs=most, batch_size=None if self._full_batch() else self._batch(len(X)),
            validation=held_out, sample_weight=sample_weight, shuffle=self.shuffle, callbacks=[stopping] if most > 1 else [],
            progress=bool(self.verbose),
        )  # fmt: skip
        self._record()

    def _record(self) -> None:
        """What the trainer has done so far."""
        rows = self.trainer_.history.rows
        self.loss_curve_: list[float] = [row["loss"] for row in rows]
        self.validation_loss_curve_: list[float] | None = (
            [row["val_loss"] for row in rows if "val_loss" in row] if self.early_stopping else None
        )
        self.n_iter_ = len(rows)
        self.loss_ = self.loss_curve_[-1] if rows else float("nan")

    @property
    def network_(self) -> fo.Network:
        """The network of the trainer."""
        check_is_fitted(self, "trainer_")
        return self.trainer_.network

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What a fit that fails sets is taken back: no model is made of the one before and of this one."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            if hasattr(self, "trainer_"):  # one that went on keeps the epochs that have ended
                self._record()
            raise

    def _refuse_early_stopping(self) -> None:
        if self.early_stopping:
            raise ValueError("partial_fit has no use for early_stopping=True: each call would hold out rows of its own")

    def _goes_on(self) -> bool:
        return bool(self.warm_start) and hasattr(self, "trainer_")


def moments(x: Array, sample_weight: Array | None) -> tuple[Array, Array]:
    """Weighted mean and biased variance of columns, in float64; constant columns have variance 0."""
    first = x[0 if sample_weight is None else int(np.argmax(sample_weight > 0))]  # that of a row that counts
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is told by the caller
        shifted = x.astype(np.float64) - first
        if sample_weight is not None:
            shifted[sample_weight == 0] = 0.0
        mean = np.average(shifted, axis=0, weights=sample_weight)
        variance = np.average((shifted - mean) ** 2, axis=0, weights=sample_weight)
    return mean + first, variance
