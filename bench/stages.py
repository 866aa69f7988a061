"""Where the time of a training step goes: the stage profile of the five workloads beside the machine's limit of every stage.

The limit of a stage is the longer of its operations over the multiply-add rate and its bytes over the copy bandwidth at the working set
of the step; both are measured in the same rounds, on the same number of threads. Where threads take rows or units of their own through
the layers, what they hand to each other has a limit of its own. Section "profile" of run.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import harness
from context import Context
from harness import Summary, summarize
from report import number, percent
from training import FastoptTrainer
from workloads import QUICK_WORKLOADS, WORKLOADS, Workload, make_data

FLOAT = 4  # bytes
LINE = 64  # bytes
EXCHANGE = "exchange"
MEETINGS = 2  # of a step
STEP = "whole step"  # without a profile
OTHERS = ("wait", "snapshot", "order", "evaluation", "callbacks", "python")  # for other threads, and between native steps
GROUP = 4  # blocks of a round, of which the fastest counts: a neighbour on the machine must disturb them all to be seen
BUDGET_SECONDS = 60.0  # of one workload; long ones get fewer rounds
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """What a stage must at least do in one step."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, fma: float, copy: float) -> float:
        return max(self.flops / fma, self.bytes / copy)

    def bound(self, fma: float, copy: float) -> str:
        return "operations" if self.flops / fma > self.bytes / copy else "bytes"


def stage_costs(workload: Workload) -> dict[str, Cost]:
    """By stage, in the order of a step. Each matrix that a stage reads or writes counts once; Adam moves 28 bytes per parameter."""
    b, layers = workload.batch, list(enumerate(pairwise(workload.sizes)))
    target = b if workload.classes else b * workload.sizes[-1]
    costs = {"gather": Cost(bytes=2 * FLOAT * (b * workload.sizes[0] + target))}
    for layer, (inputs, outputs) in layers:
        costs[f"{layer}.forward"] = Cost(2 * b * inputs * outputs, FLOAT * (b * inputs + (inputs + 1) * outputs + b * outputs))
    costs["loss"] = Cost(bytes=FLOAT * (2 * b * workload.sizes[-1] + target))
    for layer, (inputs, outputs) in reversed(layers):
        if layer > 0:
            moved = FLOAT * (b * outputs + inputs * outputs + 2 * b * inputs)  # the activation below is read for its derivative
            costs[f"{layer}.input_gradient"] = Cost(2 * b * inputs * outputs, moved)
        moved = FLOAT * (b * inputs + b * outputs + (inputs + 1) * outputs)
        costs[f"{layer}.weight_gradient"] = Cost(2 * b * inputs * outputs, moved)
    costs["update"] = Cost(bytes=workload.optimizer_bytes)
    return costs


def working_set(workload: Workload) -> int:
    """Bytes that a step touches: weights, gradients, two slots; the batch, activations and two gradients of activations."""
    return FLOAT * (4 * workload.parameters + workload.batch * (sum(workload.sizes) + 2 * max(workload.sizes)))


