"""What a callback is: the object that `Trainer.fit` talks to between epochs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastopt.training import Trainer

Row = dict[str, Any]


class Callback:
    """Base of callbacks; override what is wanted."""

    def __repr__(self) -> str:
        options = [name for name in inspect.signature(type(self)).parameters if name in vars(self)]
        return f"{type(self).__name__}({', '.join(f'{name}={vars(self)[name]!r}' for name in options)})"

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first epoch of a fit."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """After each epoch; True ends the fit."""
        return None

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch, when the fit was not broken off by an error."""


class _Function(Callback):
    def __init__(self, function: Callable[[Trainer, Row], Any]) -> None:
        self._function = function

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        stop = self._function(trainer, row)  # any other value, say of setdefault in a lambda, is none of ours
        return isinstance(stop, bool | np.bool_) and bool(stop)


def as_callback(callback: Any) -> Callback:
    """A callback as given, or a plain function wrapped into one."""
    if isinstance(callback, type):
        raise TypeError(f"callbacks must be instances; got the class {callback.__name__}: write {callback.__name__}()")
    if isinstance(callback, Callback):
        return callback
    if callable(callback):
        return _Function(callback)
    raise TypeError(f"callbacks must be Callback objects or functions (trainer, row); got {type(callback).__name__}")


def as_callbacks(callbacks: Any) -> list[Callback]:
    """Callbacks of a fit, from an iterable or a single one."""
    if isinstance(callbacks, Callback | type) or callable(callbacks):
        callbacks = [callbacks]
    elif not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of Callback objects or functions (trainer, row); got {type(callbacks).__name__}")
    return [as_callback(callback) for callback in callbacks]


def check_monitor(monitor: str, columns: Iterable[str]) -> None:
    """Refuse to follow what is not a column."""
    names = list(columns)
    if monitor not in names:
        raise ValueError(f"monitor {monitor!r} is not a column of the history; there are: {', '.join(names)}")


def check_monitors(callbacks: Iterable[Callback], columns: Iterable[str]) -> None:
    """Do it before the first epoch, up to a callback of the user's own: it may add to the row, and those behind it see what it added."""
    callbacks = list(callbacks)
    for callback in callbacks:
        if isinstance(callback, _Function) or type(callback).__module__.partition(".")[0] != "fastopt":
            break
        if hasattr(callback, "monitor"):
            check_monitor(callback.monitor, columns)
    for callback in callbacks:
        if doubt := getattr(callback, "doubt", ""):
            warnings.warn(doubt, UserWarning, stacklevel=4)  # of the call of fit
