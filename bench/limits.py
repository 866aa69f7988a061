"""What the machine can do: multiply-adds of every built instruction set, copy bandwidth, lines between cores.

Multiply-adds are counted in registers only, and in full register tiles of the matrix product: what its loads and broadcasts leave.

Every instruction set runs in a process of its own with FASTOPT_ISA, because one process holds one core.
"""

import json
import os
import subprocess
import sys

import machine
from context import Context
from harness import Contestant, measure, summarize
from report import number, plus_minus

LOOPS = ("float32", "float32 tile", "float64", "float64 tile", "bfloat16")
CROSSING_LINES = (64, 400, 1200)  # written between two meetings

WORKER = """
import json, sys
import fastopt as fo
from fastopt._backend import core
threads, repeats, seconds = json.loads(sys.argv[1])
loops = {f"{dtype}{kind}": lambda dtype=dtype, rate=rate: rate(dtype, seconds)
         for dtype in ("float32", "float64") for kind, rate in (("", core.fma_rate), (" tile", core.tile_rate))}
if fo.build_info()["bf16"]:
    loops["bfloat16"] = lambda: core.bf16_rate(seconds)
keys = [(loop, n) for n in threads for loop in loops]
rates = {f"{loop} {n}": [] for loop, n in keys}
for turn in range(repeats + 1):
    for loop, n in keys:
        fo.set_num_threads(n)
        rate = loops[loop]()
        if turn > 0:
            rates[f"{loop} {n}"].append(rate)
print(json.dumps(rates))
"""


def run(context: Context) -> None:
    threads = sorted({1, context.threads})
    fma_rates(context, threads)
    copy_rates(context, threads)
    if context.threads > 1:
        crossing_costs(context)


def fma_rates(context: Context, threads: list[int]) -> None:
    context.report.begin("limits", "multiply-adds of registers only, and of full register tiles on operands in L1, GFLOP/s")
    rows = []
    for isa in context.build["isas_built"]:
        rates = fma_worker(context, isa, threads)
        if isinstance(rates, str):
            context.report.line(f"{isa}: skipped ({rates})")
            continue
        for loop in LOOPS:
            if f"{loop} {threads[0]}" not in rates:
                continue
            row = [f"{isa} {loop}"]
            for count in threads:
                summary = summarize(rates[f"{loop} {count}"], is_rate=True)
                context.report.add(f"fma {isa} {loop}", f"limit {count} threads", summary, "FLOP/s", higher_is_better=True)
                row.append(f"{number(summary.median * 1e-9)} {plus_minus(summary)}")
            rows.append(row)
    context.report.table(["instruction set", *(f"{count} threads" for count in threads)], rows)


def fma_worker(context: Context, isa: str, threads: list[int]) -> dict[str, list[float]] | str:
    """Rates by "loop threads", or the reason why this instruction set does not run here."""
    parameters = json.dumps([threads, context.plan.repeats, context.plan.block_seconds])
    done = subprocess.run(
        [sys.executable, "-c", WORKER, parameters], env={**os.environ, "FASTOPT_ISA": isa}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    rates: dict[str, list[float]] = json.loads(done.stdout)
    return rates


def copy_rates(context: Context, threads: list[int]) -> None:
    context.report.begin("limits", "copy bandwidth, read + written, GB/s")
    l2, l3 = machine.cache_bytes(2), machine.cache_bytes(3)
    memory = 2 * l3 if context.quick else max(8 * l3, 256 << 20)
    rows = []
    for count in threads:
        # Half of every core's L2; then well above all L2 and within L3; then far above L3.
        sizes = {"L2": count * l2 // 2, "L3": max(l3 // 4, 3 * count * l2), "memory": memory}
        contestants = [
            Contestant(place, lambda _, size=size: context.core.copy_rate(size, context.plan.block_seconds), is_rate=True)
            for place, size in sizes.items()
        ]
        context.fo.set_num_threads(count)
        rates = measure(contestants, context.plan)
        for place, size in sizes.items():
            context.report.add(f"copy {place}", f"limit {count} threads", rates[place], "B/s", higher_is_better=True, working_set=size)
            rate = f"{number(rates[place].median * 1e-9)} {plus_minus(rates[place])}"
            rows.append([f"{place}, {number(size / 2**20)} MiB", str(count), rate])
    context.fo.set_num_threads(context.threads)
    context.report.table(["working set", "threads", "GB/s"], rows)


def crossing_costs(context: Context) -> None:
    context.report.begin("limits", f"lines that one of {context.threads} threads writes and another reads, nanoseconds")
    rows, meetings = [], []
    for lines in CROSSING_LINES:
        costs = [context.core.crossing_cost(lines, context.plan.block_seconds) for _ in range(context.plan.repeats)]
        line = summarize([cost for cost, _ in costs])
        meetings += [cost for _, cost in costs]
        context.report.add(f"crossing {lines} lines", f"limit {context.threads} threads", line, "s")
        rows.append([f"{lines} lines each, of one", f"{number(line.median * 1e9)} {plus_minus(line)}"])
    meeting = summarize(meetings)
    context.report.add("crossing, a meeting", f"limit {context.threads} threads", meeting, "s")
    context.report.table(["between cores", "ns"], [*rows, ["a meeting of all", f"{number(meeting.median * 1e9)} {plus_minus(meeting)}"]])
