"""The regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

import fastopt as fo
from fastopt.sklearn._estimator import READABLE, Estimator, Spec, moments, weights

Array = NDArray[Any]
MOVES_WITH_TARGET = (fo.losses.MeanSquaredError, fo.losses.MeanAbsoluteError, fo.losses.Quantile, fo.losses.GaussianNLL)


class MLPRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A multi-layer perceptron for one or several numbers a row.

    Parameters
    ----------
    loss : str or Loss
        "mse", "mae", "huber", "quantile", "poisson", ...
    scale_target : bool
        Train on `(y - mean) / deviation` of each column, and turn predictions back, where the loss has no scale of its own: "mse", "mae",
        "quantile" and "gaussian_nll". Losses in `loss_curve_` are of the scaled target.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate_init, max_iter, shuffle, random_state, tol, verbose, \
warm_start, early_stopping, validation_fraction, n_iter_no_change, batch_norm, dropout, l1, standardize, dtype
        As for `MLPClassifier`.

    Attributes
    ----------
    trainer_, network_ : Trainer, Network
        What was trained.
    loss_curve_, validation_loss_curve_ : list of float
        One entry per epoch.
    n_iter_, loss_ : int, float
        Epochs done, and the loss of the last.
    n_features_in_, feature_names_in_ : int, ndarray
        As everywhere in scikit-learn.

    Raises
    ------
    TypeError, ValueError
        In `fit`, for wrong options and wrong data.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from fastopt.sklearn import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor((16,), max_iter=200, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.5)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: Spec = "adam",
        alpha: float = 1e-4,
        batch_size: int | str | None = "auto",
        learning_rate_init: Any = None,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        loss: str | fo.losses.Loss = "mse",
        scale_target: bool = True,
        batch_norm: bool = False,
        dropout: float = 0.0,
        l1: float = 0.0,
        standardize: bool = True,
        dtype: str = "float32",
    ) -> None:
        self._keep(locals())

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> MLPRegressor:
        """Train on all rows until `max_iter`, or until nothing becomes better.

        Parameters
        ----------
        X : array_like or frame
            `(n, features)`, finite.
        y : array_like
            `(n,)` or `(n, targets)`, finite.
        sample_weight : array_like, optional
            `(n,)`, at least 0.
        """
        with self._whole():
            self._fit(X, y, sample_weight, self.max_iter, first=not self._goes_on())
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> MLPRegressor:
        """Train one epoch on these rows; those of the first call give the statistics of features and target."""
        self._refuse_early_stopping()
        with self._whole():
            self._fit(X, y, sample_weight, 1, first=not hasattr(self, "trainer_"), part=True)
        return self

    def _fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, epochs: int, *, first: bool, part: bool = False) -> None:
        table, target = validate_data(self, X, y, dtype=READABLE, multi_output=True, y_numeric=True, reset=first)
        target = target.astype(np.float64).reshape(len(target), -1)
        weight = weights(sample_weight, table)
        if first:
            self._begin(table, target, weight, part=part)
        elif target.shape[1] != len(self._mean):
            raise ValueError(f"y must have {len(self._mean)} columns, as before; got {target.shape[1]}")
        self._train(table, (target - self._mean) / self._scale, weight, epochs)

    def _begin(self, X: Array, target: Array, sample_weight: Array | None, *, part: bool) -> None:
        loss, columns = fo.losses.get(self.loss), target.shape[1]
        outputs = {"gaussian": 2 * columns, "identity": columns, "exp": columns}.get(loss.link)
        if outputs is None:
            raise ValueError(f"loss {loss.name!r} is one of classes; take MLPClassifier")
        if isinstance(loss, fo.losses.Quantile):
            outputs = len(loss.quantiles)
        self._mean, self._scale = np.zeros(columns), np.ones(columns)
        if self.scale_target and isinstance(loss, MOVES_WITH_TARGET):
            self._mean, variance = moments(target, sample_weight)
            if not np.isfinite(variance).all():
                raise ValueError("y: the values are too large for their variance, by which scale_target divides")
            self._scale = np.where(variance > 0, np.sqrt(variance), 1.0)
        self._prepare(X, outputs, loss, sample_weight, part=part, targets=columns)

    def predict(self, X: ArrayLike) -> Array:
        """Values `(n,)` or `(n, targets)`, or `(n, quantiles)`."""
        check_is_fitted(self, "trainer_")
        found = self.trainer_.predict(self._table(X))
        values = found.reshape(len(found), -1) * self._scale + self._mean
        return np.asarray(values[:, 0] if values.shape[1] == 1 else values)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
