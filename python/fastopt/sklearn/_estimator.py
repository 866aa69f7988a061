"""What both estimators share: options, network, training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
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
    """One per row, which the trainer looks at more closely."""
    if sample_weight is None:
        return None
    found = np.asarray(sample_weight, dtype=np.float64)
    if found.shape != (len(X),):
        raise ValueError(f"sample_weight must have shape ({len(X)},); got {found.shape}")
    if not found.any():
        raise ValueError("sample_weight must contain at least one non-zero number")
    return found


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

    def _prepare(self, X: Array, outputs: int, loss: fo.losses.Loss, sample_weight: Array | None, *, part: bool) -> None:
        """A new trainer; the statistics of a Standardize layer are those of these rows, which may be a part of all."""
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
        l2 = half * self.alpha / rows
        self.trainer_ = fo.Trainer(network, loss, self._method(), l1=self.l1, l2=l2, seed=seed)
        if self.standardize and (part or (sample_weight is not None and not self.early_stopping)):
            mean, variance = moments(X, sample_weight)
            if part:
                variance[variance == 0.0] = 1.0  # what is constant here may not stay so
            for name, value in (("mean", mean), ("variance", variance), ("count", len(X))):
                network.buffers[f"0.{name}"][...] = value
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] | None = [] if self.early_stopping else None
        self.n_iter_ = 0

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

    def _train(self, X: Array, target: Array, sample_weight: Array | None, epochs: int, *, class_weight: Any = None) -> None:
        held_out = self.validation_fraction if self.early_stopping else None
        stopping = fo.callbacks.EarlyStopping(
            patience=self.n_iter_no_change, min_delta=self.tol, monitor="val_loss" if self.early_stopping else "loss",
            restore_best=self.early_stopping,
        )  # fmt: skip
        history = self.trainer_.fit(
            X, target, epochs=epochs, batch_size=None if self._full_batch() else self._batch(len(X)), validation=held_out,
            sample_weight=sample_weight, class_weight=class_weight, shuffle=self.shuffle, callbacks=[stopping] if epochs > 1 else [],
            progress=bool(self.verbose),
        )  # fmt: skip
        self.loss_curve_ += [row["loss"] for row in history.rows]
        if self.early_stopping:
            self.validation_loss_curve_ = (self.validation_loss_curve_ or []) + [row["val_loss"] for row in history.rows]
        self.n_iter_ += len(history.rows)
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else float("nan")

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
            raise

    def _refuse_early_stopping(self) -> None:
        if self.early_stopping:
            raise ValueError("partial_fit has no use for early_stopping=True: each call would hold out rows of its own")

    def _goes_on(self) -> bool:
        return bool(self.warm_start) and hasattr(self, "trainer_")


def moments(x: Array, sample_weight: Array | None) -> tuple[Array, Array]:
    """Weighted mean and biased variance of columns, in float64; constant columns have variance 0."""
    shifted = x.astype(np.float64) - x[0]
    mean = np.average(shifted, axis=0, weights=sample_weight)
    variance = np.average((shifted - mean) ** 2, axis=0, weights=sample_weight)
    return mean + x[0], variance
