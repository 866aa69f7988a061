"""Child of `memory.py`: runs one case and prints stage -> peak bytes above the start of the process, as JSON.

Anonymous memory is what the process asked for. Pages of files (a memory map that was read) are counted apart: the kernel takes them back
whenever somebody wants memory.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastopt as fo
import numpy as np

STEPS = 3
LOOK_SECONDS = 0.002


def resident() -> tuple[int, int]:
    """Anonymous bytes, bytes of files."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))


def huge() -> int:
    """Anonymous bytes in huge pages."""
    with open("/proc/self/smaps_rollup") as rollup:
        return next((int(line.split()[1]) * 1024 for line in rollup if line.startswith("AnonHugePages")), 0)


class Watch:
    """Measures stages: a thread looks at the resident memory while the stage runs."""

    def __init__(self) -> None:
        self._start = resident()
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        peaks, ended = list(resident()), threading.Event()

        def look() -> None:
            while not ended.wait(LOOK_SECONDS):
                peaks[:] = map(max, peaks, resident())

        thread = threading.Thread(target=look)
        thread.start()
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            peaks[:] = map(max, peaks, resident())
            ended.set()
            thread.join()
        anonymous, files = (peak - start for peak, start in zip(peaks, self._start, strict=True))
        self.stages[name] = {"anonymous": anonymous, "file": files, "huge": huge(), "seconds": seconds}


def network(sizes: list[int], batch: int) -> dict[str, dict[str, float]]:
    rows = STEPS * batch
    x = np.random.default_rng(0).standard_normal((rows, sizes[0]), dtype=np.float32)
    y = (np.arange(rows) % sizes[-1]).astype(np.int32)
    watch = Watch()
    with watch.stage("build"):
        net = fo.mlp(sizes[0], sizes[1:-1], sizes[-1], activation="relu", seed=0)
    trainer = fo.Trainer(net, "softmax_cross_entropy", "adam")
    with watch.stage("first step"):
        trainer.step(x[:batch], y[:batch])
    with watch.stage("fit"):
        trainer.fit(x, y, epochs=2, batch_size=batch, progress=False)
    with watch.stage("evaluate"):
        trainer.evaluate(x[:batch], y[:batch])
    with tempfile.TemporaryDirectory() as folder, watch.stage("save"):
        trainer.save(Path(folder) / "trainer.safetensors")
    return watch.stages


def rows(sizes: list[int], batch: int, folder: str) -> dict[str, dict[str, float]]:
    watch = Watch()
    trainer = fo.Trainer(fo.mlp(sizes[0], sizes[1:-1], sizes[-1], activation="relu", standardize=True, seed=0), "mse", "adam")
    x, y = (np.load(Path(folder) / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    with watch.stage("fit"):
        trainer.fit(x, y, epochs=1, batch_size=batch, progress=False)
    with watch.stage("evaluate"):
        trainer.evaluate(x, y)
    return watch.stages


def main() -> None:
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    fo.set_num_threads(arguments.pop("threads"))
    print(json.dumps({"network": network, "rows": rows}[arguments.pop("case")](**arguments)))


if __name__ == "__main__":
    main()
