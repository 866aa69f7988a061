"""Optimizers as frozen values; the fused update is native.

g is the gradient, t counts steps from 1, eta is `learning_rate`: a float or a schedule, that is any callable of the number of steps done.
State starts at 0 unless said otherwise. `weight_decay` of SGD, AdaGrad, RMSProp and Adam is coupled (`g <- g + wd w`), that of AdamW, Lion
and ScheduleFreeAdamW decoupled (`w <- w - eta wd w`); inside a network it touches weights only, unless `decay_all`.
Alone (`init` and `step` below) an optimizer decays every array it is given.

Rules that keep squares of the elements of g take one beyond 2**63 in float32 (2**511 in float64), whose square is too large, for as large
as that, an infinite one too; NaN stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastopt import _specs
from fastopt._method import Method
from fastopt._specs import NamedSpec, Schedule, spec

__all__ = [
    "SGD", "AdaDelta", "AdaGrad", "AdaGradNorm", "AdaMax", "Adam", "AdamW", "Arrays", "Lion", "NAdam", "Optimizer", "OptimizerState",
    "RAdam", "RMSProp", "Rprop", "ScheduleFreeAdamW", "get", "names", "table",
]  # fmt: skip

Array: TypeAlias = NDArray[np.floating[Any]]
Arrays: TypeAlias = Array | Sequence[Array] | Mapping[str, Array]


@dataclass
class OptimizerState:
    """What an optimizer remembers between two steps; arrays that can be read, saved and restored.

    Attributes
    ----------
    step : int
        Updates done.
    slots : dict
        Slot name to one array per parameter, in the order of the parameters.
    scalars : ndarray
        float64, whatever the rule keeps besides.
    keys : tuple of str or None
        Names of the parameters when they came as a mapping.
    """

    step: int
    slots: dict[str, list[Array]]
    scalars: NDArray[np.float64]
    keys: tuple[str, ...] | None = None
    rule: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "rule": None}


class OptimizerEngine(Protocol):
    """What computes updates; `fastopt` gives the native one to `Optimizer` when it is imported."""

    def init(self, optimizer: "Optimizer", params: Arrays) -> OptimizerState: ...

    def step(self, optimizer: "Optimizer", params: Arrays, grads: Arrays, state: OptimizerState, learning_rate: float | None) -> None: ...

    def evaluation_point(self, optimizer: "Optimizer", params: Arrays, state: OptimizerState) -> list[Array]: ...


class Optimizer(NamedSpec, Method):
    """Base of all optimizers, each also a method of `fastopt.minimize` and of `scipy.optimize.minimize`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> opt, w = fo.optimizers.SGD(learning_rate=0.5), np.array([2.0, -2.0])
    >>> state = opt.init(w)
    >>> opt.step(w, 2 * w, state)
    >>> w.tolist(), state.step
    ([0.0, 0.0], 1)
    """

    not_native: ClassVar[frozenset[str]] = frozenset({"learning_rate"})
    engine: ClassVar[OptimizerEngine]
    learning_rate: float | Schedule

    def init(self, params: Arrays) -> OptimizerState:
        """Fresh state for one array, or a list or dict of arrays, all float32 or all float64."""
        return self.engine.init(self, params)

    def step(self, params: Arrays, grads: Arrays, state: OptimizerState, learning_rate: float | None = None) -> None:
        """Update `params` in place by one fused pass.

        Parameters
        ----------
        params, grads : ndarray, or list or dict of ndarray
            Same dtype and shapes, C-contiguous; `params` writable. Nothing is converted.
        state : OptimizerState
            From `init`; advanced by one step.
        learning_rate : float, optional
            Instead of the optimizer's own for this step.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype, shape or layout, a read-only array or overlapping memory; nothing is changed then.
        """
        self.engine.step(self, params, grads, state, learning_rate)

    def evaluation_point(self, params: Arrays, state: OptimizerState) -> list[Array]:
        """Copies of the weights to evaluate at: the average of a schedule-free rule, else the parameters themselves."""
        return self.engine.evaluation_point(self, params, state)


@spec
class SGD(Optimizer):
    """Gradient descent: `v = momentum v + g`; `d = v`, or `g + momentum v` with nesterov; `w <- w - eta d`.

    Parameters
    ----------
    learning_rate : float or callable
    momentum : float
        In [0, 1).
    nesterov : bool
        Look ahead along the momentum.
    weight_decay : float
        Coupled decay, >= 0.
    decay_all : bool
        Decay biases and batch normalization too.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.SGD(learning_rate=0.1, momentum=0.9, nesterov=True).name
    'sgd'

    References
    ----------
    Robbins and Monro 1951; Polyak 1964; Nesterov 1983; Sutskever et al. 2013.
    """

    name: ClassVar[str] = "sgd"
    learning_rate: float | Schedule = _specs.learning_rate(0.01)
    momentum: float = _specs.fraction(0.0)
    nesterov: bool = _specs.flag(False)
    weight_decay: float = _specs.non_negative(0.0)
    decay_all: bool = _specs.flag(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("SGD: nesterov needs momentum > 0; got momentum 0.0")


@spec
class AdaGrad(Optimizer):
    """`s = s + g^2`; `w <- w - eta g / (sqrt(s) + eps)`.

    Parameters
    ----------
    learning_rate : float or callable
    eps : float
        > 0.
    initial_accumulator : float
        Start of s, >= 0.
    weight_decay, decay_all
        Coupled decay, see `SGD`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.AdaGrad().learning_rate
    0.01

    References
    ----------
    Duchi, Hazan and Singer 2011.
    """

    name: ClassVar[str] = "adagrad"
    learning_rate: float | Schedule = _specs.learning_rate(0.01)
    eps: float = _specs.positive(1e-10)
    initial_accumulator: float = _specs.non_negative(0.0)
    weight_decay: float = _specs.non_negative(0.0)
    decay_all: bool = _specs.flag(False)


@spec
class AdaGradNorm(Optimizer):
    """One scalar `s = s + |g|^2` over all parameters; `w <- w - eta g / sqrt(eps + s)`.

    Parameters
    ----------
    learning_rate : float or callable
    eps : float
        > 0.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.AdaGradNorm().name
    'adagrad_norm'

    References
    ----------
    Ward, Wu and Bottou 2019, "AdaGrad stepsizes".
    """

    name: ClassVar[str] = "adagrad_norm"
    learning_rate: float | Schedule = _specs.learning_rate(0.1)
    eps: float = _specs.positive(1e-8)


@spec
class RMSProp(Optimizer):
    """`r = rho r + (1 - rho) g^2`; `w <- w - eta g / (sqrt(r) + eps)`; momentum and centering as torch.

    Parameters
    ----------
    learning_rate : float or callable
    rho : float
        Decay of the running square, in [0, 1).
    eps : float
        Outside the root, > 0.
    momentum : float
        In [0, 1).
    centered : bool
        Divide by the running standard deviation instead.
    weight_decay, decay_all
        Coupled decay, see `SGD`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.RMSProp(centered=True).rho
    0.9

    References
    ----------
    Tieleman and Hinton 2012, lecture 6.5; Graves 2013 (centered).
    """

    name: ClassVar[str] = "rmsprop"
    learning_rate: float | Schedule = _specs.learning_rate(0.001)
    rho: float = _specs.fraction(0.9)
    eps: float = _specs.positive(1e-8)
    momentum: float = _specs.fraction(0.0)
    centered: bool = _specs.flag(False)
    weight_decay: float = _specs.non_negative(0.0)
    decay_all: bool = _specs.flag(False)


@spec
class AdaDelta(Optimizer):
    """`r = rho r + (1 - rho) g^2`; `D = sqrt(h + eps) / sqrt(r + eps) g`; `h = rho h + (1 - rho) D^2`; `w <- w - eta D`.

    Parameters
    ----------
    learning_rate : float or callable
    rho : float
        In [0, 1).
    eps : float
        > 0.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.AdaDelta().learning_rate
    1.0

    References
    ----------
    Zeiler 2012.
    """

    name: ClassVar[str] = "adadelta"
    learning_rate: float | Schedule = _specs.learning_rate(1.0)
    rho: float = _specs.fraction(0.95)
    eps: float = _specs.positive(1e-6)


@spec
class Adam(Optimizer):
    """`m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, bias-corrected; `w <- w - eta m / (sqrt(v) + eps)`.

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2 : float
        In [0, 1).
    eps : float
        > 0.
    amsgrad : bool
        Use the maximum of v so far, before correction.
    weight_decay, decay_all
        Coupled decay, see `SGD`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.Adam(learning_rate=fo.schedules.cosine_decay(1e-3, steps=1000)).beta1
    0.9

    References
    ----------
    Kingma and Ba 2015; Reddi, Kale and Kumar 2018 (amsgrad).
    """

    name: ClassVar[str] = "adam"
    learning_rate: float | Schedule = _specs.learning_rate(0.001)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.999)
    eps: float = _specs.positive(1e-8)
    amsgrad: bool = _specs.flag(False)
    weight_decay: float = _specs.non_negative(0.0)
    decay_all: bool = _specs.flag(False)


@spec
class AdamW(Optimizer):
    """Decoupled decay `w <- w (1 - eta weight_decay)`, then Adam.

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2, eps, amsgrad
        See `Adam`.
    weight_decay : float
        >= 0.
    decay_all : bool
        Decay biases and batch normalization too.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.AdamW().weight_decay
    0.01

    References
    ----------
    Loshchilov and Hutter 2019.
    """

    name: ClassVar[str] = "adamw"
    learning_rate: float | Schedule = _specs.learning_rate(0.001)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.999)
    eps: float = _specs.positive(1e-8)
    amsgrad: bool = _specs.flag(False)
    weight_decay: float = _specs.non_negative(0.01)
    decay_all: bool = _specs.flag(False)


@spec
class NAdam(Optimizer):
    """Adam with Nesterov momentum: `mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)`, mixed as Dozat and torch do.

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2, eps
        See `Adam`.
    momentum_decay : float
        >= 0.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.NAdam().momentum_decay
    0.004

    References
    ----------
    Dozat 2016.
    """

    name: ClassVar[str] = "nadam"
    learning_rate: float | Schedule = _specs.learning_rate(0.002)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.999)
    eps: float = _specs.positive(1e-8)
    momentum_decay: float = _specs.non_negative(0.004)


@spec
class RAdam(Optimizer):
    """Adam whose step is rectified by the variance of v when rho_t > 5, and plain momentum before.

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2, eps
        See `Adam`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.RAdam().name
    'radam'

    References
    ----------
    Liu et al. 2020.
    """

    name: ClassVar[str] = "radam"
    learning_rate: float | Schedule = _specs.learning_rate(0.001)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.999)
    eps: float = _specs.positive(1e-8)


@spec
class AdaMax(Optimizer):
    """`m = beta1 m + (1 - beta1) g`, `u = max(beta2 u, |g| + eps)`; `w <- w - eta / (1 - beta1^t) m / u`.

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2, eps
        See `Adam`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.AdaMax().learning_rate
    0.002

    References
    ----------
    Kingma and Ba 2015, section 7.1.
    """

    name: ClassVar[str] = "adamax"
    learning_rate: float | Schedule = _specs.learning_rate(0.002)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.999)
    eps: float = _specs.positive(1e-8)


@spec
class Lion(Optimizer):
    """`w <- (1 - eta wd) w - eta sign(beta1 m + (1 - beta1) g)`; `m = beta2 m + (1 - beta2) g`.

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2 : float
        In [0, 1).
    weight_decay, decay_all
        Decoupled decay, see `AdamW`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.Lion().beta2
    0.99

    References
    ----------
    Chen et al. 2023, "Symbolic discovery of optimization algorithms".
    """

    name: ClassVar[str] = "lion"
    learning_rate: float | Schedule = _specs.learning_rate(1e-4)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.99)
    weight_decay: float = _specs.non_negative(0.0)
    decay_all: bool = _specs.flag(False)


@spec
class Rprop(Optimizer):
    """A step size per weight, grown or shrunk by the sign of successive gradients; for the full batch.

    Parameters
    ----------
    learning_rate : float or callable
        First step size; later values matter only where they are 0, which moves nothing.
    etas : (float, float)
        Factors when the sign changes (in (0, 1)) and when it does not (> 1).
    step_sizes : (float, float)
        Smallest and largest step.

    Raises
    ------
    ValueError
        For factors or steps in the wrong order.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.Rprop().etas
    (0.5, 1.2)

    References
    ----------
    Riedmiller and Braun 1993; the variant of torch.
    """

    name: ClassVar[str] = "rprop"
    learning_rate: float | Schedule = _specs.learning_rate(0.01)
    etas: tuple[float, float] = _specs.numbers((0.5, 1.2), low=0.0, low_open=True, length=2)
    step_sizes: tuple[float, float] = _specs.numbers((1e-6, 50.0), low=0.0, low_open=True, length=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.etas[0] < 1.0 < self.etas[1]:
            raise ValueError(f"Rprop: etas must be (below 1, above 1); got {self.etas}")
        if self.step_sizes[0] > self.step_sizes[1]:
            raise ValueError(f"Rprop: step_sizes must be (smallest, largest); got {self.step_sizes}")


@spec
class ScheduleFreeAdamW(Optimizer):
    """AdamW on an interpolated point with an average of the iterates, which evaluation uses; needs no decay of the rate.

    `y = (1 - beta1) z + beta1 x`: gradients are taken at y, z makes the steps, x is the average. Both are kept in slots, so the next step
    undoes weights written through `network.parameters` or `network.load_state_dict`: call `Trainer.reset()` after writing, and training
    starts from them (alone on arrays, `init` again).

    Parameters
    ----------
    learning_rate : float or callable
    beta1, beta2, eps
        See `Adam`.
    weight_decay, decay_all
        Decoupled decay, see `AdamW`.
    warmup_steps : int
        Steps of linear warm-up, >= 0.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.ScheduleFreeAdamW(warmup_steps=100).name
    'schedule_free_adamw'

    References
    ----------
    Defazio et al. 2024, "The road less scheduled".
    """

    name: ClassVar[str] = "schedule_free_adamw"
    learning_rate: float | Schedule = _specs.learning_rate(0.0025)
    beta1: float = _specs.fraction(0.9)
    beta2: float = _specs.fraction(0.999)
    eps: float = _specs.positive(1e-8)
    weight_decay: float = _specs.non_negative(0.0)
    decay_all: bool = _specs.flag(False)
    warmup_steps: int = _specs.integer(0)


_TABLE = _specs.registry(
    "optimizer",
    (SGD, AdaGrad, AdaGradNorm, RMSProp, AdaDelta, Adam, AdamW, NAdam, RAdam, AdaMax, Lion, Rprop, ScheduleFreeAdamW),
)


def table() -> dict[str, type[Optimizer]]:
    """Every name and alias with its class."""
    return dict(_TABLE)


def names() -> list[str]:
    """Registry names of all optimizers."""
    return list(dict.fromkeys(cls.name for cls in _TABLE.values()))


def get(optimizer: "str | Optimizer") -> Optimizer:
    """An optimizer as given, or by its name.

    Raises
    ------
    ValueError
        For an unknown name; the text lists the known ones.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.optimizers.get("adam").learning_rate
    0.001
    """
    return _specs.lookup("optimizer", _TABLE, Optimizer, optimizer)
