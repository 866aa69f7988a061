"""What a callback is: the object that `Trainer.fit` talks to between epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastopt.training import Trainer

Row = dict[str, Any]


class Callback:
    """Base of callbacks; override what is wanted."""

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
        return self._function(trainer, row) is True


def as_callback(callback: Any) -> Callback:
    """A callback as given, or a plain function wrapped into one."""
    if isinstance(callback, type):
        raise TypeError(f"callbacks must be instances; got the class {callback.__name__}: write {callback.__name__}()")
    if isinstance(callback, Callback):
        return callback
    if callable(callback):
        return _Function(callback)
    raise TypeError(f"callbacks must be Callback objects or functions (trainer, row); got {type(callback).__name__}")
