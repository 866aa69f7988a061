"""The progress bar of a fit: one tqdm bar, drawn at most ten times a second."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastopt import _specs
from fastopt.errors import missing_package


def wanted(progress: bool | None) -> bool:
    """Whether to draw: as asked, by default when standard error is a terminal."""
    if progress is not None:
        return _specs.check_flag("progress", progress)
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):  # none, one of somebody's own, or closed
        return False


@functools.cache
def _bars() -> Any:
    """tqdm under a lock of this process alone.

    Its own lock is one for all processes: a forked child that ends while it draws keeps it, and one whose parent drew in another thread
    waits for that thread, which it does not have.
    """
    from tqdm import tqdm

    class Bars(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread: what it looks after does not happen with `miniters`
        _lock = threading.RLock()

    def renew() -> None:
        Bars._lock = threading.RLock()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return Bars


class Bar:
    """Epoch, loss, validation metrics and samples per second."""

    def __init__(self, first_epoch: int, epochs: int, rows: int | None) -> None:
        try:
            bars = self._bars = _bars()
        except ImportError:
            raise missing_package("tqdm", "examples", "The progress bar") from None
        self._last_epoch, self._drawn = first_epoch + epochs, 0.0
        total = None if rows is None else epochs * rows
        options = {
            "total": total,
            "unit": " samples",
            "unit_scale": True,
            "leave": True,
            "mininterval": 0.1,
            "miniters": 1,
            "dynamic_ncols": True,
        }
        self._silent: Any = bars(disable=True)
        self._bar = self._silent

        def begin() -> None:
            self._bar = bars(**options, disable=sys.stderr is None)

        self._guarded(begin)
        self.epoch(first_epoch)

    def _guarded(self, draw: Callable[[], Any]) -> None:
        """Where nobody reads standard error any more, or its disk is full, training goes on without a bar."""
        try:
            draw()
        except (OSError, ValueError):
            self._let_go()
            self._bar.disable = True  # or it would try again when it is deleted
            self._bar = self._silent
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Of the lock, which tqdm keeps when an exception ends its drawing."""
        with contextlib.suppress(RuntimeError):  # it is not this thread's, or no more
            while True:
                self._bars._lock.release()

    def epoch(self, number: int) -> None:
        """Begin an epoch, counted from 0."""
        self._bar.set_description_str(f"epoch {number + 1}/{self._last_epoch}", refresh=False)

    def update(self, rows: int) -> None:
        """Count rows that were trained on."""
        self._guarded(lambda: self._bar.update(rows))

    def row(self, row: dict[str, Any]) -> None:
        """Take over the figures of a finished epoch, and draw them when it is time."""
        self._figures(row)
        now = time.perf_counter()
        if now - self._drawn >= 0.1:
            self._drawn = now
            self._guarded(self._bar.refresh)

    def _figures(self, row: dict[str, Any]) -> None:
        shown = {k: v for k, v in row.items() if k == "loss" or k.startswith("val_") or k in ("penalty", "accuracy", "r2")}
        self._bar.set_postfix_str(", ".join(f"{k} {v:.4g}" for k, v in shown.items()), refresh=False)

    def close(self, row: dict[str, Any] | None) -> None:
        """Draw the last state and end the bar."""
        if row is not None:
            self._figures(row)
        self._guarded(self._bar.close)
