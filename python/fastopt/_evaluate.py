"""Loss and metrics of a network on a data set, in blocks of rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _links, _validate, metrics
from fastopt._inference import outputs_of
from fastopt._native import native_loss, prepare_target
from fastopt.losses import Loss
from fastopt.network import Network

if TYPE_CHECKING:
    from fastopt._links import AnyLoss

MATERIALIZE_BYTES = 1 << 27  # data up to this size are kept converted between evaluations


def target_of(loss: AnyLoss, outputs: int, y: Any, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """A target as the loss reads it; a Python loss gets its array as it is."""
    if isinstance(loss, Loss):
        return prepare_target(loss, outputs, y, dtype, name)
    target = _validate.numeric(y, name)
    if target.ndim == 0 or len(target) == 0:
        raise ValueError(f"{name} must have at least one row; got shape {target.shape}")
    _validate.check_finite(target, name)
    return target


def metric_table(given: Iterable[Any] | None) -> dict[str, metrics.Metric]:
    """Metrics by the name of their column; two callables of one name raise."""
    if type(given) is tuple and not given:  # as most calls have it
        return {}
    if isinstance(given, str) or callable(given):
        given = [given]
    elif given is not None and not isinstance(given, Iterable):
        raise TypeError(f"metrics must be a list of names or functions (target, prediction); got {type(given).__name__}")
    table: dict[str, metrics.Metric] = {}
    for metric in given or ():
        function = metrics.get(metric)
        name = metric if isinstance(metric, str) else metrics.name_of(function)
        if name in table or name == "loss":
            raise ValueError(f"metrics: two columns would be called {name!r}")
        table[name] = function
    return table


class Evaluator:
    """One data set, prepared once, evaluated as often as wanted."""

    def __init__(
        self,
        network: Network,
        loss: AnyLoss,
        x: NDArray[Any],
        y: NDArray[Any],
        weight: NDArray[Any] | None,
        table: dict[str, metrics.Metric],
        rows: NDArray[np.int64] | None = None,
        *,
        stacklevel: int = 3,
    ) -> None:
        self._network, self._loss, self._table = network, loss, table
        self._y = y if rows is None else y[rows]
        self._weight = weight if weight is None or rows is None else weight[rows]
        n = len(self._y)
        if n * network.inputs * network.dtype.itemsize <= MATERIALIZE_BYTES:
            x, rows = np.ascontiguousarray(x if rows is None else x[rows], dtype=network.dtype), None
        self._x, self._rows = x, rows
        self._out = np.zeros((n, network.outputs), network.dtype)
        self._native = native_loss(loss, network.dtype) if isinstance(loss, Loss) else None
        self._weighted = {name for name, metric in table.items() if weight is not None and metrics.takes_weights(metric)}
        for name, metric in table.items():  # a metric that cannot read this loss or these labels is refused now, not after an epoch
            if metrics.needs_of(metric) is not None:
                self._measure(name, metric, self._out)
            if weight is not None and metrics.takes_weights(metric) is False:
                doubt = f"metric {name!r} has no parameter sample_weight: it counts all rows alike, beside a loss that does not"
                warnings.warn(doubt, UserWarning, stacklevel=stacklevel)

    def _measure(self, name: str, metric: metrics.Metric, outputs: NDArray[Any]) -> float:
        weights = {"sample_weight": self._weight} if name in self._weighted else {}
        try:
            target, prediction = _links.metric_inputs(self._loss, metrics.needs_of(metric), self._y, outputs)
            value = metric(target, prediction, **weights)
        except ValueError as error:
            raise ValueError(f"metric {name!r}: {error}") from None
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"metric {name!r} must return a number; got {type(value).__name__}") from None

    def __call__(self, prefix: str = "") -> dict[str, float]:
        """{"loss": ..., metric: ...} with a prefix to each name."""
        outputs = outputs_of(self._network, self._x, self._rows, self._out)
        if self._native is not None:
            value = self._native.value(outputs, self._y, self._weight)
        else:
            value = _links.call(self._loss, outputs, self._y)[0]
        result = {f"{prefix}loss": value}
        known = not self._table or not np.isnan(outputs).any()  # a NaN is no prediction, right or wrong
        for name, metric in self._table.items():
            result[prefix + name] = self._measure(name, metric, outputs) if known else math.nan
        return result
