"""Learning rates of the native steps of a trainer: those of the optimizer, one per update, times a scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AHEAD = 256  # rates of a schedule that are computed at once for single steps


class Rates:
    """Counts micro-batches; every `accumulate` of them share the rate of one update."""

    def __init__(self, learning_rate: Any, accumulate: int) -> None:
        self._learning_rate, self._accumulate = learning_rate, accumulate
        self._ahead: list[float] = []
        self._start = 0
        self._block, self._block_of = np.empty(0), 0.0  # the last one of equal rates
        self.set_scale(1.0)

    def set_scale(self, scale: float) -> None:
        """Factor on every rate from now on."""
        self.scale, self._ahead = scale, []
        rate = self._learning_rate
        self.fixed: float | None = None if callable(rate) else float(rate) * scale

    @property
    def known_ahead(self) -> bool:
        """Whether the rates of later steps may be asked for now."""
        if self.fixed is not None:
            return True
        from fastopt import schedules

        return schedules.depends_on_step_alone(self._learning_rate)

    def next(self, micro_step: int) -> float:
        """Rate of one micro-batch."""
        if self.fixed is not None:
            return self.fixed
        update = micro_step // self._accumulate
        ahead = update - self._start
        if not 0 <= ahead < len(self._ahead):
            from fastopt import schedules

            if not self.known_ahead:
                return float(schedules.values(self._learning_rate, update, 1)[0]) * self.scale
            try:
                rates = schedules.values(self._learning_rate, update, AHEAD)
            except (ValueError, ArithmeticError):  # of a later step, perhaps of one that never comes
                rates = schedules.values(self._learning_rate, update, 1)
            self._ahead, self._start, ahead = (rates * self.scale).tolist(), update, 0
        return self._ahead[ahead]

    def block(self, micro_step: int, steps: int) -> NDArray[np.float64]:
        """Rates of the next micro-batches, to be read only."""
        if self.fixed is not None:
            if len(self._block) != steps or self._block_of != self.fixed:
                self._block, self._block_of = np.full(steps, self.fixed), self.fixed
            return self._block
        from fastopt import schedules  # here and above: most trainers never need them, and they are a tenth of the import

        if self._accumulate == 1:
            return schedules.values(self._learning_rate, micro_step, steps) * self.scale
        update = (micro_step + np.arange(steps)) // self._accumulate
        start = int(update[0])
        rates: NDArray[np.float64] = schedules.values(self._learning_rate, start, int(update[-1]) - start + 1)[update - start] * self.scale
        return rates
