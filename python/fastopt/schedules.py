# ruff: noqa: N801 - schedules are read as functions
"""Learning rates as functions of the step t = 0, 1, 2, ...

Every schedule is a frozen callable; `values(t0, n)` gives the rates of n steps at once, so training asks at most once per epoch.
They join and nest freely, and any callable of the step may stand in for one. Where the lectures' conditions for convergence of
stochastic gradient descent hold (sum of rates infinite, sum of squared rates finite) the docstring says so.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastopt import _specs
from fastopt._specs import NamedSpec, positional_spec

__all__ = [
    "Schedule", "ScheduleLike", "constant", "cosine_decay", "cosine_restarts", "exponential_decay", "hold", "inverse_time_decay", "join",
    "linear", "one_cycle", "piecewise", "power_decay", "step_decay", "values", "warmup",
]  # fmt: skip

Floats: TypeAlias = NDArray[np.float64]
ScheduleLike: TypeAlias = float | Callable[[int], float]


class Schedule(NamedSpec):
    """Base of all schedules."""

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        raise NotImplementedError

    def values(self, t0: int, n: int) -> Floats:
        """Rates of the steps t0, ..., t0 + n - 1, float64."""
        return np.asarray(self.rates(np.arange(t0, t0 + n, dtype=np.float64)), dtype=np.float64)

    def __call__(self, t: int) -> float:
        """Rate of step t."""
        return float(self.values(t, 1)[0])


def values(schedule: ScheduleLike, t0: int, n: int) -> Floats:
    """Rates of n steps from t0 of a schedule, a number or a plain callable.

    Raises
    ------
    TypeError, ValueError
        When a rate is no number, negative or not finite.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.values(lambda t: 1 / (t + 1), 0, 2).tolist()
    [1.0, 0.5]
    """
    if isinstance(schedule, Schedule):
        with np.errstate(over="ignore", invalid="ignore"):  # a rate that is no number is told below, with its step
            rates = schedule.values(t0, n)
        if rates.shape != (n,):
            raise ValueError(f"learning_rate: {type(schedule).__name__} must give one rate per step, shape ({n},); got {rates.shape}")
    elif callable(schedule):
        rates = np.array([_rate(schedule, t) for t in range(t0, t0 + n)], dtype=np.float64)
    else:
        rates = np.full(n, float(schedule))
    if n and not (rates.min() >= 0.0 and math.isfinite(rates.max())):
        wrong = int(np.flatnonzero(~((rates >= 0.0) & np.isfinite(rates)))[0])
        rate = float(rates[wrong])
        raise ValueError(f"learning_rate: the schedule gives {rate!r} at step {t0 + wrong}; rates must be finite and not negative")
    return rates


def depends_on_step_alone(schedule: ScheduleLike) -> bool:
    """Whether all of it is of this library; a function of somebody else's may look at the clock, or at the trainer."""
    if not callable(schedule):
        return True
    if not isinstance(schedule, Schedule) or type(schedule).__module__ != __name__:
        return False
    values = [getattr(schedule, field.name) for field in fields(schedule)]  # type: ignore[arg-type]
    return all(depends_on_step_alone(part) for value in values for part in (value if isinstance(value, tuple) else (value,)))


def _rate(schedule: Callable[[int], Any], t: int) -> float:
    """What somebody else's schedule gives, as a number."""
    rate = schedule(t)
    try:
        if not isinstance(rate, str | bool | np.bool_):
            return float(rate)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"learning_rate: the schedule gives {rate!r} at step {t}; a rate must be one number")


def _at(schedule: ScheduleLike, t: Floats) -> Floats:
    if isinstance(schedule, Schedule):
        return schedule.rates(t)
    if callable(schedule):
        return np.array([_rate(schedule, int(step)) for step in t], dtype=np.float64)
    return np.full(t.shape, float(schedule))


def _schedule_field(name: str, value: Any) -> Any:
    return _specs.check_rate(name, value)


def _schedule_fields(name: str, value: Any) -> tuple[ScheduleLike, ...]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be several schedules or numbers; got {value!r}")
    return tuple(_schedule_field(f"{name}[{i}]", schedule) for i, schedule in enumerate(value))


@positional_spec
class constant(Schedule):
    """The same rate always.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.constant(0.1)(7)
    0.1
    """

    name: ClassVar[str] = "constant"
    learning_rate: float = _specs.non_negative()

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return np.full(t.shape, self.learning_rate)


