"""The classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

import fastopt as fo
from fastopt.sklearn._estimator import READABLE, Estimator, Spec, number, weights

Array = NDArray[Any]
ONE_OUTPUT = ("sigmoid", "sign")  # links of losses with one output for two classes


def _has_probabilities(estimator: MLPClassifier) -> bool:
    loss = estimator._trained_loss() if hasattr(estimator, "trainer_") else estimator._loss(False)
    return loss.link in ("softmax", "sigmoid")


class MLPClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A multi-layer perceptron for classes of any kind (numbers, text, ...), two or more of them, or for several labels at once.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int or int
        Units of the hidden layers; empty for a linear model.
    activation : str
        Of the hidden layers: "relu", "tanh", "logistic", "identity", "silu", "gelu", ...
    solver : str, Optimizer or Solver
        A name or a spec; solvers ("lbfgs", "newton_cg") work on the full batch.
    alpha : float
        Weight decay: a batch of n rows adds `alpha / (2 n) sum W^2` to the loss, which sums over several labels; n is that of the first
        call when `warm_start` or `partial_fit` go on with others.
    batch_size : int, "auto" or None
        Rows of a step; "auto" is 200 or all there are, None is all.
    learning_rate_init : float or schedule, optional
        Of an optimizer that is given by name; by default its own.
    max_iter : int
        Epochs at most, or steps of a solver.
    shuffle : bool
        A new order in each epoch.
    random_state : int, RandomState or None
        Of weights, orders, masks and held-out rows.
    tol, n_iter_no_change : float, int
        Training ends when so many epochs have not made the loss better by more than `tol`; nothing warns when `max_iter` ended it before.
    verbose : bool
        Draw a progress bar.
    warm_start : bool
        Let `fit` go on from where it ended, with the network, loss, solver and penalties of the first call.
    early_stopping, validation_fraction : bool, float
        Hold out this share of the rows, watch the loss there, and keep the best weights.
    loss : str or Loss, optional
        One for classes; by default the cross-entropy, of each label for several labels at once.
    class_weight : mapping or "balanced", optional
        Factor per class on the sample weights; "balanced" is (sum of all) / (classes x sum of the class), for `fit` alone.
    batch_norm, dropout, l1 : bool, float, float
        Normalization and dropout of the hidden layers, L1 penalty.
    standardize : bool
        Begin with a layer that centers and scales the features.
    dtype : str
        "float32" or "float64": what the network computes in.

    Attributes
    ----------
    classes_ : ndarray
        Labels in the order of the columns of `predict_proba`.
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
    >>> from sklearn.datasets import load_iris
    >>> from fastopt.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> model = MLPClassifier((16,), max_iter=50, random_state=0).fit(X, y.map({0: "setosa", 1: "versicolor", 2: "virginica"}))
    >>> model.predict(X.iloc[:2]).tolist(), model.predict_proba(X).shape
    (['setosa', 'setosa'], (150, 3))
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
        loss: str | fo.losses.Loss | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
        l1: float = 0.0,
        standardize: bool = True,
        dtype: str = "float32",
    ) -> None:
        self._keep(locals())

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> MLPClassifier:
        """Train on all rows until `max_iter`, or until nothing becomes better.

        Parameters
        ----------
        X : array_like or frame
            `(n, features)`, finite.
        y : array_like
            Labels `(n,)`, or a table `(n, labels)` of 0 and 1.
        sample_weight : array_like, optional
            `(n,)`, at least 0.
        """
        first = not self._goes_on()
        with self._whole():
            table, target = self._data(X, y, None, reset=first)
            self._train_on(table, target, sample_weight, self.max_iter, first=first)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> MLPClassifier:
        """Train one epoch on these rows; the first call names all classes, and its rows give the statistics of the features."""
        first = not hasattr(self, "trainer_")
        self._refuse_early_stopping()
        if first and classes is None:
            raise ValueError("the first call of partial_fit needs classes, all that will come")
        if not first and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes must be those of the first call, {self.classes_.tolist()}; got {np.unique(classes).tolist()}")
        with self._whole():
            table, target = self._data(X, y, classes, reset=first)
            self._train_on(table, target, sample_weight, 1, first=first, part=True)
        return self

    def _loss(self, several: bool) -> fo.losses.Loss:
        if self.loss is None:
            return fo.losses.get("bce" if several else "cross_entropy")
        found = fo.losses.get(self.loss)
        allowed = ("sigmoid",) if several else ("softmax", "argmax", *ONE_OUTPUT)
        if found.link not in allowed or isinstance(found, fo.losses.KLDivergence):
            raise ValueError(f"loss {found.name!r} is not one of {'several labels at once' if several else 'classes'}")
        return found

    def _trained_loss(self) -> fo.losses.Loss:
        """That of the trainer, whatever `loss` has become since."""
        return cast(fo.losses.Loss, self.trainer_.loss)

    def _data(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None, *, reset: bool) -> tuple[Array, Array]:
        """Features, and targets as the loss reads them; `reset`: the classes are those that are seen, or given."""
        table, labels = validate_data(self, X, y, dtype=READABLE, multi_output=True, reset=reset)
        check_classification_targets(labels)
        several = type_of_target(labels).startswith("multilabel")
        if not several:
            labels = column_or_1d(labels, warn=True)
        if reset:
            self.classes_ = np.arange(labels.shape[1]) if several else np.unique(labels if classes is None else classes)
            if several and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(
                    f"classes of several labels at once are their columns, {self.classes_.tolist()}; got {np.unique(classes).tolist()}"
                )
            self._several = several
            if not several and len(self.classes_) < 2:
                raise ValueError(f"a classifier needs at least two classes; got one class: {self.classes_.tolist()}")
        if several != self._several or (several and labels.shape[1] != len(self.classes_)):
            raise ValueError(f"y must be {'several labels' if self._several else 'one label'} a row, as before; got shape {labels.shape}")
        loss = self._loss(several) if reset else self._trained_loss()
        if several:
            return table, labels.astype(self.dtype)
        codes = np.searchsorted(self.classes_, labels)
        codes[codes == len(self.classes_)] = 0
        if unknown := sorted(set(labels[self.classes_[codes] != labels].tolist())):
            raise ValueError(f"y holds {unknown[0]!r}; the classes are {self.classes_.tolist()}")
        if loss.link in ONE_OUTPUT and len(self.classes_) != 2:
            raise ValueError(f"loss {loss.name!r} is for two classes; got {len(self.classes_)}")
        return table, codes.astype(np.int32 if loss.link not in ONE_OUTPUT else self.dtype)

    def _train_on(self, X: Array, target: Array, sample_weight: ArrayLike | None, epochs: int, *, first: bool, part: bool = False) -> None:
        weight = self._with_classes(weights(sample_weight, X), target, part)
        if first:
            loss = self._loss(self._several)
            one = loss.link in ONE_OUTPUT and not self._several
            targets = len(self.classes_) if self._several else 1
            self._prepare(X, 1 if one else len(self.classes_), loss, weight, part=part, targets=targets)
        self._train(X, target, weight, epochs)

    def _with_classes(self, weight: Array | None, target: Array, part: bool) -> Array | None:
        """Times the weights of the classes."""
        given = self.class_weight
        if given is None:
            return weight
        if self._several:
            raise ValueError("class_weight needs one label a row; y has several")
        if isinstance(given, Mapping):
            codes = {label: code for code, label in enumerate(self.classes_.tolist())}
            if unknown := [key for key in given if key not in codes]:
                raise ValueError(f"class_weight has the key {unknown[0]!r}; the classes are {self.classes_.tolist()}")
            factors = np.ones(len(codes))
            for key, factor in given.items():
                factors[codes[key]] = number(f"class_weight[{key!r}]", factor)
        elif isinstance(given, str) and given == "balanced":
            if part:
                raise ValueError("class_weight='balanced' needs all rows, and partial_fit sees a part; give a mapping of class to weight")
            sums = np.bincount(target.astype(np.int64), weights=weight, minlength=len(self.classes_))
            factors = np.divide(sums.sum(), np.count_nonzero(sums) * sums, out=np.zeros(len(sums)), where=sums > 0)
        else:
            raise (ValueError if isinstance(given, str) else TypeError)(
                f"class_weight must be 'balanced' or a mapping of class to weight; got {given!r}"
            )
        found: Array = factors[target.astype(np.int64)] * (1.0 if weight is None else weight)
        if not found.any():
            raise ValueError("class_weight: the weights of all rows are 0")
        return found

    def predict(self, X: ArrayLike) -> Array:
        """Labels `(n,)`, or 0 and 1 `(n, labels)`."""
        check_is_fitted(self, "trainer_")
        found = self.trainer_.predict(self._table(X)).astype(np.int64)
        return found if self._several else np.asarray(self.classes_[found])

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> Array:
        """Probabilities `(n, classes)`."""
        check_is_fitted(self, "trainer_")
        found = self.trainer_.predict_proba(self._table(X))
        return np.stack([1 - found, found], axis=1) if found.ndim == 1 else found

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Their logarithms."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def decision_function(self, X: ArrayLike) -> Array:
        """Raw outputs `(n, classes)`; for two classes `(n,)`, above 0 for the second."""
        check_is_fitted(self, "trainer_")
        table = self._table(X)
        with self.trainer_.evaluation_weights() as network:
            outputs = network(table)
        if self._several or len(self.classes_) > 2:
            return outputs
        return np.asarray(outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
