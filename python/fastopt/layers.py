"""Layers of a dense network, as frozen values.

A list of these describes a network (`fastopt.Network`); the computing is native. Shapes: a batch is `(n, features)`.
"""

import dataclasses
from dataclasses import KW_ONLY
from typing import Any, ClassVar

from fastopt import _specs
from fastopt._specs import ConfigValue, Spec, positional_spec, spec

__all__ = ["ACTIVATIONS", "INITIALIZERS", "Activation", "BatchNorm", "Dense", "Dropout", "Layer", "Standardize"]

ACTIVATIONS = (
    "identity", "linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "softplus", "hard_tanh",
)  # fmt: skip
INITIALIZERS = (
    "auto", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "orthogonal", "zeros",
    "constant",
)  # fmt: skip


class Layer(Spec):
    """Base of all layers; `kind` is the name in the native registry."""

    kind: ClassVar[str]

    def config(self) -> dict[str, ConfigValue]:
        """Options for the native core, with the layer's kind."""
        return {"kind": self.kind, **super().config()}

    def _shown(self) -> dict[str, Any]:
        """What differs from the defaults: the text of a network holds many layers."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in self._values().items() if value != defaults[name]}


@positional_spec
class Dense(Layer):
    """Fully connected layer `h = g(x W + b)`, W of shape `(inputs, units)`.

    Parameters
    ----------
    units : int
        Outputs of the layer.
    activation : str, optional
        Name out of `ACTIVATIONS`, fused with the product; None for none.
    init : str
        Name out of `INITIALIZERS`. "auto" is he_uniform before relu, leaky_relu, elu, gelu, gelu_tanh and silu, lecun_normal before selu,
        else glorot_uniform. Biases start at 0.
    init_value : float
        What every weight starts from with `init="constant"`.
    bias : bool
        Whether there is a bias.
    l1, l2 : float
        Penalties `l1 sum|W| + l2 sum W^2` on this layer's weights, never on its bias.
    trainable : bool
        False keeps the layer's parameters as they are.
    learning_rate_multiplier : float
        Factor on the learning rate for this layer.

    Raises
    ------
    ValueError
        For an unknown name, fewer than one unit or a negative penalty.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.layers.Dense(10, activation="relu").units
    10

    References
    ----------
    Glorot and Bengio 2010; He et al. 2015; Klambauer et al. 2017 (lecun_normal with selu).
    """

    kind: ClassVar[str] = "dense"
    units: int = _specs.integer(low=1)
    _: KW_ONLY
    activation: str | None = _specs.choice(None, ACTIVATIONS, optional=True)
    init: str = _specs.choice("auto", INITIALIZERS)
    init_value: float = _specs.number(0.0)
    bias: bool = _specs.flag(True)
    l1: float = _specs.non_negative(0.0)
    l2: float = _specs.non_negative(0.0)
    trainable: bool = _specs.flag(True)
    learning_rate_multiplier: float = _specs.non_negative(1.0)

    def config(self) -> dict[str, ConfigValue]:
        """Options for the native core, with the layer's kind."""
        return {**super().config(), "activation": self.activation or "identity"}


@positional_spec
class Activation(Layer):
    """Elementwise `h = g(a)`.

    Parameters
    ----------
    name : str
        Name out of `ACTIVATIONS`; leaky_relu has slope 0.01, elu alpha 1, gelu is exact (erf), relu'(0) = 0.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.layers.Activation("tanh").config()
    {'kind': 'activation', 'activation': 'tanh'}
    """

    kind: ClassVar[str] = "activation"
    name: str = _specs.choice("identity", ACTIVATIONS)

    def config(self) -> dict[str, ConfigValue]:
        """Options for the native core, with the layer's kind."""
        return {"kind": self.kind, "activation": self.name}


@spec
class BatchNorm(Layer):
    """Batch normalization `gamma (x - mu) / sqrt(var + eps) + beta`.

    In training mu and var (biased) are those of the batch; `running <- (1 - momentum) running + momentum batch`, and the first batch
    initialises the running values, which inference uses. A batch of one row gives `beta`.

    Parameters
    ----------
    momentum : float
        Share of the new batch in the running values, in [0, 1].
    eps : float
        Added to the variance, > 0.
    trainable : bool
        False keeps gamma and beta as they are; the running statistics move.
    learning_rate_multiplier : float
        Factor on the learning rate for this layer.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.layers.BatchNorm(momentum=0.05)
    BatchNorm(momentum=0.05)

    References
    ----------
    Ioffe and Szegedy 2015, "Batch normalization".
    """

    kind: ClassVar[str] = "batchnorm"
    momentum: float = _specs.number(0.1, low=0.0, high=1.0)
    eps: float = _specs.positive(1e-5)
    trainable: bool = _specs.flag(True)
    learning_rate_multiplier: float = _specs.non_negative(1.0)


@positional_spec
class Dropout(Layer):
    """In training keep each element with probability `1 - rate`, scaled by `1 / (1 - rate)`; identity in inference.

    Parameters
    ----------
    rate : float
        Probability of dropping, in [0, 1).

    Raises
    ------
    ValueError
        For a rate outside [0, 1).

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.layers.Dropout(0.2)
    Dropout(rate=0.2)

    References
    ----------
    Srivastava et al. 2014, "Dropout". The mask of an element is a function of seed, step, layer and its index only.
    """

    kind: ClassVar[str] = "dropout"
    rate: float = _specs.fraction()


@spec
class Standardize(Layer):
    """`(x - mu) / sqrt(var + eps)` with mean and biased variance of the whole training set; first layer of a network.

    `Trainer.fit` adapts it once; `Network.adapt` does so by hand. Statistics are summed in float64 over the rows as they are given: float64
    rows are not rounded to the dtype of the network first. A column that was constant
    there comes out as 0, whatever it holds later: no weight has learned to read it.

    Parameters
    ----------
    eps : float
        Added to the variance, > 0.

    Raises
    ------
    ValueError
        For an eps that is not positive.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.layers.Standardize().eps
    1e-08
    """

    kind: ClassVar[str] = "standardize"
    eps: float = _specs.positive(1e-8)


def layer_classes() -> tuple[type[Any], ...]:
    """Every kind of layer."""
    return (Dense, Activation, BatchNorm, Dropout, Standardize)
