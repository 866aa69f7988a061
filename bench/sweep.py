"""Does a second thread ever cost time? One training step of a dense w-w-w network over widths and batches, on 1, 2 and all threads.

Every cell is a race within one process: rounds in which each number of threads runs a group of short blocks, and the fastest block of the
group counts, so that a neighbour on the machine must hit a whole group to be seen. The ratio of a cell is the median over the rounds of
the ratios within each round. A cell above LIMIT is measured again, longer and after all others, before it is reported.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import numpy as np
from context import Context
from harness import Summary, summarize
from report import number

LIMIT = 1.05  # a second thread may not cost more than this
ONE = 1
WIDTHS = (4, 8, 16, 32, 45, 46, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16, 32, 46, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4096, 8192)
QUICK_WIDTHS = (4, 32, 46, 64, 128, 256, 512)
QUICK_BATCHES = (1, 4, 16, 46, 64, 128, 256, 1000)
LARGEST = 7e11  # floating-point operations of a step: 4096 wide and 4096 rows, not 8192
GROWTH_WIDTH = 32  # from here on time per operation should not rise
PICTURES = Path(__file__).parent  # sweep.png of a full run is part of the repository


@dataclass(frozen=True)
class Effort:
    """How long one cell is measured."""

    rounds: int
    blocks: int  # of a group
    block_seconds: float
    wake_seconds: float  # untimed work before a group: a worker that wakes takes some 10 ms to reach a core of its own
    cell_seconds: float  # of all rounds of a cell whose steps last longer than wake_seconds; one round at least
    repeats: int  # times that a cell above LIMIT is measured again


FULL = Effort(rounds=5, blocks=5, block_seconds=1e-3, wake_seconds=1e-2, cell_seconds=0.3, repeats=2)
QUICK = Effort(rounds=3, blocks=4, block_seconds=5e-4, wake_seconds=1e-2, cell_seconds=0.1, repeats=2)
AGAIN = 3  # times as many rounds


@dataclass
class Cell:
    width: int
    batch: int
    seconds: dict[int, Summary] = field(default_factory=dict)  # by number of threads; one step
    measured: int = 0

    @property
    def flops(self) -> int:
        """Products of a step: forward and weight gradient of two layers, input gradient of the second."""
        return 10 * self.batch * self.width**2

    def ratio(self, threads: int) -> float:
        return self.seconds[threads].over(self.seconds[ONE])

    def breaks_rule(self) -> bool:
        return any(self.ratio(threads) > LIMIT for threads in self.seconds)

    @property
    def flop_seconds(self) -> float:
        """Time per operation on the most threads."""
        return self.seconds[max(self.seconds)].median / self.flops


class Network:
    """A w-w-w network with its data; runs any number of steps in one native call."""

    def __init__(self, context: Context, width: int, rows: int) -> None:
        fo, core = context.fo, context.core
        layers = [fo.layers.Dense(width, activation="relu").config(), fo.layers.Dense(width).config()]
        loss, optimizer = fo.losses.get("mse"), fo.optimizers.Adam(learning_rate=1e-6)
        options = {"l1": 0.0, "l2": 0.0, "clip_norm": 0.0, "clip_value": 0.0, "ema": 0.0, "accumulate": 1}
        native = core.Loss_float32(loss.name, loss.config()), core.Optimizer_float32(optimizer.name, optimizer.config())
        self._trainer = core.TrainStep_float32(core.Network_float32(width, layers, 0), *native, options)
        self._prepared = (0, 0)
        self._x = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)

    def steps(self, batch: int, count: int) -> None:
        """Steps on the first rows, over and over: the data stay as near as they can."""
        if (batch, count) != self._prepared:
            self._prepared = (batch, count)
            self._order = np.tile(np.arange(batch), count)
            self._rates, self._losses, self._weights = np.full(count, 1e-6), np.empty(count), np.empty(count)
        self._trainer.run_steps(self._x, self._x, None, self._order, batch, self._rates, self._losses, self._weights)


class Race:
    def __init__(self, context: Context, effort: Effort, threads: list[int]) -> None:
        self._fo, self._context, self._effort, self._threads = context.fo, context, effort, threads
        self._network: tuple[int, Network] | None = None

    def network(self, width: int, rows: int) -> Network:
        """The last network is kept, because neighbouring cells have the same width."""
        if self._network is None or self._network[0] != width:
            self._network = None  # first let the memory go
            self._network = (width, Network(self._context, width, rows))
        return self._network[1]

    def measure(self, cell: Cell, network: Network, factor: int = 1) -> None:
        """Fill the cell anew; a long step is a block and a group of its own."""
        effort, samples = self._effort, {threads: [] for threads in self._threads}
        self._fo.set_num_threads(max(self._threads))
        step = self._step_seconds(network, cell.batch)
        long = step > effort.wake_seconds
        count, blocks, rounds = 1, 1, effort.rounds
        if long:
            rounds = max(1, min(rounds, round(effort.cell_seconds / (step * len(self._threads)))))
        else:
            count, blocks = self._calibrate(network, cell.batch), effort.blocks
        for turn in range(rounds * factor):
            for threads in self._threads if turn % 2 == 0 else self._threads[::-1]:
                self._fo.set_num_threads(threads)
                if not long:
                    harness.wake(lambda n: network.steps(cell.batch, n * count), effort.wake_seconds)
                run = [harness.timed(lambda n: network.steps(cell.batch, n), count) for _ in range(blocks)]
                samples[threads].append(min(run) / count)
        cell.seconds = {threads: summarize(values) for threads, values in samples.items()}
        cell.measured += 1

    def _step_seconds(self, network: Network, batch: int) -> float:
        """Of a second step, when that is quick: the first one touches the memory."""
        step = harness.timed(lambda n: network.steps(batch, n), 1)
        return step if step > 1.0 else harness.timed(lambda n: network.steps(batch, n), 1)

    def _calibrate(self, network: Network, batch: int) -> int:
        contestant = harness.Contestant("", lambda count: network.steps(batch, count))
        return harness.calibrate(contestant, self._effort.block_seconds)


def run(context: Context) -> None:
    report = context.report
    report.begin("sweep", f"a step of a w-w-w network, Adam, float32, on more threads over 1 thread: above {LIMIT} breaks the rule")
    threads = sorted({ONE, min(2, context.threads), context.threads})
    if len(threads) == 1:
        report.line("skipped: it compares numbers of threads, and this run has one")
        return
    widths, batches = (QUICK_WIDTHS, QUICK_BATCHES) if context.quick else (WIDTHS, BATCHES)
    effort = QUICK if context.quick else FULL
    race = Race(context, effort, threads)
    cells = {(w, b): Cell(w, b) for w in widths for b in batches if 10 * b * w * w <= LARGEST}
    rows = {w: max(b for width, b in cells if width == w) for w in widths}
    again, factor, found = list(cells.values()), 1, []
    for turn in range(1 + effort.repeats):
        started = time.perf_counter()
        for cell in again:
            race.measure(cell, race.network(cell.width, rows[cell.width]), factor)
        spent, count = time.perf_counter() - started, len(again)
        again, factor = [cell for cell in again if cell.breaks_rule()], AGAIN
        found.append(len(again))
        print(f"pass {turn + 1}: {count} cells in {spent:.0f} s, {len(again)} above {LIMIT}", file=sys.stderr, flush=True)
    context.fo.set_num_threads(context.threads)

    for count in threads[1:]:
        report.line(f"Time on {count} threads over time on 1, by width (down) and batch (across):")
        report.table(["width", *map(str, batches)], list(ratio_rows(cells, widths, batches, count)))
    for cell in cells.values():
        for count, summary in cell.seconds.items():
            extra = {"flops": cell.flops, "over_one_thread": cell.ratio(count), "measured": cell.measured}
            report.add(f"width {cell.width} batch {cell.batch}", f"fastopt {count} threads", summary, "s/step", **extra)
    for line in verdict(cells, found):
        report.line(line)
    context.fo.set_num_threads(context.threads)
    draw(context, cells, widths, batches, threads[1:])


def ratio_rows(cells: dict[tuple[int, int], Cell], widths: Iterable[int], batches: Iterable[int], threads: int) -> Iterator[list[str]]:
    for w in widths:
        ratios = [cells[w, b].ratio(threads) if (w, b) in cells else None for b in batches]
        yield [str(w), *("" if r is None else f"{r:.2f}{'!' if r > LIMIT else ''}" for r in ratios)]


def verdict(cells: dict[tuple[int, int], Cell], found: list[int]) -> Iterator[str]:
    """Cells above the limit, and where time per operation rises most."""
    broken = [cell for cell in cells.values() if cell.breaks_rule()]
    passes = ", ".join(map(str, found))
    yield f"{len(broken)} of {len(cells)} cells above {LIMIT}; by passes, each over those that the one before found: {passes}."
    for cell in sorted(broken, key=lambda cell: -max(map(cell.ratio, cell.seconds))):
        times = ", ".join(f"{number(summary.median * 1e6)} µs on {count}" for count, summary in cell.seconds.items())
        yield f"- width {cell.width}, batch {cell.batch}: {max(map(cell.ratio, cell.seconds)):.2f} ({times})"
    for name, rise, at in worst_rises(cells):
        yield f"Time per operation along the {name}: at most {rise:.2f} times that of a smaller one ({at})."


def worst_rises(cells: dict[tuple[int, int], Cell]) -> Iterator[tuple[str, float, str]]:
    """For widths from GROWTH_WIDTH on: the largest time per operation over the smallest at smaller widths, or smaller batches."""
    wide = [cell for cell in cells.values() if cell.width >= GROWTH_WIDTH]
    for name, other in (("width", "batch"), ("batch", "width")):
        found = []
        for cell in wide:
            line = [c for c in wide if getattr(c, other) == getattr(cell, other) and getattr(c, name) < getattr(cell, name)]
            if line:
                least = min(line, key=lambda c: c.flop_seconds)
                where = f"{other} {getattr(cell, other)}, {name} {getattr(least, name)} to {getattr(cell, name)}"
                found.append((cell.flop_seconds / least.flop_seconds, where))
        if found:
            yield name, *max(found)


def draw(
    context: Context, cells: dict[tuple[int, int], Cell], widths: tuple[int, ...], batches: tuple[int, ...], threads: list[int]
) -> None:
    """The ratios as a map, time per operation as curves."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        context.report.line(f"no picture: {error}")
        return
    fma = {count: fma_rate(context, count) for count in (ONE, context.threads)}
    figure = plt.figure(figsize=(6.5 * len(threads) + 8.5, 9), layout="constrained")
    grid = figure.add_gridspec(2, len(threads) + 1, width_ratios=[*[1.15] * len(threads), 1])
    for column, count in enumerate(threads):
        heat_map(figure, figure.add_subplot(grid[:, column]), cells, widths, batches, count)
    most = context.threads
    growth(
        figure.add_subplot(grid[0, -1]), cells, "width", widths, [b for b in (1, 32, 46, 128, 1024, 4096) if b in batches], fma[most], most
    )
    growth(
        figure.add_subplot(grid[1, -1]), cells, "batch", batches, [w for w in (32, 46, 64, 256, 1024, 4096) if w in widths], fma[most], most
    )
    build = context.build
    figure.suptitle(f"One training step of a w-w-w network, Adam, float32, fastopt {build['version']} on {build['isa']}, {most} cores")
    name = "sweep-quick.png" if context.quick else "sweep.png"
    figure.savefig(PICTURES / name, dpi=110)
    plt.close(figure)
    context.report.line(f"![Ratios of times on two threads to one, and time per operation, over widths and batches]({name})")


