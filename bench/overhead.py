"""What is not arithmetic: the Python cost of one call, the time of the import, the installed size."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from context import Context
from harness import Contestant, repeat, summarize
from kernels import normal
from report import micros, number, plus_minus
from workloads import WORKLOADS, Workload

STEP_MUST_REACH_MICROS = 3.0
IMPORT_MUST_REACH_MILLIS = 60.0
TRAIN_OPTIONS = {"l1": 0.0, "l2": 0.0, "clip_norm": 0.0, "clip_value": 0.0, "ema": 0.0, "accumulate": 1}

# Label -> (module to import after NumPy, distributions that make up its installed size).
LIBRARIES = {
    "fastopt": ("fastopt", ("fastopt",)),
    "torch": ("torch", ("torch",)),
    "JAX": ("jax", ("jax", "jaxlib")),
    "scikit-learn": ("sklearn.neural_network", ("scikit-learn",)),
}

IMPORT = "import time, numpy; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def run(context: Context) -> None:
    calls(context)
    imports(context)
    sizes(context)


def calls(context: Context) -> None:
    context.report.begin("overhead", "one call with prepared arrays, through Python and native, microseconds, 1 thread")
    context.fo.set_num_threads(1)  # or the two would differ by what each finds out about a second thread
    rows = []
    for workload in WORKLOADS[:3]:
        public, native = step_pair(context.fo, context.core, workload)
        rows.append(call_row(context, f"trainer.step {workload.title}", public, native, STEP_MUST_REACH_MICROS))
    rows.append(call_row(context, "net(x) 64-128-64-10, 1 row", *inference_pair(context.fo, context.core), None))
    context.fo.set_num_threads(context.threads)
    context.report.table(["call", "public", "native", "difference", "must reach"], rows)


def call_row(context: Context, case: str, public: Callable[[], object], native: Callable[[], object], goal: float | None) -> list[str]:
    times = context.measure([Contestant("fastopt public", repeat(public)), Contestant("fastopt native", repeat(native))])
    for name, summary in times.items():
        context.report.add(case, name, summary, "s")
    outer, inner = times["fastopt public"], times["fastopt native"]
    difference = number((outer.median - inner.median) * 1e6)
    return [case, micros(outer), micros(inner), difference, "-" if goal is None else f"≤ {number(goal)}"]


def dense_layers(fo: Any, sizes: tuple[int, ...]) -> list[Any]:
    hidden = [fo.layers.Dense(width, activation="relu") for width in sizes[1:-1]]
    return [*hidden, fo.layers.Dense(sizes[-1])]


def step_pair(fo: Any, core: Any, workload: Workload) -> tuple[Callable[[], object], Callable[[], object]]:
    """The same update by `Trainer.step` and by the native class under it."""
    x = normal(workload.batch, workload.sizes[0])
    if workload.classes:
        y: Any = (np.arange(workload.batch) % workload.classes).astype(np.int32)
    else:
        y = normal(workload.batch, workload.sizes[-1], seed=1)
    layers = dense_layers(fo, workload.sizes)
    optimizer, loss = fo.optimizers.Adam(learning_rate=1e-3), fo.losses.get(workload.loss)
    trainer = fo.Trainer(fo.Network(workload.sizes[0], layers, dtype="float32", seed=0), loss=loss, optimizer=optimizer)

    network = core.Network_float32(workload.sizes[0], [layer.config() for layer in layers], 0)
    native = core.TrainStep_float32(
        network, core.Loss_float32(loss.name, loss.config()), core.Optimizer_float32(optimizer.name, optimizer.config()), TRAIN_OPTIONS
    )
    return lambda: trainer.step(x, y), lambda: native.step(x, y, None, 1e-3)


def inference_pair(fo: Any, core: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    x, layers = normal(1, 64), dense_layers(fo, (64, 128, 64, 10))
    net = fo.Network(64, layers, dtype="float32", seed=0)
    native = core.Network_float32(64, [layer.config() for layer in layers], 0)
    infer = native.infer
    return lambda: net(x), lambda: infer(x)


def imports(context: Context) -> None:
    context.report.begin("overhead", f"import after NumPy, byte code at hand, must reach ≤ {IMPORT_MUST_REACH_MILLIS:.0f} ms")
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        # As pip leaves a package: compiled. An editable one is compiled by its first import, or never where that is switched off.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for turn in range(-1, context.plan.repeats):
            for label, (module, _) in LIBRARIES.items():
                # The peers take seconds: every fifth round, and not at all in --quick.
                rare = turn >= 0 and turn % 5 != 0
                if label != "fastopt" and (rare or context.quick or not importlib.util.find_spec(module.partition(".")[0])):
                    continue
                command = [sys.executable, "-c", IMPORT.format(module=module)]
                done = subprocess.run(command, capture_output=True, text=True, check=label == "fastopt", env=environment)
                if done.returncode == 0 and turn >= 0:  # the first one compiles
                    samples.setdefault(label, []).append(float(done.stdout))
    rows = []
    for label, values in samples.items():
        summary = summarize(values)
        context.report.add("import after numpy", label, summary, "s")
        rows.append([label, f"{number(summary.median * 1e3)} {plus_minus(summary)}", number(summary.best * 1e3)])
    context.report.table(["import", "ms", "best"], rows)


def sizes(context: Context) -> None:
    context.report.begin("overhead", "installed size")
    rows = []
    for label, (_, distributions) in LIBRARIES.items():
        size = package_bytes(context.fo) if label == "fastopt" else sum(map(distribution_bytes, distributions))
        if size > 0:
            context.report.add("installed size", label, summarize([size]), "B")
            rows.append([label, number(size / 1e6)])
    context.report.table(["library", "MB"], rows)


def distribution_bytes(name: str) -> int:
    """0 when it is not installed."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return 0
    paths = (Path(str(file.locate())) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file())


def package_bytes(fo: Any) -> int:
    """The package's folder and its native modules, wherever an editable install keeps them; no byte code."""
    folder = Path(fo.__file__).parent
    paths = {path for path in folder.rglob("*") if path.is_file() and not is_cache(path.relative_to(folder))}
    for isa in fo.build_info()["isas_built"]:
        found = importlib.util.find_spec(f"fastopt._core_{isa}")
        if found is not None and found.origin is not None:
            paths.add(Path(found.origin))
    return sum(path.stat().st_size for path in paths)


def is_cache(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
