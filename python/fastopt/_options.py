"""What a trainer is told besides network and loss: its method and its numbers, checked."""

from __future__ import annotations

import math
from typing import Any

from fastopt import _specs, optimizers, solvers
from fastopt.optimizers import Optimizer
from fastopt.solvers import Solver


def method(optimizer: str | Optimizer | Solver) -> Optimizer | Solver:
    """An optimizer or a solver as given, or by its name."""
    if isinstance(optimizer, Solver):
        return optimizer
    known: dict[str, type[Any]] = {**optimizers.table(), **solvers.table()}
    found: Optimizer | Solver = _specs.lookup("optimizer", known, Optimizer, optimizer)
    return found


def check(l1: float, l2: float, clip_norm: float | None, clip_value: float | None, ema: float, accumulate: int) -> dict[str, Any]:
    """The options of the native step."""

    def at_least_0(name: str, value: Any) -> float:
        return _specs.check_number(name, value, low=0.0, high=math.inf, low_open=False, high_open=True)

    def above_0(name: str, value: Any) -> float:
        if value is None:
            return 0.0
        return _specs.check_number(name, value, low=0.0, high=math.inf, low_open=True, high_open=True)

    return {
        "l1": at_least_0("l1", l1),
        "l2": at_least_0("l2", l2),
        "clip_norm": above_0("clip_norm", clip_norm),
        "clip_value": above_0("clip_value", clip_value),
        "ema": _specs.check_number("ema", ema, low=0.0, high=1.0, low_open=False, high_open=True),
        "accumulate": _specs.check_integer("accumulate", accumulate, low=1),
    }
