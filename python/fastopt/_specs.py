"""What layers, losses, optimizers and schedules have in common: frozen values that check their own fields.

A field is declared with one of the functions below (`positive`, `fraction`, `flag`, ...); `Spec.__post_init__` runs the checks of all
fields and `Spec.config` turns a spec into the plain mapping that the native core reads. Nothing compiled is imported here.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar, dataclass_transform

from fastopt._method import Method

ConfigValue: TypeAlias = bool | int | float | str | Sequence[float]
Check: TypeAlias = Callable[[str, Any], Any]
Schedule: TypeAlias = Callable[[int], float]
C = TypeVar("C")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def spec(cls: type[C]) -> type[C]:
    """A frozen dataclass with keyword-only fields.

    Equality, hash and text come from `Spec`: generating them for fifty classes took half of the time of `import fastopt`.
    """
    return _names_options(dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)(cls))


@dataclass_transform(frozen_default=True)
def positional_spec(cls: type[C]) -> type[C]:
    """As `spec`, with fields that may be given by position."""
    return _names_options(dataclasses.dataclass(frozen=True, eq=False, repr=False, match_args=False)(cls))


_ELSEWHERE = {"lr": "learning_rate", "eta": "learning_rate", "betas": "beta1 and beta2", "epsilon": "eps", "p": "rate"}


def _names_options(cls: type[C]) -> type[C]:
    """Let a call with an option that there is not say which ones there are."""
    init, known = cls.__init__, [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(init)
    def _checked(self: C, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in known:
                meant = _ELSEWHERE.get(name, "")
                hint = f"; it is called {meant} here" if meant.split(" ")[0] in known else ""
                raise TypeError(f"{cls.__name__} has no option {name!r}{hint}; its options are: {', '.join(known) or 'none'}")
        init(self, *args, **options)

    setattr(cls, "__init__", _checked)  # noqa: B010 - mypy takes the assignment for another signature
    return cls


@functools.cache
def _names(cls: type) -> tuple[str, ...] | None:
    """Of the fields; a class of somebody's own need not be a dataclass."""
    return tuple(field.name for field in dataclasses.fields(cls)) if "__dataclass_fields__" in vars(cls) else None


class Spec:
    """A frozen description; subclasses are decorated by `spec` or `positional_spec`."""

    not_native: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            check: Check | None = field.metadata.get("check")
            if check is not None:
                value = getattr(self, field.name)
                checked = check(f"{type(self).__name__}: {field.name}", value)
                if checked is not value:
                    object.__setattr__(self, field.name, checked)

    def _values(self) -> dict[str, Any]:
        names = _names(type(self))  # type: ignore[arg-type]
        return dict(vars(self)) if names is None else {name: getattr(self, name) for name in names}

    def _shown(self) -> dict[str, Any]:
        """What the text says, enough to give the spec back."""
        return self._values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._shown().items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values().values()))

    def config(self) -> dict[str, ConfigValue]:
        """Options for the native core; fields that are None or not native are left out."""
        out: dict[str, ConfigValue] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None and field.name not in self.not_native:
                out[field.name] = list(value) if isinstance(value, tuple) else value
        return out


class NamedSpec(Spec):
    """A spec that is also known by a name and perhaps by aliases."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number; got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number; got {value!r}") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number; got nan")
    return number


def check_integer(name: str, value: Any, *, low: int) -> int:
    """An int from `low` to 2**63 - 1, which the native core and a checkpoint can hold; integral NumPy scalars are accepted."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    number = int(value.__index__())
    if number < low:
        raise ValueError(f"{name} must be at least {low}; got {number}")
    if number >= 2**63:
        raise ValueError(f"{name} must be below 2**63; got {number}")
    return number


def check_seed(seed: Any, name: str = "seed") -> int:
    """An int from 0 to 2**63 - 1."""
    return check_integer(name, seed, low=0)


def check_number(name: str, value: Any, *, low: float, high: float, low_open: bool, high_open: bool) -> float:
    """A float inside an interval, infinite values excluded."""
    number = _real(name, value)
    below = number <= low if low_open else number < low
    above = number >= high if high_open else number > high
    if math.isinf(number) and not ((below and low > -math.inf) or (above and high < math.inf)):
        raise ValueError(f"{name} must be finite; got {number!r}")
    if below or above:
        left, right = "(" if low_open else "[", ")" if high_open else "]"
        if high == math.inf:
            raise ValueError(f"{name} must be {'greater than' if low_open else 'at least'} {low:g}; got {number!r}")
        raise ValueError(f"{name} must lie in {left}{low:g}, {high:g}{right}; got {number!r}")
    return number


def _field(default: Any, check: Check) -> Any:
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"check": check})
    return dataclasses.field(default=default, metadata={"check": check})


def checked(check: Check) -> Any:
    """A required field with a check of its own, which returns the value to keep."""
    return _field(dataclasses.MISSING, check)


