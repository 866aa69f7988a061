"""What the figures were measured on. Imports nothing that starts threads: `pin` must run before NumPy and the peers are imported."""

import os
import platform
import re
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("fastopt", "numpy", "torch", "jax", "jaxlib", "optax", "scikit-learn", "onnxruntime")
DEFAULT_CACHES = {2: 1 << 20, 3: 32 << 20}  # when the system does not tell


def available_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else installed_cores()


def installed_cores() -> int:
    return os.cpu_count() or 1


def pin(threads: int) -> None:
    """Give every library `threads` threads: by affinity (JAX reads nothing else) and by environment (OpenMP, OpenBLAS)."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if threads < len(cores):
            os.sched_setaffinity(0, cores[:threads])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTOPT_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def caches() -> dict[int, int]:
    """Bytes of the data caches of one core by level, as the system reports them."""
    sizes: dict[int, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((entry / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size[-1] in "KM":
            sizes[int(level)] = int(size[:-1]) << (10 if size[-1] == "K" else 20)
    return sizes


def cache_bytes(level: int) -> int:
    return caches().get(level, DEFAULT_CACHES[level])


class LoadMeter:
    """How many cores other processes kept busy since the meter was made; None where the system does not tell."""

    def __init__(self) -> None:
        self.wall, self.machine, self.own = time.perf_counter(), busy_seconds(), own_seconds()

    def others(self) -> float | None:
        now = busy_seconds()
        if now is None or self.machine is None:
            return None
        spent = (now - self.machine) - (own_seconds() - self.own)
        return max(0.0, spent / (time.perf_counter() - self.wall))


def busy_seconds() -> float | None:
    """CPU time of all processes since the machine started."""
    try:
        user, nice, system = (int(field) for field in Path("/proc/stat").read_text().split()[1:4])
    except (OSError, ValueError):
        return None
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(threads: int) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "cores": installed_cores(),
        "cores_used": available_cores(),
        "threads": threads,
        "caches": {f"L{level}": size for level, size in sorted(caches().items())},
        "versions": versions(),
    }
