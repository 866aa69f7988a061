"""From raw outputs to predictions: what the link of each loss means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _validate, losses
from fastopt._backend import core
from fastopt._method import Method
from fastopt._native import FLOAT64, native_loss
from fastopt.losses import Loss, Quantile

Array = NDArray[Any]
PythonLoss = Callable[[Array, Array], tuple[float, Array]]
AnyLoss = Loss | PythonLoss


def resolve(loss: Any) -> AnyLoss:
    """A loss as given, by its name, or a function `(prediction, target) -> (value, gradient)`."""
    if isinstance(loss, str | Loss | type | Method) or not callable(loss):
        return losses.get(loss)
    return loss  # type: ignore[no-any-return]


def call(loss: AnyLoss, outputs: Array, target: Array) -> tuple[float, Array]:
    """Value and gradient of a loss written in Python, checked."""
    assert not isinstance(loss, Loss)
    result = loss(outputs, target)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"the loss must return (value, gradient); got {type(result).__name__}")
    try:
        value = float(result[0])
        gradient = np.ascontiguousarray(_validate.numeric(result[1], "its gradient"), dtype=outputs.dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the loss must return (value, gradient), a number and an array: {error}") from None
    if gradient.shape != outputs.shape:
        shapes = f"the target had shape {target.shape}, as it was given"
        raise ValueError(f"the loss must return a gradient of the prediction's shape {outputs.shape}; got {gradient.shape} ({shapes})")
    return value, gradient


def link_of(loss: AnyLoss, outputs: int) -> str:
    """The link of a loss for this number of outputs; "argmax" for a perceptron of several classes."""
    link = loss.link if isinstance(loss, Loss) else "identity"
    if link == "sign" and isinstance(loss, Loss) and native_loss(loss, FLOAT64).target_kind(outputs) == "classes":
        return "argmax"
    return link


def name_of(loss: AnyLoss) -> str:
    """Name of a loss for error messages."""
    return loss.name if isinstance(loss, Loss) else getattr(loss, "__name__", type(loss).__name__)


def check_numbers(outputs: Array) -> None:
    """Raise ValueError when an output is NaN: it has no class."""
    wrong = np.isnan(outputs).any(axis=1)
    if wrong.any():
        raise ValueError(f"X must be finite to be classified; the outputs of row {int(np.argmax(wrong))} are NaN")


def _squeeze(a: Array) -> Array:
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def softmax(outputs: Array) -> Array:
    """Rows of probabilities."""
    out = np.empty_like(outputs)
    core.softmax(outputs, out)
    return out


def sigmoid(outputs: Array) -> Array:
    """Elementwise probability."""
    out = np.empty_like(outputs)
    core.activation_forward("sigmoid", outputs, out)
    return out


def labels(loss: AnyLoss, outputs: Array) -> Array:
    """Class indices (n,), or 0 and 1 per column for several independent outputs."""
    link = link_of(loss, outputs.shape[1])
    if link in ("softmax", "argmax"):
        return np.asarray(np.argmax(outputs, axis=1))
    if link in ("sigmoid", "sign"):
        return _squeeze((outputs > 0).astype(np.int64))
    raise ValueError(f"the loss {name_of(loss)!r} is one of regression and has no class labels")


def values(loss: AnyLoss, outputs: Array) -> Array:
    """Predicted values, (n,) for one column."""
    link = link_of(loss, outputs.shape[1])
    if link == "identity":
        return _squeeze(outputs)
    if link == "exp":
        return _squeeze(np.exp(outputs))
    if link == "gaussian":
        return _squeeze(np.ascontiguousarray(outputs[:, ::2]))
    if link == "sigmoid":
        return _squeeze(sigmoid(outputs))
    raise ValueError(f"the loss {name_of(loss)!r} is one of classification and has no values to compare")


def probabilities(loss: AnyLoss, outputs: Array) -> Array:
    """(n, classes) for softmax losses, the probability of class 1 for the sigmoid."""
    link = link_of(loss, outputs.shape[1])
    if link == "softmax":
        return softmax(outputs)
    if link == "sigmoid":
        return _squeeze(sigmoid(outputs))
    raise ValueError(f"the loss {name_of(loss)!r} gives no probabilities; softmax_cross_entropy, focal, kl and bce do")


def predictions(loss: AnyLoss, outputs: Array) -> Array:
    """Class indices of a classification loss, values of a regression loss."""
    return labels(loss, outputs) if is_classifier(loss) else values(loss, outputs)


def takes_any_number(loss: Loss) -> bool:
    """Whether a dense target may hold any finite number."""
    return loss.link not in ("softmax", "sign") and loss.target_low == -np.inf and loss.target_high == np.inf


def is_classifier(loss: AnyLoss) -> bool:
    """Whether `predictions` are class indices."""
    return isinstance(loss, Loss) and loss.link in ("softmax", "argmax", "sigmoid", "sign")


def target_labels(loss: AnyLoss, target: Array) -> Array:
    """A prepared target as class indices."""
    if target.ndim == 1:
        return target
    link = link_of(loss, target.shape[1])
    if link in ("softmax", "argmax"):
        return np.asarray(np.argmax(target, axis=1))
    return _squeeze((target > (0.5 if link == "sigmoid" else 0.0)).astype(np.int64))


def _class_shares(loss: AnyLoss, target: Array) -> Array:
    """A prepared target as class indices, or as the share of each class where it says so."""
    link = link_of(loss, target.shape[1]) if target.ndim == 2 else ""
    if link == "softmax":
        return target
    if link == "sigmoid" and target.shape[1] == 1:
        return np.concatenate([1.0 - target, target], axis=1)
    if link == "sigmoid":
        raise ValueError(f"log_loss is for classes of which one is right; these are {target.shape[1]} independent labels")
    return target_labels(loss, target)


def metric_inputs(loss: AnyLoss, needs: str | None, target: Array, outputs: Array) -> tuple[Array, Array]:
    """(target, prediction) as a metric reads them; `needs` is None for a callable of the user."""
    if needs == "labels" or (needs is None and is_classifier(loss)):
        return target_labels(loss, target), labels(loss, outputs)
    if needs == "probabilities":
        return _class_shares(loss, target), probabilities(loss, outputs)
    if needs == "scores":
        labels(loss, outputs[:1])  # refuses a loss of regression
        return target_labels(loss, target), _squeeze(outputs)
    predicted = values(loss, outputs)
    if isinstance(loss, Quantile) and predicted.ndim == 2:
        predicted = predicted[:, int(np.argmin(np.abs(np.array(loss.quantiles) - 0.5)))]
    return _squeeze(target), predicted
