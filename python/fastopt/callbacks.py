"""What may happen between epochs: stop, lower the rate, keep the best, watch gradients, log.

A callback is a plain function `(trainer, row)`, or an object of a class derived from `Callback`; one that returns True ends the fit.
`row` is the row of the history and may be added to, for the callbacks behind. A column to monitor that is not there is refused before the
first epoch, or after it when a callback of the user's own stands before the one that monitors.
"""

from __future__ import annotations

import csv
import math
import os
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastopt import _specs, _state, metrics
from fastopt._callback import Callback, Row, check_monitor
from fastopt.monitor import GradientMonitor, LearningRateFinder, LearningRateRange

if TYPE_CHECKING:
    from fastopt.training import Trainer

__all__ = [
    "CSVLogger", "Callback", "EarlyStopping", "GradientMonitor", "LearningRateFinder", "LearningRateRange", "ModelCheckpoint",
    "ReduceOnPlateau", "Row",
]  # fmt: skip


class _Monitor(Callback):
    """Follows one column of the history and knows when it got better."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be auto, min or max; got {mode!r}")
        self.monitor, self.mode = monitor, mode
        self.min_delta = _specs.check_number("min_delta", min_delta, low=0.0, high=math.inf, low_open=False, high_open=True)
        self.best, self.best_epoch = math.nan, -1

    def _largest(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        return metrics.larger_is_better(self.monitor) is True

    @property
    def doubt(self) -> str:
        """What the user should say, when it is not known which values of the column are better."""
        if self.mode != "auto" or metrics.larger_is_better(self.monitor) is not None:
            return ""
        return f"{type(self).__name__} takes small values of {self.monitor!r} for better; say mode='max' or mode='min'"

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.best, self.best_epoch = math.nan, -1

    def _improved(self, row: Row) -> bool:
        check_monitor(self.monitor, row)
        value = float(row[self.monitor])
        gain = value - self.best if self._largest() else self.best - value
        if math.isnan(value) or not (math.isnan(self.best) or gain > self.min_delta):
            return False
        self.best, self.best_epoch = value, int(row["epoch"])
        return True


class EarlyStopping(_Monitor):
    """End the fit when a column has not become better by more than `min_delta` for `patience` epochs; restore the best state.

    Parameters
    ----------
    patience : int
        Epochs without improvement, >= 1.
    min_delta : float
        Smallest change that counts, >= 0.
    monitor : str
        Column of the history.
    mode : str
        "min", "max", or "auto": max for metrics of this library of which larger is better, else min, with a warning when the column is
        one of your own.
    restore_best : bool
        Put back weights, statistics and optimizer state of the best epoch at the end of the fit.

    Raises
    ------
    ValueError
        When the history has no such column.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.callbacks.EarlyStopping(patience=5, monitor="val_accuracy").patience
    5

    References
    ----------
    Prechelt 1998, "Early stopping - but when?"
    """

    def __init__(
        self, *, patience: int = 5, min_delta: float = 0.0, monitor: str = "val_loss", mode: str = "auto", restore_best: bool = True
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = _specs.check_integer("patience", patience, low=1)
        self.restore_best = _specs.check_flag("restore_best", restore_best)
        self.stopped_epoch: int | None = None
        self._waited = 0
        self._state: dict[str, NDArray[Any]] | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start counting anew."""
        super().on_fit_begin(trainer)
        self._waited, self._state, self.stopped_epoch = 0, None, None

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """Keep the best state, or count."""
        if self._improved(row):
            self._waited = 0
            if self.restore_best:
                self._state = _keep(trainer, self._state)
            return None
        self._waited += 1
        if self._waited >= self.patience:
            self.stopped_epoch = int(row["epoch"])
            return True
        return None

    def on_fit_end(self, trainer: Trainer) -> None:
        """Restore the best state."""
        if self._state is not None:
            scale = trainer.rate_scale
            trainer.load_state_dict(self._state)
            trainer.rate_scale = scale
            self._state = None


