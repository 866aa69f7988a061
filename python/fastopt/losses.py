"""Losses as frozen values; the arithmetic is native.

Value = sum_i w_i l_i / sum_i w_i over samples (w = 1 without weights); l_i of a vector target is the mean over outputs, and the gradient
is that of exactly this value. Predictions are raw outputs (logits) wherever a link exists, stable up to |logit| = 1e4.

`link` says how outputs become predictions: "identity", "exp", "gaussian", "sigmoid", "softmax", "sign" or "argmax".
"""

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _specs
from fastopt._specs import NamedSpec, spec

__all__ = [
    "BinaryCrossEntropy", "Focal", "GaussianNLL", "Hinge", "Huber", "KLDivergence", "LogCosh", "Loss", "MeanAbsoluteError",
    "MeanSquaredError", "MulticlassHinge", "Perceptron", "Poisson", "Quantile", "SoftmaxCrossEntropy", "SquaredHinge", "get", "names",
    "table",
]  # fmt: skip


class LossEngine(Protocol):
    """What computes a loss; `fastopt` gives the native one to `Loss` when it is imported."""

    def value(self, loss: "Loss", prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None) -> float: ...

    def value_and_grad(
        self, loss: "Loss", prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[float, NDArray[np.floating[Any]]]: ...


class Loss(NamedSpec):
    """Base of all losses: call it for the value, or ask for value and gradient.

    Predictions are `(n, outputs)` or `(n,)`, float32 or float64 (other numbers become float64); targets as each class says;
    `sample_weight` is `(n,)` and not negative.
    """

    link: ClassVar[str] = "identity"
    target_low: ClassVar[float] = -np.inf
    target_high: ClassVar[float] = np.inf
    engine: ClassVar[LossEngine]

    def __call__(self, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Weighted mean of the loss over the rows."""
        return self.engine.value(self, prediction, target, sample_weight)

    def value_and_grad(
        self, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[float, NDArray[np.floating[Any]]]:
        """The value and its gradient with respect to the prediction, in the prediction's shape."""
        return self.engine.value_and_grad(self, prediction, target, sample_weight)


@spec
class MeanSquaredError(Loss):
    """`(p - y)^2`, without a factor 1/2; target float `(n, outputs)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.MeanSquaredError()([[1.0], [2.0]], [[1.0], [4.0]])
    2.0
    """

    name: ClassVar[str] = "mse"
    aliases: ClassVar[tuple[str, ...]] = ("mean_squared_error",)


@spec
class MeanAbsoluteError(Loss):
    """`|p - y|`, subgradient 0 at 0; target float `(n, outputs)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.MeanAbsoluteError()([[1.0], [2.0]], [[1.0], [4.0]])
    1.0
    """

    name: ClassVar[str] = "mae"
    aliases: ClassVar[tuple[str, ...]] = ("mean_absolute_error",)


@spec
class Huber(Loss):
    """`r^2 / 2` if `|r| <= delta`, else `delta (|r| - delta / 2)`, r = p - y; target float `(n, outputs)`.

    Parameters
    ----------
    delta : float
        Where the parabola becomes a line, in units of the target, > 0.

    Raises
    ------
    ValueError
        For a delta that is not positive.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.Huber(delta=1.0)([[0.0], [0.0]], [[0.5], [3.0]])
    1.3125

    References
    ----------
    Huber 1964, "Robust estimation of a location parameter".
    """

    name: ClassVar[str] = "huber"
    delta: float = _specs.positive(1.0)


@spec
class LogCosh(Loss):
    """`log cosh r = r + softplus(-2 r) - ln 2`, r = p - y; target float `(n, outputs)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> round(fo.losses.LogCosh()([[1.0]], [[0.0]]), 6)
    0.433781
    """

    name: ClassVar[str] = "log_cosh"
    aliases: ClassVar[tuple[str, ...]] = ("logcosh",)


@spec
class Quantile(Loss):
    """Pinball loss `max(q r, (q - 1) r)`, r = y - p; one output per quantile, mean over them; target one float column.

    Parameters
    ----------
    quantiles : sequence of float
        Levels in (0, 1).

    Raises
    ------
    ValueError
        For a level outside (0, 1).

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.Quantile(quantiles=(0.5,))([[1.0]], [3.0])
    1.0

    References
    ----------
    Koenker and Bassett 1978, "Regression quantiles".
    """

    name: ClassVar[str] = "quantile"
    aliases: ClassVar[tuple[str, ...]] = ("pinball",)
    quantiles: tuple[float, ...] = _specs.numbers((0.5,), low=0.0, high=1.0, low_open=True, high_open=True)


@spec
class Poisson(Loss):
    """`exp(p) - y p` (log link), plus `log y!` with `full`; target counts >= 0, `(n, outputs)`.

    Parameters
    ----------
    full : bool
        Add the term that does not depend on p.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.Poisson()([[0.0]], [[3.0]])
    1.0
    """

    name: ClassVar[str] = "poisson"
    link: ClassVar[str] = "exp"
    target_low: ClassVar[float] = 0.0
    full: bool = _specs.flag(False)


@spec
class GaussianNLL(Loss):
    """`(s + (y - mu)^2 exp(-s)) / 2`, plus `ln(2 pi) / 2` with `full`; outputs `(mu_0, s_0, mu_1, s_1, ...)`, s = log variance.

    The target is float `(n, outputs / 2)`.

    Parameters
    ----------
    full : bool
        Add the constant term.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.GaussianNLL()([[1.0, 0.0]], [[3.0]])
    2.0

    References
    ----------
    Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution".
    """

    name: ClassVar[str] = "gaussian_nll"
    link: ClassVar[str] = "gaussian"
    full: bool = _specs.flag(False)


@spec
class BinaryCrossEntropy(Loss):
    """`softplus(p) - y p`, mean over outputs; target in [0, 1], hard or soft, `(n, outputs)`.

    Parameters
    ----------
    label_smoothing : float
        `y <- (1 - e) y + e / 2`, in [0, 1).
    pos_weight : float
        Factor on the term of the positive class, > 0.

    Raises
    ------
    ValueError
        For an option outside its interval, or targets outside [0, 1].

    Examples
    --------
    >>> import fastopt as fo
    >>> round(fo.losses.BinaryCrossEntropy()([[0.0]], [[1.0]]), 6)
    0.693147
    """

    name: ClassVar[str] = "bce"
    aliases: ClassVar[tuple[str, ...]] = ("binary_cross_entropy",)
    link: ClassVar[str] = "sigmoid"
    target_low: ClassVar[float] = 0.0
    target_high: ClassVar[float] = 1.0
    label_smoothing: float = _specs.fraction(0.0)
    pos_weight: float = _specs.positive(1.0)


@spec
class SoftmaxCrossEntropy(Loss):
    """`-sum_k y_k log softmax(p)_k`; target class index `(n,)` or a row of probabilities `(n, outputs)`.

    Parameters
    ----------
    label_smoothing : float
        `y <- (1 - e) y + e / K`, in [0, 1).

    Raises
    ------
    ValueError
        For an option outside its interval, or a label out of range.

    Examples
    --------
    >>> import fastopt as fo
    >>> round(fo.losses.SoftmaxCrossEntropy()([[0.0, 0.0]], [1]), 6)
    0.693147
    """

    name: ClassVar[str] = "softmax_cross_entropy"
    aliases: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    link: ClassVar[str] = "softmax"
    target_low: ClassVar[float] = 0.0
    target_high: ClassVar[float] = 1.0
    label_smoothing: float = _specs.fraction(0.0)


@spec
class KLDivergence(Loss):
    """`sum_k y_k (ln y_k - log softmax(p)_k)` with 0 ln 0 = 0; target probabilities `(n, outputs)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.KLDivergence()([[0.0, 0.0]], [[0.5, 0.5]])
    0.0

    References
    ----------
    Kullback and Leibler 1951, "On information and sufficiency".
    """

    name: ClassVar[str] = "kl"
    aliases: ClassVar[tuple[str, ...]] = ("kl_divergence",)
    link: ClassVar[str] = "softmax"
    target_low: ClassVar[float] = 0.0
    target_high: ClassVar[float] = 1.0


@spec
class Hinge(Loss):
    """`max(0, 1 - y p)`; target +1 or -1 ({0, 1} is mapped), `(n, outputs)`.

    `Trainer.predict` gives 0 and 1.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.Hinge()([[0.5], [2.0]], [[1.0], [1.0]])
    0.25

    References
    ----------
    Cortes and Vapnik 1995, "Support-vector networks".
    """

    name: ClassVar[str] = "hinge"
    link: ClassVar[str] = "sign"


@spec
class SquaredHinge(Loss):
    """`max(0, 1 - y p)^2`; target +1 or -1 ({0, 1} is mapped), `(n, outputs)`.

    `Trainer.predict` gives 0 and 1.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.SquaredHinge()([[0.5], [2.0]], [[1.0], [1.0]])
    0.125
    """

    name: ClassVar[str] = "squared_hinge"
    link: ClassVar[str] = "sign"


@spec
class MulticlassHinge(Loss):
    """`sum_{k != c} max(0, 1 - p_c + p_k)`, or its maximum over k; target class index `(n,)`.

    Parameters
    ----------
    kind : str
        "weston_watkins" (the sum; torch's MultiMarginLoss is this divided by K) or "crammer_singer" (the maximum).
    squared : bool
        Square each margin term.

    Raises
    ------
    ValueError
        For an unknown kind.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.MulticlassHinge()([[0.0, 0.5, 0.0]], [1])
    1.0

    References
    ----------
    Weston and Watkins 1999; Crammer and Singer 2001.
    """

    name: ClassVar[str] = "multiclass_hinge"
    link: ClassVar[str] = "argmax"
    kind: str = _specs.choice("weston_watkins", ("weston_watkins", "crammer_singer"))
    squared: bool = _specs.flag(False)


@spec
class Perceptron(Loss):
    """`max(0, -y p)` for one output and target +1 or -1; with more outputs `max_k p_k - p_c` and class indices `(n,)`.

    `Trainer.predict` gives 0 and 1, or class indices.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.Perceptron()([[0.5], [2.0]], [[-1.0], [1.0]])
    0.25

    References
    ----------
    Rosenblatt 1958, "The perceptron".
    """

    name: ClassVar[str] = "perceptron"
    link: ClassVar[str] = "sign"


@spec
class Focal(Loss):
    """`-(1 - pi_c)^gamma log pi_c`, pi = softmax(p); target class index `(n,)`.

    Parameters
    ----------
    gamma : float
        How strongly easy samples are discounted, >= 0; 0 is the cross-entropy.

    Raises
    ------
    ValueError
        For a negative gamma.

    Examples
    --------
    >>> import fastopt as fo
    >>> round(fo.losses.Focal(gamma=2.0)([[0.0, 0.0]], [0]), 6)
    0.173287

    References
    ----------
    Lin et al. 2017, "Focal loss for dense object detection".
    """

    name: ClassVar[str] = "focal"
    link: ClassVar[str] = "softmax"
    gamma: float = _specs.non_negative(2.0)


_TABLE = _specs.registry(
    "loss",
    (
        MeanSquaredError, MeanAbsoluteError, Huber, LogCosh, Quantile, Poisson, GaussianNLL, BinaryCrossEntropy, SoftmaxCrossEntropy,
        KLDivergence, Hinge, SquaredHinge, MulticlassHinge, Perceptron, Focal,
    ),
)  # fmt: skip


def table() -> dict[str, type[Loss]]:
    """Every name and alias with its class."""
    return dict(_TABLE)


def names() -> list[str]:
    """Registry names of all losses, without aliases."""
    return list(dict.fromkeys(cls.name for cls in _TABLE.values()))


def get(loss: "str | Loss") -> Loss:
    """A loss as given, or by its name or alias.

    Raises
    ------
    ValueError
        For an unknown name; the text lists the known ones.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.losses.get("huber")
    Huber(delta=1.0)
    """
    return _specs.lookup("loss", _TABLE, Loss, loss)