def fma_rate(context: Context, threads: int) -> float:
    context.fo.set_num_threads(threads)
    rates = [context.core.fma_rate("float32", context.plan.block_seconds) for _ in range(context.plan.repeats)]
    context.fo.set_num_threads(context.threads)
    return max(rates)


def heat_map(
    figure: Any, axes: Any, cells: dict[tuple[int, int], Cell], widths: tuple[int, ...], batches: tuple[int, ...], count: int
) -> None:
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.patches import Rectangle

    ratios = np.array([[cells[w, b].ratio(count) if (w, b) in cells else np.nan for b in batches] for w in widths])
    norm = TwoSlopeNorm(1.0, vmin=1.0 / count, vmax=1.5)
    image = axes.imshow(np.ma.masked_invalid(ratios), origin="lower", aspect="auto", cmap="RdBu_r", norm=norm)
    for (i, j), ratio in np.ndenumerate(ratios):
        if np.isnan(ratio):
            continue
        broken = ratio > LIMIT
        color = "white" if ratio > 1.35 or ratio < 0.62 else "black"
        axes.text(j, i, f"{ratio:.2f}", ha="center", va="center", fontsize=7.5, color=color, fontweight="bold" if broken else "normal")
        if broken:
            axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="black", linewidth=2.2))
    axes.set_xticks(range(len(batches)), batches, rotation=60)
    axes.set_yticks(range(len(widths)), widths)
    axes.set_xlabel("batch (rows)")
    axes.set_ylabel("width (units of each layer)")
    broken = int((ratios > LIMIT).sum())
    axes.set_title(
        f"time on {count} threads / time on 1 thread; framed: above {LIMIT} ({broken} of {int(np.isfinite(ratios).sum())} cells)"
    )
    figure.colorbar(image, ax=axes, label=f"ratio of times ({1 / count:.2f} = all of {count} threads, 1 = no gain)", shrink=0.8)


def growth(
    axes: Any, cells: dict[tuple[int, int], Cell], along: str, values: Iterable[int], others: list[int], fma: float, threads: int
) -> None:
    other = "batch" if along == "width" else "width"
    for fixed in others:
        line = [cell for v in values if (cell := cells.get((v, fixed) if along == "width" else (fixed, v))) is not None]
        axes.loglog(
            [getattr(c, along) for c in line], [c.flop_seconds * 1e12 for c in line], marker="o", markersize=3, label=f"{other} {fixed}"
        )
    axes.axhline(1e12 / fma, color="black", linestyle="--", linewidth=1, label=f"limit: {number(fma * 1e-9)} GFLOP/s")
    axes.set_xscale("log", base=2)
    ticks = [v for v in values if v & (v - 1) == 0]
    axes.set_xticks(ticks, ticks, rotation=60)
    axes.set_xlabel("width (units of each layer)" if along == "width" else "batch (rows)")
    axes.set_ylabel("picoseconds per operation")
    axes.set_title(f"time per operation on {threads} threads against {along}")
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=8)
