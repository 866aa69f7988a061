"""Timing: warm-up, calibration, and many repeats that interleave the contestants.

Every contestant runs one block per round, and the rounds take turns over all contestants, so that a slow second of the machine
hits all alike. Between two blocks `settle` waits until the worker threads of the last contestant have stopped spinning.
"""

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

Run = Callable[[int], object]


@dataclass(frozen=True)
class Contestant:
    """`run(count)` does the work `count` times; one time is `units` units (steps, calls, elements).

    With `is_rate` the call returns a rate that the contestant measured by itself (a micro-benchmark of the native core).
    """

    name: str
    run: Run
    units: float = 1.0
    is_rate: bool = False


@dataclass(frozen=True)
class Summary:
    """Median and quartiles over the rounds: seconds per unit, or a rate."""

    median: float
    q1: float
    q3: float
    best: float
    n: int
    samples: tuple[float, ...] = field(default=(), repr=False)  # one per round

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a fraction of the median."""
        return (self.q3 - self.q1) / self.median if self.median else 0.0

    def as_dict(self) -> dict[str, float]:
        """For the result file."""
        return {name: getattr(self, name) for name in ("median", "q1", "q3", "best", "n")}

    def over(self, other: "Summary") -> float:
        """Median of the ratios within each round: a machine that changes its speed between rounds does not touch it."""
        return float(np.median(np.divide(self.samples, other.samples)))

    def fraction_of(self, limit: "Summary", work: float) -> float:
        """Achieved part of a limit, when one unit of this time does `work` and `limit` is a rate of the same race."""
        return work / float(np.median(np.multiply(self.samples, limit.samples)))


@dataclass(frozen=True)
class Plan:
    """How long to measure. A block shorter than `block_seconds` is filled with more calls."""

    repeats: int
    block_seconds: float
    pause_seconds: float
    wake_seconds: float  # untimed calls after the pause


FULL = Plan(repeats=21, block_seconds=0.02, pause_seconds=0.01, wake_seconds=0.02)
QUICK = Plan(repeats=3, block_seconds=0.001, pause_seconds=0.002, wake_seconds=0.005)


def summarize(samples: Iterable[float], *, is_rate: bool = False) -> Summary:
    values = np.asarray(list(samples), dtype=np.float64)
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    best = values.max() if is_rate else values.min()
    return Summary(float(median), float(q1), float(q3), float(best), int(values.size), tuple(values.tolist()))


def repeat(function: Callable[[], object]) -> Run:
    """A contestant's `run` from a function without arguments."""

    def run(count: int) -> None:
        for _ in range(count):
            function()

    return run


def settle(pause_seconds: float, limit_seconds: float = 0.1) -> None:
    """Sleep until the process is quiet: OpenMP and BLAS workers spin for up to 30 ms after their last region."""
    give_up = time.perf_counter() + limit_seconds
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(pause_seconds)
        now = time.perf_counter()
        if time.process_time() - cpu < 0.2 * (now - wall) or now > give_up:
            return


def wake(run: Run, wake_seconds: float) -> None:
    """Work untimed: caches fill, workers wake, and the scheduler moves a worker that woke on its master's core to an idle one.

    That move takes some 10 ms, and until it is done every barrier of a spinning pool lasts milliseconds.
    """
    end = time.perf_counter() + wake_seconds
    while time.perf_counter() < end:
        run(1)


def timed(run: Run, count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def calibrate(contestant: Contestant, block_seconds: float) -> int:
    """Warm up; the count whose block lasts about `block_seconds`."""
    elapsed = timed(contestant.run, 1)  # first call: compilation, page faults, thread start
    if elapsed < 1.0:
        elapsed = timed(contestant.run, 1)
    count = 1
    while elapsed < 0.5 * block_seconds:
        growth = 10.0 if elapsed <= 0 else min(10.0, 1.1 * block_seconds / elapsed)
        count = max(count + 1, int(count * growth))
        elapsed = timed(contestant.run, count)
    return count


def measure(contestants: Iterable[Contestant], plan: Plan) -> dict[str, Summary]:
    """Summaries by name; seconds per unit, or the rate for contestants that measure one themselves."""
    field = list(contestants)
    counts: dict[str, int] = {}
    for contestant in field:
        if contestant.is_rate:
            contestant.run(1)
            continue
        counts[contestant.name] = calibrate(contestant, plan.block_seconds)

    samples: dict[str, list[float]] = {contestant.name: [] for contestant in field}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(plan.repeats):
            first = turn % len(field)  # nobody always follows the same neighbour
            for contestant in field[first:] + field[:first]:
                settle(plan.pause_seconds)
                samples[contestant.name].append(_sample(contestant, counts, plan.wake_seconds))
    finally:
        if collecting:
            gc.enable()
    return {contestant.name: summarize(samples[contestant.name], is_rate=contestant.is_rate) for contestant in field}


def _sample(contestant: Contestant, counts: dict[str, int], wake_seconds: float) -> float:
    wake(contestant.run, wake_seconds)
    if contestant.is_rate:
        return float(contestant.run(1))  # type: ignore[arg-type]
    count = counts[contestant.name]
    return timed(contestant.run, count) / (count * contestant.units)