def _keep(trainer: Trainer, old: dict[str, NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
    """The trainer's state, copied into the arrays of the state kept before."""
    if old is None:
        return trainer.state_dict()
    _state.copy_into(trainer, old)
    return old


class ReduceOnPlateau(_Monitor):
    """Multiply the learning rate by `factor` when a column has not become better for `patience` epochs.

    Parameters
    ----------
    factor : float
        In (0, 1).
    patience : int
        Epochs without improvement, >= 1.
    min_delta : float
        Smallest change that counts.
    cooldown : int
        Epochs after a reduction in which none are counted.
    min_scale : float
        Smallest factor in total.
    monitor, mode
        See `EarlyStopping`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.callbacks.ReduceOnPlateau(factor=0.5).factor
    0.5
    """

    needs_rates = True  # which a solver has not

    def __init__(
        self,
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_scale: float = 1e-6,
        monitor: str = "val_loss",
        mode: str = "auto",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = _specs.check_number("factor", factor, low=0.0, high=1.0, low_open=True, high_open=True)
        self.patience = _specs.check_integer("patience", patience, low=1)
        self.cooldown = _specs.check_integer("cooldown", cooldown, low=0)
        self.min_scale = _specs.check_number("min_scale", min_scale, low=0.0, high=1.0, low_open=False, high_open=False)
        self._waited = self._cooling = 0

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start counting anew."""
        super().on_fit_begin(trainer)
        self._waited = self._cooling = 0

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """Count, or reduce."""
        improved, cooling = self._improved(row), self._cooling > 0
        self._cooling -= cooling
        self._waited = 0 if improved or cooling else self._waited + 1
        if self._waited >= self.patience:
            trainer.rate_scale = min(trainer.rate_scale, max(trainer.rate_scale * self.factor, self.min_scale))
            self._waited, self._cooling = 0, self.cooldown
        return None


class ModelCheckpoint(_Monitor):
    """Keep the best state in memory, and in a file if a path is given.

    Parameters
    ----------
    path : path, optional
        Written by `Trainer.save` at each improvement.
    monitor, mode, min_delta
        See `EarlyStopping`.

    Examples
    --------
    >>> import fastopt as fo
    >>> checkpoint = fo.callbacks.ModelCheckpoint(monitor="loss")
    >>> checkpoint.state is None
    True
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, monitor: str = "val_loss", mode: str = "auto", min_delta: float = 0.0
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.path = path
        self.state: dict[str, NDArray[Any]] | None = None
        self._of_this_fit = False

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start anew; what was kept, perhaps of another network, stays until there is something better of this fit."""
        super().on_fit_begin(trainer)
        self._of_this_fit = False

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """Keep the state when it is the best so far."""
        if self._improved(row):
            self.state = _keep(trainer, self.state if self._of_this_fit else None)
            self._of_this_fit = True
            if self.path is not None:
                trainer.save(self.path)
        return None

    def restore(self, trainer: Trainer) -> None:
        """Put the best state into a trainer.

        Raises
        ------
        ValueError
            When nothing was kept yet.
        """
        if self.state is None:
            raise ValueError("nothing was kept yet; fit with this callback first")
        trainer.load_state_dict(self.state)


class CSVLogger(Callback):
    """Write the row of each epoch to a CSV file; the columns are those of the first row, or of the file that is appended to.

    Parameters
    ----------
    path : path
    append : bool
        Add to a file that exists; else it is written anew by each fit.

    Raises
    ------
    ValueError
        At the end of an epoch of which the file has no column.

    Examples
    --------
    >>> import fastopt as fo
    >>> logger = fo.callbacks.CSVLogger("log.csv")
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self.path, self.append = path, append
        self._columns: list[str] | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin a new file, unless it is appended to."""
        self._columns = None
        if self.append and os.path.exists(self.path):
            with open(self.path, encoding="utf-8", newline="") as file:
                self._columns = next(csv.reader(file), None)
            with open(self.path, "rb+") as raw:  # a line that was not written to its end
                if raw.seek(0, os.SEEK_END) and raw.seek(-1, os.SEEK_END) >= 0 and raw.read(1) != b"\n":
                    raw.write(b"\n")
        else:
            open(self.path, "w", encoding="utf-8").close()

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """Add a line."""
        lines: list[list[str]] = []
        if not self._columns:
            self._columns = list(row)
            lines.append(self._columns)
        if not set(self._columns) & set(row):
            raise ValueError(f"{os.fspath(self.path)} has other columns, {', '.join(self._columns)}; log to another file")
        lines.append([str(row.get(name, "")) for name in self._columns])
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
        return None