def number(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    optional: bool = False,
) -> Any:
    """A float field inside an interval; with `optional` None is legal too."""

    def check(name: str, value: Any) -> Any:
        if optional and value is None:
            return None
        return check_number(name, value, low=low, high=high, low_open=low_open, high_open=high_open)

    return _field(default, check)


def positive(default: Any = dataclasses.MISSING) -> Any:
    """A float field greater than 0."""
    return number(default, low=0.0, low_open=True)


def non_negative(default: Any = dataclasses.MISSING) -> Any:
    """A float field of at least 0."""
    return number(default, low=0.0)


def fraction(default: Any = dataclasses.MISSING) -> Any:
    """A float field in [0, 1)."""
    return number(default, low=0.0, high=1.0, high_open=True)


def integer(default: Any = dataclasses.MISSING, *, low: int = 0) -> Any:
    """An int field of at least `low`."""
    return _field(default, lambda name, value: check_integer(name, value, low=low))


def check_flag(name: str, value: Any) -> bool:
    """A bool, also NumPy's."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} must be True or False; got {value!r}")


def flag(default: bool) -> Any:
    """A bool field."""
    return _field(default, check_flag)


def choice(default: Any, options: Iterable[str], *, optional: bool = False) -> Any:
    """A string field out of `options`."""
    known = tuple(options)

    def check(name: str, value: Any) -> Any:
        if optional and value is None:
            return None
        if not isinstance(value, str):
            raise TypeError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        return value

    return _field(default, check)


def numbers(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    length: int | None = None,
) -> Any:
    """A field that holds a tuple of floats inside an interval."""

    def check(name: str, value: Any) -> tuple[float, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise TypeError(f"{name} must be a sequence of numbers; got {value!r}")
        values = tuple(
            check_number(f"{name}[{i}]", v, low=low, high=high, low_open=low_open, high_open=high_open) for i, v in enumerate(value)
        )
        if not values or (length is not None and len(values) != length):
            raise ValueError(f"{name} must have {f'{length} entries' if length else 'at least one entry'}; got {len(values)}")
        return values

    return _field(default, check)


def learning_rate(default: float) -> Any:
    """A learning rate: a float of at least 0, or a callable of the step number."""

    return _field(default, check_rate)


def check_rate(name: str, value: Any) -> Any:
    """A rate of at least 0, or a callable of the step number."""
    if isinstance(value, type) and issubclass(value, Spec):
        raise TypeError(f"{name} must be a number or a schedule; got the class {value.__name__}: write {value.__name__}(...)")
    if callable(value) and not isinstance(value, Method):
        return value
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number or a schedule (a function of the step); got {value!r}")
    return check_number(name, value, low=0.0, high=math.inf, low_open=False, high_open=True)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say to a name that there is not."""
    import difflib

    known = list(known)
    bare = {each.replace("_", ""): each for each in known}
    wanted = "".join(c for c in name.lower() if c.isalnum())
    ends = [b for b in bare if min(len(b), len(wanted)) > 2 and (_ends(b, wanted) or _ends(wanted, b))]
    swapped = [b for b in bare if sorted(b) == sorted(wanted)]  # the name itself, too
    near = swapped or sorted(ends, key=len)[-1:] or difflib.get_close_matches(wanted, bare, 1)
    hint = f" (did you mean {bare[near[0]]!r}?)" if near else ""
    return f"{kind} {name!r} is not known; known are: {', '.join(known)}{hint}"


def _ends(whole: str, part: str) -> bool:
    return whole.startswith(part) or whole.endswith(part)


T = TypeVar("T", bound=NamedSpec)


def registry(kind: str, classes: Sequence[type[T]]) -> dict[str, type[T]]:
    """Table from every name and alias to its class; a duplicate raises."""
    table: dict[str, type[T]] = {}
    for cls in classes:
        for name in (cls.name, *cls.aliases):
            if name in table:
                raise ValueError(f"two {kind}s are called {name!r}")
            table[name] = cls
    return table


def lookup(kind: str, table: Mapping[str, type[T]], base: type[T], value: object) -> T:
    """A spec as given, or the spec of that name with its defaults."""
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        cls = table.get(value.lower().replace("-", "_"))
        if cls is None:
            raise ValueError(unknown(kind, value, sorted(table)))
        try:
            return cls()
        except TypeError:
            raise ValueError(f"{kind} {value!r} has no default options; give {cls.__name__}(...) instead of its name") from None
    if isinstance(value, type) and issubclass(value, base):
        raise TypeError(f"{kind} must be an instance; got the class {value.__name__}: write {value.__name__}()")
    article = "an" if base.__name__[0] in "AEIOU" else "a"
    raise TypeError(f"{kind} must be a name or {article} {base.__name__}; got {type(value).__name__}")
