"""Where the number of threads comes from: each source alone, which one wins, and threadpoolctl's limit over all of them."""

import os
import sys

import fastopt as fo
import pytest
from children import run_python

pytest.importorskip("threadpoolctl")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

NUMBERS = """
    import threadpoolctl
    import fastopt as fo

    {setting}
    numbers = [fo.get_num_threads()]
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        numbers.append(fo.get_num_threads())
    numbers.append(fo.get_num_threads())
    with threadpoolctl.threadpool_limits(limits=1):
        numbers.append(fo.get_num_threads())
        with threadpoolctl.threadpool_limits(limits=3):
            numbers.append(fo.get_num_threads())
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        numbers.append(fo.get_num_threads())
    print(*numbers)
"""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

# name: (environment, statement, the number that they lead to)
SOURCES = {
    "FASTOPT_NUM_THREADS": ({"FASTOPT_NUM_THREADS": "7"}, "", 7),
    "OMP_NUM_THREADS": ({"OMP_NUM_THREADS": "5"}, "", 5),
    "FASTOPT_NUM_THREADS before OMP_NUM_THREADS": ({"FASTOPT_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"}, "", 7),
    "fewer than OMP_NUM_THREADS": ({"FASTOPT_NUM_THREADS": "2", "OMP_NUM_THREADS": "5"}, "", 2),
    "set_num_threads": ({}, "fo.set_num_threads(6)", 6),
    "set_num_threads before both": ({"FASTOPT_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"}, "fo.set_num_threads(6)", 6),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_and_limits(name):
    environment, setting, threads = SOURCES[name]
    if "OMP_NUM_THREADS" not in environment and CORES == 1:
        pytest.skip("a limit of 1 is OpenMP's own number on one core")
    out = run_python(NUMBERS.format(setting=setting), **{"OMP_NUM_THREADS": "", **environment})
    after_three = min(threads, 3) if CORES != 3 or "OMP_NUM_THREADS" in environment else threads
    assert out == f"{threads} 1 {threads} 1 {after_three} {threads}", "before, limited, after, limited, limited to 3, BLAS limited"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or CORES < 2, reason="needs an affinity mask and two cores")
def test_affinity():
    """The processors of the mask when the library is first asked, not those of the machine."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import fastopt; print(fastopt.get_num_threads())"
    assert run_python(code, OMP_NUM_THREADS="") == "1"


def test_a_limit_belongs_to_its_thread():
    """OpenMP keeps the number per thread: another thread's calls are not limited."""
    out = run_python("""
        import threading
        import threadpoolctl
        import fastopt as fo

        with threadpoolctl.threadpool_limits(1):
            other = []
            thread = threading.Thread(target=lambda: other.append(fo.get_num_threads()))
            thread.start()
            thread.join()
            print(fo.get_num_threads(), *other)
    """, FASTOPT_NUM_THREADS="4", OMP_NUM_THREADS="2")  # fmt: skip
    assert out == "1 4"


def test_imported_inside_a_limit():
    """Where another package loaded OpenMP before: the limit is seen, and is not taken for the normal number afterwards."""
    loaded = """
        import threadpoolctl, fastopt
        print(next(entry["filepath"] for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "openmp"))
    """
    code = """
        import ctypes, sys
        import threadpoolctl
        ctypes.CDLL(sys.argv[1])
        with threadpoolctl.threadpool_limits(1):
            import fastopt as fo
            inside = fo.get_num_threads()
        print(inside, fo.get_num_threads())
    """
    assert run_python(code, arguments=[run_python(loaded)], OMP_NUM_THREADS="3") == "1 3"


@linux
def test_a_limit_reaches_the_pool():
    """Whole runs inside the block start no thread and give the same bits as outside."""
    out = run_python("""
        import os
        import numpy as np, threadpoolctl
        import fastopt as fo

        def tasks():
            return len(os.listdir("/proc/self/task"))

        def run():
            rng = np.random.default_rng(1)
            a, b = rng.standard_normal((400, 300)), rng.standard_normal((300, 500))
            return fo.kernels.matmul(a, b)

        before = tasks()
        with threadpoolctl.threadpool_limits(1):
            limited = run()
            inside = tasks()
        free = run()
        print(inside - before, tasks() - before, bool((limited == free).all()))
    """, FASTOPT_NUM_THREADS="4", OMP_NUM_THREADS="2")  # fmt: skip
    assert out == "0 3 True"


def test_the_number_is_reported():
    assert fo.build_info()["threads"] == fo.get_num_threads()
