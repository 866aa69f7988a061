"""The progress bar of a fit: one tqdm bar, drawn at most ten times a second."""

from __future__ import annotations

import sys
import time
from typing import Any

from fastopt import _specs
from fastopt.errors import missing_package


def wanted(progress: bool | None) -> bool:
    """Whether to draw: as asked, by default when standard error is a terminal."""
    if progress is not None:
        return _specs.check_flag("progress", progress)
    return bool(sys.stderr is not None and sys.stderr.isatty())


class Bar:
    """Epoch, loss, validation metrics and samples per second."""

    def __init__(self, first_epoch: int, epochs: int, rows: int | None) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            raise missing_package("tqdm", "examples", "The progress bar") from None
        self._last_epoch, self._drawn = first_epoch + epochs, 0.0
        total = None if rows is None else epochs * rows
        options = {"total": total, "unit": " samples", "unit_scale": True, "leave": True, "mininterval": 0.1, "dynamic_ncols": True}
        try:
            self._bar: Any = tqdm(**options, disable=sys.stderr is None)
        except OSError:  # nobody reads standard error, or its disk is full; training goes on
            self._bar = tqdm(disable=True)
        self.epoch(first_epoch)

    def epoch(self, number: int) -> None:
        """Begin an epoch, counted from 0."""
        self._bar.set_description_str(f"epoch {number + 1}/{self._last_epoch}", refresh=False)

    def update(self, rows: int) -> None:
        """Count rows that were trained on."""
        self._bar.update(rows)

    def row(self, row: dict[str, Any]) -> None:
        """Take over the figures of a finished epoch, and draw them when it is time."""
        self._figures(row)
        now = time.perf_counter()
        if now - self._drawn >= 0.1:
            self._drawn = now
            self._bar.refresh()

    def _figures(self, row: dict[str, Any]) -> None:
        shown = {k: v for k, v in row.items() if k == "loss" or k.startswith("val_") or k in ("penalty", "accuracy", "r2")}
        self._bar.set_postfix_str(", ".join(f"{k} {v:.4g}" for k, v in shown.items()), refresh=False)

    def close(self, row: dict[str, Any] | None) -> None:
        """Draw the last state and end the bar."""
        if row is not None:
            self._figures(row)
        self._bar.close()
