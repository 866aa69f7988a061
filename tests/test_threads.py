"""Where the number of threads comes from: each source alone, which one wins, and threadpoolctl's limit over all of them."""

import os
import sys

import fastopt as fo
import pytest
from children import run_python
from native import core

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
    out = run_python(NUMBERS.format(setting=setting), **{"OMP_NUM_THREADS": None, **environment})
    after_three = min(threads, 3) if CORES != 3 or "OMP_NUM_THREADS" in environment else threads
    assert out == f"{threads} 1 {threads} 1 {after_three} {threads}", "before, limited, after, limited, limited to 3, BLAS limited"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or CORES < 2, reason="needs an affinity mask and two cores")
def test_affinity():
    """The processors of the mask, not those of the machine; of what it is now."""
    code = """
        import os
        every = os.sched_getaffinity(0)
        one = {min(every)}
        os.sched_setaffinity(0, one)
        import fastopt as fo
        numbers = [fo.get_num_threads()]
        os.sched_setaffinity(0, every)
        numbers.append(fo.get_num_threads())
        os.sched_setaffinity(0, one)
        numbers.append(fo.get_num_threads())
        fo.set_num_threads(2)
        numbers.append(fo.get_num_threads())
        print(*numbers)
    """
    assert run_python(code, OMP_NUM_THREADS=None) == f"1 {CORES} 1 2"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or CORES < 2, reason="needs an affinity mask and two cores")
@pytest.mark.parametrize("call", ["fo.get_num_threads()", "trainer.fit(x, x, epochs=1, progress=False)", "trainer.step(x, x)"])
def test_forked_workers_on_cores_of_their_own(call):
    """What the parent found does not hold for them; and a fit in a process that was moved finds it without being asked."""
    code = f"""
        import os
        import numpy as np
        import fastopt as fo
        from fastopt._backend import core

        x = np.ones((8, 2), np.float32)
        trainer = fo.Trainer(fo.mlp(2, [3], 2), "mse", "sgd")
        trainer.step(x, x)
        if os.fork() == 0:
            os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
            {call}
            print(core.get_num_threads(), flush=True)
            os._exit(0)
        os.wait()
        every = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {{max(every)}})
        trainer.fit(x, x, epochs=1, progress=False)
        print(core.get_num_threads())
    """
    assert run_python(code, OMP_NUM_THREADS=None) == "1\n1"


# name: (/proc/self/cgroup, {file under /sys/fs/cgroup: text}, cores that are left, 0 without a limit)
QUOTAS = {
    "nothing there": ("", {}, 0),
    "v2, no limit": ("0::/\n", {"cpu.max": "max 100000"}, 0),
    "v2, a container": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "v2, less than one": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "v2, the group itself": ("0::/a/b\n", {"a/cpu.max": "max 100000", "a/b/cpu.max": "300000 100000"}, 3),
    "v2, a group above": ("0::/a/b/c\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "700000 100000"}, 2),
    "v2, a group beside": ("0::/a/b\n", {"a/c/cpu.max": "100000 100000"}, 0),
    "v2, below a mount that is the group": ("0::/docker/1\n", {"cpu.max": "400000 100000"}, 4),
    "v2, outside of what is seen": ("0::/../..\n", {"cpu.max": "400000 100000"}, 4),
    "v1": (
        "4:memory:/x\n3:cpu,cpuacct:/x/y\n0::/\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        3,
    ),
    "v1, no limit": ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 0),
    "v1, a container": ("3:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    "v1, of another controller": ("2:cpuset:/x\n", {"cpu/x/cpu.cfs_quota_us": "100000", "cpu/x/cpu.cfs_period_us": "100000"}, 0),
    "both, the smaller one": (
        "3:cpu:/x\n0::/y\n",
        {"cpu/x/cpu.cfs_quota_us": "500000", "cpu/x/cpu.cfs_period_us": "100000", "unified/y/cpu.max": "200000 100000"},
        2,
    ),
    "not to be read": ("no line of it\n\n7:cpu:x\n0::\n0::/a\n", {"a/cpu.max": "many", "cpu.max": "1"}, 0),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quota_of_the_control_groups(name, tmp_path):
    groups, files, cores = QUOTAS[name]
    for path, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{path}": text for path, text in files.items()}}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert core.quota_cores(str(tmp_path)) == cores


@pytest.mark.parametrize("given", ["0", "-1", "2.5", "4abc", "many", "99999999999"])
def test_a_number_in_the_environment_that_is_none(given):
    code = "try:\n    import fastopt\nexcept ImportError as error:\n    print(error)"
    message = f"FASTOPT_NUM_THREADS={given!r} is no number of threads; set it to an integer from 1 to 4096."
    assert run_python(code, FASTOPT_NUM_THREADS=given) == message


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
