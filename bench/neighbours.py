"""What busy neighbours cost: training steps beside processes that keep a core busy each, on one thread and on all.

Threads that wait for one that lost its core lose whole time slices of the scheduler. The library times both ways and leaves the team.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import harness
import machine
from context import Context
from harness import Summary, summarize
from report import number
from training import FastoptTrainer
from workloads import WORKLOADS, Workload, make_data

CASES = [workload for workload in WORKLOADS if workload.name in ("tabular", "digits", "mnist")]
BUSY = "while True: pass"


def run(context: Context) -> None:
    report = context.report
    report.begin("neighbours", "microseconds per step beside busy processes, Adam, float32")
    if context.threads == 1:
        report.line("skipped: it compares numbers of threads, and this run has one")
        return
    counts = range(machine.available_cores() + 1)
    rows = [row for workload in CASES for row in workload_rows(context, workload, counts)]
    context.fo.set_num_threads(context.threads)
    report.table(["workload", "busy processes", "1 thread", f"{context.threads} threads", "over 1 thread"], rows)


def workload_rows(context: Context, workload: Workload, counts: range) -> Iterator[list[str]]:
    x, y = make_data(workload)
    trainers = {threads: FastoptTrainer(context.fo, workload, x, y) for threads in (1, context.threads)}
    for count in counts:
        with busy_processes(count):
            times = race(context, workload, trainers)
        for threads, summary in times.items():
            context.report.add(f"{workload.title}, {count} busy", f"fastopt {threads} threads", summary, "s/step")
        one, team = times[1], times[context.threads]
        yield [workload.title, str(count), number(one.median * 1e6), number(team.median * 1e6), number(team.over(one))]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Each keeps a core busy, or its share of one."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def race(context: Context, workload: Workload, trainers: dict[int, FastoptTrainer]) -> dict[int, Summary]:
    """In rounds. Blocks of many time slices, after as long untimed, in which the library finds out what is faster."""
    seconds = 20 * context.plan.block_seconds
    rounds = min(5, context.plan.repeats)
    samples: dict[int, list[float]] = {threads: [] for threads in trainers}
    for turn in range(rounds):
        for threads in list(trainers)[:: 1 if turn % 2 == 0 else -1]:
            context.fo.set_num_threads(threads)
            run = trainers[threads].epochs
            harness.wake(run, seconds)
            epochs, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                run(1)
                epochs += 1
            samples[threads].append(spent / (epochs * workload.steps))
    return {threads: summarize(values) for threads, values in samples.items()}