def exchanged_lines(workload: Workload, threads: int, in_halves: bool) -> int:
    """Cache lines that each thread writes and others read in a step, when each takes its rows through all layers or half of the units.

    With units of their own: partial sums of the second layer, and the weights of a third one that it has updated. With rows: for the
    weight gradients, of which each thread makes a part, its rows of every gradient, and of every hidden activation the columns of
    the other parts; for the next step the weights that it has updated.
    """
    rows, others = workload.batch / threads, (threads - 1) / threads
    floats = LINE // FLOAT
    if in_halves:
        last = sum((inputs + 1) * outputs for inputs, outputs in list(pairwise(workload.sizes))[2:])
        return round(workload.batch * -(-workload.sizes[2] // floats) + last / floats / threads)
    gradients = sum(-(-width // floats) for width in workload.sizes[1:])
    activations = others * sum(-(-width // floats) for width in workload.sizes[1:-1])
    return round(rows * (gradients + activations) + workload.parameters / floats / threads)


class Side:
    """The samples of one workload on one number of threads, one per round."""

    def __init__(self, context: Context, ours: FastoptTrainer, workload: Workload, threads: int) -> None:
        self.context, self.ours, self.workload, self.threads = context, ours, workload, threads
        self.seconds: dict[str, list[float]] = {}
        self.fma: list[float] = []
        self.tile: list[float] = []
        self.copy: list[float] = []
        self.exchange: list[float] = []
        self.lines = 0
        self.clock_seconds = 0.0
        context.fo.set_num_threads(threads)
        block = context.plan.block_seconds / GROUP
        self.count = harness.calibrate(harness.Contestant("", ours.epochs), block)
        self.group = GROUP if harness.timed(ours.epochs, self.count) < 2 * block else 1

    def round(self) -> None:
        """Profile, plain run and limits, each after a pause and untimed work."""
        context, plan, core = self.context, self.context.plan, self.context.core
        context.fo.set_num_threads(self.threads)
        self._ready()
        profile = min((self._profiled() for _ in range(self.group)), key=lambda profile: profile.seconds)
        self.clock_seconds = profile.clock_seconds
        for row in profile.rows:
            self.seconds.setdefault(row.stage, []).append(row.micros_per_step * 1e-6)
        self._ready()
        fastest = min(harness.timed(self.ours.epochs, self.count) for _ in range(self.group))
        self.seconds.setdefault(STEP, []).append(fastest / (self.count * self.workload.steps))
        harness.settle(plan.pause_seconds)
        for rates, measure in (
            (self.fma, lambda seconds: core.fma_rate("float32", seconds)),
            (self.tile, lambda seconds: core.tile_rate("float32", seconds)),
            (self.copy, lambda seconds: core.copy_rate(working_set(self.workload), seconds)),
        ):
            measure(plan.wake_seconds)
            rates.append(measure(plan.block_seconds))
        if "wait" in profile:
            self.lines = exchanged_lines(self.workload, self.threads, self.ours.trainer._native.steps_in_halves > 0)
            line, meeting = core.crossing_cost(self.lines, plan.block_seconds)
            self.exchange.append(self.lines * line + MEETINGS * meeting)

    def _profiled(self) -> Any:
        with self.ours.trainer.profile() as profile:
            self.ours.epochs(self.count)
        return profile

    def _ready(self) -> None:
        harness.settle(self.context.plan.pause_seconds)
        harness.wake(self.ours.epochs, self.context.plan.wake_seconds)

    def stage(self, name: str) -> Summary:
        return summarize(self.seconds[name])

    def limits(self) -> tuple[float, float]:
        """Medians of the multiply-add rate and of the copy bandwidth."""
        return summarize(self.fma, is_rate=True).median, summarize(self.copy, is_rate=True).median

    def of_tiles(self) -> float:
        """The products' rate over that of full tiles in L1, median over the rounds."""
        products = [self.seconds[stage] for stage, cost in stage_costs(self.workload).items() if cost.flops]
        rounds = zip(self.tile, zip(*products, strict=True), strict=True)
        return summarize([self.workload.flops / sum(times) / tile for tile, times in rounds]).median

    def exchange_limit(self) -> float:
        """Seconds of a step that threads with rows of their own hand lines to each other; 0 when they do not."""
        return summarize(self.exchange).median if self.exchange else 0.0

    def of_limit(self, name: str, cost: Cost) -> float:
        """Median over the rounds: each compared with the limits of its own round."""
        parts = zip(self.seconds[name], self.fma, self.copy, strict=True)
        return summarize([cost.seconds(fma, copy) / seconds for seconds, fma, copy in parts]).median


def run(context: Context) -> None:
    for workload in QUICK_WORKLOADS if context.quick else WORKLOADS:
        threads = sorted({1, context.threads})
        sides = measure(context, workload, threads)
        context.report.begin("profile", f"{workload.title}, microseconds per step on {' and '.join(map(str, threads))} threads")
        costs = stage_costs(workload)
        headers = ["stage", "MFLOP", "KB", "bound by"]
        for side in sides:
            headers += [f"limit, {side.threads} thr.", f"µs, {side.threads} thr.", "of limit", "share"]
        context.report.table(headers, list(rows(context, workload, costs, sides)))
        for side in sides:
            context.report.line(summary_line(side))
    context.fo.set_num_threads(context.threads)


def measure(context: Context, workload: Workload, threads: list[int]) -> list[Side]:
    """Rounds that take turns over the numbers of threads."""
    ours = FastoptTrainer(context.fo, workload, *make_data(workload))
    sides = [Side(context, ours, workload, count) for count in threads]
    rounds, left = 0, BUDGET_SECONDS
    while rounds < context.plan.repeats and (left > 0.0 or rounds < min(FEWEST_ROUNDS, context.plan.repeats)):
        for side in sides if rounds % 2 == 0 else sides[::-1]:
            left -= harness.timed(lambda _, side=side: side.round(), 1)
        rounds += 1
    return sides


def rows(context: Context, workload: Workload, costs: dict[str, Cost], sides: list[Side]) -> Iterator[list[str]]:
    total = Cost()
    for stage, cost in costs.items():
        total = total + cost
        yield [stage, number(cost.flops * 1e-6) if cost.flops else "-", number(cost.bytes * 1e-3), cost.bound(*sides[0].limits())] + [
            cell for side in sides for cell in stage_cells(context, workload, side, stage, cost)
        ]
    if any(side.exchange for side in sides):
        lines = max(side.lines for side in sides)
        limits = [number(side.exchange_limit() * 1e6) if side.exchange else "-" for side in sides]
        yield [EXCHANGE, "-", number(lines * LINE * 1e-3), "lines"] + [cell for limit in limits for cell in (limit, "-", "-", "-")]
    for name in OTHERS:
        if any(name in side.seconds for side in sides):
            yield [name, "-", "-", ""] + [cell for side in sides for cell in plain_cells(context, workload, side, name)]
    cells = [STEP, number(total.flops * 1e-6), number(total.bytes * 1e-3), ""]
    for side in sides:
        fma, copy = side.limits()
        limit = sum(cost.seconds(fma, copy) for cost in costs.values()) + side.exchange_limit()
        step = side.stage(STEP)
        context.report.add(case(workload, side), STEP, step, "s/step", flops=total.flops, bytes=total.bytes, of_limit=limit / step.median)
        cells += [number(limit * 1e6), number(step.median * 1e6), percent(limit / step.median), "100%"]
    yield cells


def stage_cells(context: Context, workload: Workload, side: Side, stage: str, cost: Cost) -> list[str]:
    fma, copy = side.limits()
    time, of_limit = side.stage(stage), side.of_limit(stage, cost)
    context.report.add(case(workload, side), stage, time, "s/step", flops=cost.flops, bytes=cost.bytes, of_limit=of_limit)
    return [number(cost.seconds(fma, copy) * 1e6), number(time.median * 1e6), percent(of_limit), share(side, time)]


def plain_cells(context: Context, workload: Workload, side: Side, name: str) -> list[str]:
    if name not in side.seconds:
        return ["-", "-", "-", "-"]
    time = side.stage(name)
    context.report.add(case(workload, side), name, time, "s/step")
    return ["-", number(time.median * 1e6), "-", share(side, time)]


def share(side: Side, time: Summary) -> str:
    """Of the step without a profile."""
    return percent(time.median / side.stage(STEP).median)


def case(workload: Workload, side: Side) -> str:
    return f"{workload.title}, {side.threads} threads"


def summary_line(side: Side) -> str:
    fma, copy = side.limits()
    stages = [name for name in side.seconds if name not in (STEP, "clock")]
    found = sum(side.stage(name).median for name in stages)
    flops = side.workload.flops / side.stage(STEP).median
    text: list[Any] = [
        f"{side.threads} {'thread' if side.threads == 1 else 'threads'}: multiply-adds {number(fma * 1e-9)} GFLOP/s, copy",
        f"{number(copy * 1e-9)} GB/s at {number(working_set(side.workload) / 2**20)} MiB; the step does {number(flops * 1e-9)} GFLOP/s,",
        f"{percent(flops / fma)} of the multiply-adds. Full tiles in L1 do {number(summarize(side.tile, is_rate=True).median * 1e-9)}",
        f"GFLOP/s, the products {percent(side.of_tiles())} of that. Stages add up to {number(found * 1e6)} µs; the clock took",
        f"{number(side.stage('clock').median * 1e6)} µs beside them ({side.clock_seconds * 1e9:.0f} ns a reading).",
    ]
    return " ".join(text)
