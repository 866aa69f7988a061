"""Resident memory, measured against promised: a network of 100 million parameters, ten million rows in a memory-mapped file.

Each case runs in a process of its own (`memory_runs.py`), because memory once touched is seldom given back.
"""

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from context import Context
from harness import summarize
from report import number

MIB = 1 << 20
WRITTEN_ROWS = 1 << 17  # rows of the file that are generated at once


def run(context: Context) -> None:
    network(context)
    rows(context)


def network(context: Context) -> None:
    sizes, batch = ([64, 512, 512, 10], 64) if context.quick else ([1024, 9216, 9216, 640], 256)
    title = f"{'-'.join(map(str, sizes))}, batch {batch}, Adam, float32, {context.threads} threads"
    context.report.begin("memory", title)
    stages = child(context, {"case": "network", "sizes": sizes, "batch": batch})
    parameters = 4 * sum((a + 1) * b for a, b in pairwise(sizes))
    kept = activations(sizes, batch)
    promised = {
        "build": 2 * parameters,
        "first step": 4 * parameters + kept,
        "fit": 4 * parameters + kept,
        "evaluate": 4 * parameters + kept,
        "save": 4 * parameters + kept,
    }
    context.report.line(
        f"parameters {number(parameters / MIB)} MiB, activations {number(kept / MIB)} MiB; promised: parameters x 4 + activations"
    )
    table(context, title, stages, promised)


def rows(context: Context) -> None:
    sizes, batch, count = [32, 64, 1], 1024, 100_000 if context.quick else 10_000_000
    title = f"{count} x {sizes[0]} float32 in a memory-mapped file, {'-'.join(map(str, sizes))}, batch {batch}"
    context.report.begin("memory", title)
    with tempfile.TemporaryDirectory(dir="/var/tmp" if Path("/var/tmp").is_dir() else None) as folder:
        write_rows(Path(folder), count, sizes[0])
        stages = child(context, {"case": "rows", "sizes": sizes, "batch": batch, "folder": folder})
    parameters = 4 * sum((a + 1) * b for a, b in pairwise(sizes))
    order = context.core.permutation(count, 0, 0).itemsize
    small = 4 * parameters + activations(sizes, batch)
    promised = {"fit": small + order * count, "evaluate": small + 4 * count * (sizes[-1] + 2)}
    context.report.line(
        f"files {number(4 * count * (sizes[0] + sizes[-1]) / MIB)} MiB; promised: network, one batch, {order} bytes a row for the order; "
        "to evaluate, the outputs and two numbers a row"
    )
    table(context, title, stages, promised)


def activations(sizes: list[int], batch: int) -> int:
    """Bytes of a batch's input and target, of every layer's output, and of two gradients as wide as the widest layer."""
    return 4 * batch * (sum(sizes) + sizes[-1] + 2 * max(sizes))


def write_rows(folder: Path, count: int, columns: int) -> None:
    """x.npy and y.npy, written in blocks."""
    generator = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (count, columns))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (count, 1))
    for start in range(0, count, WRITTEN_ROWS):
        block = generator.standard_normal((min(WRITTEN_ROWS, count - start), columns), dtype=np.float32)
        x[start : start + len(block)] = block
        y[start : start + len(block)] = block[:, :1] * block[:, 1:2]


def child(context: Context, arguments: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Stage -> what memory_runs.py measured."""
    command = [sys.executable, str(Path(__file__).with_name("memory_runs.py")), json.dumps({**arguments, "threads": context.threads})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"memory_runs.py failed:\n{done.stderr}")
    result: dict[str, dict[str, float]] = json.loads(done.stdout)
    return result


def table(context: Context, case: str, stages: dict[str, dict[str, float]], promised: dict[str, int]) -> None:
    lines = []
    for stage, found in stages.items():
        for name in ("anonymous", "file"):
            context.report.add(f"{case}, {stage}", f"fastopt {name}", summarize([found[name]]), "B")
        over = found["anonymous"] - promised[stage]
        cells = [promised[stage], found["anonymous"], over, found["file"], found["huge"]]
        lines.append([stage, *(number(value / MIB) for value in cells), f"{found['seconds']:.2f}"])
    headers = ["peak while", "promised MiB", "anonymous", "over", "of files", "in huge pages", "seconds"]
    context.report.table(headers, lines)
