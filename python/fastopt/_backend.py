"""Chooses and imports the native core: its only importer.

The extension module is compiled once per instruction set; the best one that this processor supports is taken. The environment variable
`FASTOPT_ISA` (v3, v4, neon) forces one and never falls back in silence.
"""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

ISAS = ("v4", "v3", "neon")
MOST_THREADS = 4096


def built() -> list[str]:
    """Instruction sets of the cores that are installed, best first."""
    return [name for name in ISAS if importlib.util.find_spec(f"fastopt._core_{name}") is not None]


def _choose() -> str:
    present = built()
    forced = os.environ.get("FASTOPT_ISA", "").strip()
    if forced and forced not in ISAS:
        raise ImportError(f"FASTOPT_ISA={forced!r} is not known; known are: {', '.join(ISAS)}.")
    if forced and forced not in present:
        raise ImportError(f"FASTOPT_ISA={forced!r} is not in this build of fastopt, which has: {', '.join(present) or 'none'}.")
    if not present:
        raise ImportError("fastopt has no native core here; install a wheel for this platform, or 'pip install .' in its repository.")
    from fastopt import _cpu

    supported = _cpu.supported()
    if forced and forced not in supported:
        raise ImportError(f"FASTOPT_ISA={forced!r} is not supported by this processor, which supports: {', '.join(supported) or 'none'}.")
    if forced:
        return forced
    for name in supported:
        if name in present:
            return name
    raise ImportError(
        f"fastopt was built for {', '.join(present)}, but this processor supports {', '.join(supported) or 'none'} "
        "(AVX2 and FMA are the floor on x86); build it from source with FASTOPT_ISAS set to one that it supports."
    )


def _check_threads() -> None:
    given = os.environ.get("FASTOPT_NUM_THREADS", "").strip()
    if given and not (given.isascii() and given.isdigit() and 1 <= int(given) <= MOST_THREADS):
        raise ImportError(f"FASTOPT_NUM_THREADS={given!r} is no number of threads; set it to an integer from 1 to {MOST_THREADS}.")


isa = _choose()
_check_threads()

# How often an OpenMP worker looks for new work before it sleeps: about 70 us, longer than the gaps inside a step. The default of libgomp,
# 7 ms, keeps a core busy after every call and makes a step a hundred times slower when another process wants that core.
_SPINS = {"GOMP_SPINCOUNT": "4000"}


def _load() -> Any:
    # The OpenMP runtime reads its environment once, when the core is loaded; a choice of the user's goes first.
    ours = {} if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ) else _SPINS
    os.environ.update(ours)
    try:
        return importlib.import_module(f"fastopt._core_{isa}")
    finally:
        for name in ours:
            del os.environ[name]


if TYPE_CHECKING:
    from fastopt import _core

    core = _core
else:
    core = _load()


def set_num_threads(n: int) -> None:
    """Set how many threads the native code may use; results do not depend on it.

    The number is the first of: what this function set; the environment variable FASTOPT_NUM_THREADS; OMP_NUM_THREADS; the processors that
    the calling thread may run on, or the CPU quota of its control groups when that is less. The processors are counted by
    `get_num_threads`, when a fit begins, and anew in a forked child. `threadpoolctl` lowers the number: `threadpool_limits(1)` holds
    for the calls that its thread makes inside the block, whoever chose the number, and ends with it. (Only a limit equal to OpenMP's own
    number, OMP_NUM_THREADS or the processors, cannot lower an explicit choice above that number.) Small work uses fewer threads.

    Parameters
    ----------
    n : int
        From 1 to 4096.

    Raises
    ------
    TypeError, ValueError
        When n is not an int or is none of these.

    Examples
    --------
    >>> import fastopt as fo
    >>> before = fo.get_num_threads()
    >>> fo.set_num_threads(1)
    >>> fo.get_num_threads()
    1
    >>> fo.set_num_threads(before)
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an integer; got {n!r}")
    if n.__index__() < 1:
        raise ValueError(f"n must be at least 1; got {n!r}")
    if n.__index__() > MOST_THREADS:
        raise ValueError(f"n must be at most {MOST_THREADS}; got {n!r}")
    core.set_num_threads(n.__index__())


def get_num_threads() -> int:
    """How many threads the native code may use when called from this thread; `set_num_threads` says where the number comes from.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.get_num_threads() >= 1
    True
    """
    core.look_at_cores()
    return core.get_num_threads()


def build_info() -> dict[str, Any]:
    """Version, instruction set in use and those built, compiler, Eigen, OpenMP, threads, and "bf16": whether precision "bf16" works here.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.build_info()["isa"] in fo.build_info()["isas_built"]
    True
    """
    from importlib import metadata

    try:
        version = metadata.version("fastopt")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {**core.build_info(), "version": version, "isa": isa, "isas_built": built(), "threads": get_num_threads()}


def show_config() -> None:
    """Print `build_info`, one line per entry.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.show_config()  # doctest: +ELLIPSIS
    fastopt ...
    """
    info = build_info()
    print(f"fastopt {info.pop('version')}")
    width = max(map(len, info))
    for key, value in info.items():
        print(f"  {key:<{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