@positional_spec
class step_decay(Schedule):
    """`eta0 factor^floor(t / every)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.step_decay(1.0, every=2, factor=0.5).values(0, 5).tolist()
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    name: ClassVar[str] = "step_decay"
    learning_rate: float = _specs.non_negative()
    every: int = _specs.integer(low=1)
    factor: float = _specs.positive(0.1)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return self.learning_rate * self.factor ** np.floor(t / self.every)


@positional_spec
class exponential_decay(Schedule):
    """`eta0 rate^(t / every)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.exponential_decay(1.0, rate=0.5)(2)
    0.25
    """

    name: ClassVar[str] = "exponential_decay"
    learning_rate: float = _specs.non_negative()
    rate: float = _specs.positive()
    every: int = _specs.integer(1, low=1)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return self.learning_rate * self.rate ** (t / self.every)


@positional_spec
class inverse_time_decay(Schedule):
    """`eta0 / (1 + delta t)`; meets the conditions: the sum of rates is infinite, that of squared rates finite (delta > 0).

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.inverse_time_decay(1.0, delta=0.5)(2)
    0.5
    """

    name: ClassVar[str] = "inverse_time_decay"
    learning_rate: float = _specs.non_negative()
    delta: float = _specs.non_negative()

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return self.learning_rate / (1.0 + self.delta * t)


@positional_spec
class power_decay(Schedule):
    """`eta0 / (t + 1)^delta`, delta in (1/2, 1]: exactly where both conditions of convergence hold.

    Raises
    ------
    ValueError
        For a delta outside (0.5, 1].

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.power_decay(1.0, delta=1.0)(3)
    0.25
    """

    name: ClassVar[str] = "power_decay"
    learning_rate: float = _specs.non_negative()
    delta: float = _specs.number(low=0.5, high=1.0, low_open=True)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return self.learning_rate / (t + 1.0) ** self.delta


@positional_spec
class linear(Schedule):
    """From eta0 to `end` in `steps` steps on a straight line, then `end`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.linear(1.0, steps=4).values(0, 6).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    name: ClassVar[str] = "linear"
    learning_rate: float = _specs.non_negative()
    steps: int = _specs.integer(low=1)
    end: float = _specs.non_negative(0.0)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        share = np.minimum(t / self.steps, 1.0)
        return np.where(share < 1.0, self.learning_rate + (self.end - self.learning_rate) * share, self.end)


def _cosine(start: float, end: float, share: Floats) -> Floats:
    return end + (start - end) * (0.5 + 0.5 * np.cos(np.pi * share))


@positional_spec
class cosine_decay(Schedule):
    """`end + (eta0 - end) (1 + cos(pi t / steps)) / 2`, then `end`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.cosine_decay(1.0, steps=2).values(0, 3).round(12).tolist()
    [1.0, 0.5, 0.0]

    References
    ----------
    Loshchilov and Hutter 2017, "SGDR".
    """

    name: ClassVar[str] = "cosine_decay"
    learning_rate: float = _specs.non_negative()
    steps: int = _specs.integer(low=1)
    end: float = _specs.non_negative(0.0)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return _cosine(self.learning_rate, self.end, np.minimum(t / self.steps, 1.0))


@positional_spec
class cosine_restarts(Schedule):
    """Cosine decay that starts anew after `steps` steps, each period `factor` times longer than the one before.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.cosine_restarts(1.0, steps=2).values(0, 4).round(12).tolist()
    [1.0, 0.5, 1.0, 0.5]

    References
    ----------
    Loshchilov and Hutter 2017, "SGDR".
    """

    name: ClassVar[str] = "cosine_restarts"
    learning_rate: float = _specs.non_negative()
    steps: int = _specs.integer(low=1)
    factor: float = _specs.number(1.0, low=1.0)
    end: float = _specs.non_negative(0.0)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        if self.factor == 1.0:
            return _cosine(self.learning_rate, self.end, np.mod(t, self.steps) / self.steps)
        starts, length, start = [0.0], float(self.steps), 0.0
        last = float(t.max(initial=0.0))
        while start + length <= last:
            start += length
            length *= self.factor
            starts.append(start)
        begin = np.array(starts)
        period = np.searchsorted(begin, t, side="right") - 1
        return _cosine(self.learning_rate, self.end, (t - begin[period]) / (self.steps * self.factor**period))


@positional_spec
class one_cycle(Schedule):
    """Cosine from `eta0 / start_factor` up to eta0 in the first `warmup_fraction` of `steps`, then cosine down to `eta0 / end_factor`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.one_cycle(1.0, steps=10, warmup_fraction=0.5, start_factor=4.0).values(0, 6).round(3).tolist()
    [0.25, 0.322, 0.509, 0.741, 0.928, 1.0]

    References
    ----------
    Smith and Topin 2018, "Super-convergence".
    """

    name: ClassVar[str] = "one_cycle"
    learning_rate: float = _specs.non_negative()
    steps: int = _specs.integer(low=2)
    warmup_fraction: float = _specs.fraction(0.3)
    start_factor: float = _specs.number(25.0, low=1.0)
    end_factor: float = _specs.number(1e5, low=1.0)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        peak, up = self.learning_rate, self.warmup_fraction * self.steps
        rise = _cosine(peak / self.start_factor, peak, t / up) if up > 0.0 else t
        fall = _cosine(peak, peak / self.end_factor, np.clip((t - up) / (self.steps - up), 0.0, 1.0))
        return np.where(t < up, rise, fall)


@positional_spec
class piecewise(Schedule):
    """`learning_rates[i]` for boundaries[i-1] <= t < boundaries[i]: one rate more than boundaries.

    Raises
    ------
    ValueError
        When lengths do not fit or boundaries do not grow.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.piecewise((2, 4), (1.0, 0.1, 0.01)).values(0, 5).tolist()
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """

    name: ClassVar[str] = "piecewise"
    boundaries: tuple[float, ...] = _specs.numbers(low=0.0)
    learning_rates: tuple[float, ...] = _specs.numbers(low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.learning_rates) != len(self.boundaries) + 1:
            got = f"{len(self.learning_rates)} and {len(self.boundaries)}"
            raise ValueError(f"piecewise: learning_rates must have one entry more than boundaries; got {got}")
        _check_growing("piecewise", self.boundaries)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return np.array(self.learning_rates)[np.searchsorted(self.boundaries, t, side="right")]


def _check_growing(name: str, boundaries: Sequence[float]) -> None:
    if any(b <= a for a, b in pairwise(boundaries)):
        raise ValueError(f"{name}: boundaries must grow; got {tuple(boundaries)}")


@positional_spec
class warmup(Schedule):
    """`schedule(0) (t + 1) / steps` for the first steps, then the schedule from its start, `schedule(t - steps)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.warmup(1.0, steps=4).values(0, 5).tolist()
    [0.25, 0.5, 0.75, 1.0, 1.0]

    References
    ----------
    Goyal et al. 2017, "Accurate, large minibatch SGD".
    """

    name: ClassVar[str] = "warmup"
    schedule: ScheduleLike = _specs.checked(_schedule_field)
    steps: int = _specs.integer(low=1)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        later = _at(self.schedule, np.maximum(t - self.steps, 0.0))
        return np.where(t < self.steps, later * np.minimum((t + 1.0) / self.steps, 1.0), later)


@positional_spec
class hold(Schedule):
    """`schedule(0)` for the first steps, then the schedule from its start, `schedule(t - steps)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.hold(fo.schedules.linear(1.0, steps=2), steps=2).values(0, 5).tolist()
    [1.0, 1.0, 1.0, 0.5, 0.0]
    """

    name: ClassVar[str] = "hold"
    schedule: ScheduleLike = _specs.checked(_schedule_field)
    steps: int = _specs.integer(low=1)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        return _at(self.schedule, np.maximum(t - self.steps, 0.0))


@positional_spec
class join(Schedule):
    """One schedule after the other: `schedules[i](t - boundaries[i-1])` from boundaries[i-1] on.

    Raises
    ------
    ValueError
        When lengths do not fit or boundaries do not grow.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.schedules.join((1.0, fo.schedules.linear(0.5, steps=2)), (2,)).values(0, 5).tolist()
    [1.0, 1.0, 0.5, 0.25, 0.0]
    """

    name: ClassVar[str] = "join"
    schedules: tuple[ScheduleLike, ...] = _specs.checked(_schedule_fields)
    boundaries: tuple[float, ...] = _specs.numbers(low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.schedules) != len(self.boundaries) + 1:
            raise ValueError(
                f"join: schedules must have one entry more than boundaries; got {len(self.schedules)} and {len(self.boundaries)}"
            )
        _check_growing("join", self.boundaries)

    def rates(self, t: Floats) -> Floats:
        """Rates at an array of steps."""
        out = np.empty(t.shape)
        piece = np.searchsorted(self.boundaries, t, side="right")
        for i, schedule in enumerate(self.schedules):
            here = piece == i
            if here.any():
                out[here] = _at(schedule, t[here] - (self.boundaries[i - 1] if i else 0.0))
        return out


_TABLE = _specs.registry(
    "schedule",
    (
        constant, step_decay, exponential_decay, inverse_time_decay, power_decay, linear, cosine_decay, cosine_restarts, one_cycle,
        piecewise, warmup, hold, join,
    ),
)  # fmt: skip


def names() -> list[str]:
    """Names of all schedules."""
    return list(_TABLE)


def to_config(schedule: ScheduleLike) -> Any:
    """A schedule as numbers, strings, lists and dicts; None for a plain callable, which cannot be written down."""
    if not isinstance(schedule, Schedule):
        return None if callable(schedule) else float(schedule)
    if type(schedule) not in _TABLE.values():  # somebody's own
        return None
    out: dict[str, Any] = {"kind": schedule.name}
    for field in fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, field.name)
        many = isinstance(value, tuple)
        parts = [to_config(v) if callable(v) else v for v in (value if many else (value,))]
        if any(part is None for part in parts):
            return None
        out[field.name] = parts if many else parts[0]
    return out


def from_config(config: Any) -> ScheduleLike:
    """The schedule that `to_config` wrote down."""
    if not isinstance(config, dict):
        return float(config)

    def part(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(part(v) for v in value)
        return from_config(value) if isinstance(value, dict) else value

    options = {key: part(value) for key, value in config.items() if key != "kind"}
    return _TABLE[config["kind"]](**options)
