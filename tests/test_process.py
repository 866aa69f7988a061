"""What importing and running may do to the process: no threads at import, forks work, forced instruction sets, floating-point modes."""

import os
import sys

import fastopt as fo
import pytest
from children import run_python
from native import ISAS, built_isas

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


@linux
def test_import_starts_no_thread_and_changes_no_handler():
    out = run_python("""
        import os, signal
        import numpy
        signals = [s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)]
        before = len(os.listdir("/proc/self/task")), [signal.getsignal(s) for s in signals], os.sched_getaffinity(0), dict(os.environ)
        import fastopt
        after = len(os.listdir("/proc/self/task")), [signal.getsignal(s) for s in signals], os.sched_getaffinity(0), dict(os.environ)
        print([a == b for a, b in zip(before, after)])
    """)
    assert out == "[True, True, True, True]", "threads, signal handlers, affinity, environment before and after the import"


def test_import_loads_no_optional_package():
    out = run_python("""
        import sys
        import fastopt
        print([name for name in ("sklearn", "matplotlib", "torch", "pandas", "scipy", "jax") if name in sys.modules])
    """)
    assert out == "[]"


def test_names_that_are_imported_late():
    """They are no part of `import fastopt`, yet they are listed, are there when asked for, and are what their modules say."""
    out = run_python("""
        import sys
        import fastopt as fo

        late = ["callbacks", "functions", "gradcheck", "kernels", "line_search", "_minimize", "plots", "schedules"]
        print([name for name in late if f"fastopt.{name}" in sys.modules], sorted({*fo.__all__, "plots"} - set(dir(fo))))
        from fastopt import *
        print(minimize is fo.minimize, callable(fo.minimize), schedules.linear(0.1, 10) == fo.schedules.linear(0.1, 10))
        print(sorted(name for name in fo.__all__ if name not in vars(fo)), isinstance(fo.__version__, str), hasattr(fo, "nothing"))
    """)
    assert out.splitlines() == ["[] []", "True True True", "[] True False"]


FORK = """
    import os, sys
    import numpy as np, fastopt as fo

    def run():
        rng = np.random.default_rng(1)
        x, y = rng.standard_normal((600, 64)), rng.integers(0, 5, 600)
        trainer = fo.Trainer(fo.mlp(64, [256, 256], 5, seed=1), "cross_entropy")
        trainer.fit(x, y, epochs=2, batch_size=200)
        return b"".join(v.tobytes() for v in trainer.network.parameters.values())

    fo.set_num_threads(4)
    here = run()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"same" if run() == here else b"other")
        os._exit(0)
    os.close(write)
    print(os.read(read, 10).decode(), os.waitpid(child, 0)[1], run() == here)
"""


@forks
def test_fork_after_a_parallel_run():
    """The child trains on threads of its own to the same bits; a hang would run into the runner's limit."""
    assert run_python(FORK, PYTHONWARNINGS="default") == "same 0 True"


@forks
@pytest.mark.parametrize("order", ["another thread first", "this thread first"])
def test_fork_by_one_thread_after_another(order):
    """Each thread's workers are its own: a fork by one lets go of its own only, and the next one's child would wait for the others'."""
    out = run_python(
        """
        import os, signal, sys, threading
        import numpy as np, fastopt as fo

        fo.set_num_threads(2)
        a = np.ones((800, 800), np.float32)

        def child():
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                fo.kernels.matmul(a, a)
                os._exit(0)
            print(os.waitpid(pid, 0)[1])

        def of_another_thread():
            fo.kernels.matmul(a, a)
            other.set()
            go.wait()
            child()

        other, go = threading.Event(), threading.Event()
        thread = threading.Thread(target=of_another_thread)
        fo.kernels.matmul(a, a)
        thread.start()
        other.wait()
        if sys.argv[1] == "this thread first":
            child()
        go.set()
        thread.join()
        child()
        """,
        PYTHONWARNINGS="ignore",
        arguments=(order,),
    )
    assert set(out.split()) == {"0"}


def test_after_memory_has_run_out():
    """What did not fit does not count as there."""
    out = run_python(
        """
        import numpy as np, fastopt as fo

        net = fo.mlp(1, [100_000], 1)
        trainer = fo.Trainer(net, "mse", "sgd")
        x = np.zeros((3_000_000, 1), np.float32)  # of which a hidden layer takes more than any machine has
        few = x[:64]
        trainer.fit(few, few, batch_size=None)
        for large in (lambda: trainer.fit(x, x, batch_size=None), lambda: net.forward(x, True)):
            try:
                large()
                print("no error")
            except MemoryError:
                trainer.fit(few, few, batch_size=None)
                net.forward(few, True)
        """,
    )
    assert out == ""


def test_two_threads_that_share():
    """A network: each gets the outputs of its own rows. Kernels: the number of threads may change on the way."""
    out = run_python(
        """
        import threading
        import numpy as np, fastopt as fo

        net = fo.Network(4, [fo.layers.Dense(2000)], seed=1)
        batches = [np.full((rows, 4), float(rows), np.float32) for rows in (900, 901)]
        wanted, wrong = [net.forward(x) for x in batches], []

        def forward(x, y):
            wrong.extend(1 for _ in range(100) if not np.array_equal(net.forward(x), y))

        x, g, w = np.ones((64, 700), np.float32), np.ones((64, 900), np.float32), np.ones((700, 900), np.float32)

        def backward():
            for _ in range(200):
                fo.kernels.dense_backward(g, x, w)
            done.set()

        def turn():
            threads = 1
            while not done.is_set():
                fo.set_num_threads(threads := 9 - threads)

        done = threading.Event()
        for targets in ([(forward, pair) for pair in zip(batches, wanted)], [(backward, ()), (turn, ())]):
            running = [threading.Thread(target=target, args=given) for target, given in targets]
            [thread.start() for thread in running]
            [thread.join() for thread in running]
        print(len(wrong))
        """
    )
    assert out == "0"


@forks
def test_multiprocessing_pool_by_fork():
    out = run_python(
        """
        import multiprocessing
        import numpy as np, fastopt as fo

        def work(seed):
            rng = np.random.default_rng(0)
            x, y = rng.standard_normal((300, 64)), rng.standard_normal((300, 1))
            trainer = fo.Trainer(fo.mlp(64, [128, 128], 1, seed=seed), "mse")
            return trainer.fit(x, y, epochs=1, batch_size=100)["loss"][0]

        here = [work(seed) for seed in range(4)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(work, range(4)) == here)
        """,
        PYTHONWARNINGS="default",
    )
    assert out == "True"


def test_python_threads_work_beside_each_other():
    """The GIL is released during a run; two trainers in two threads give what they give alone."""
    import threading

    import numpy as np

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((400, 32)), rng.integers(0, 3, 400)

    def train(seed, results):
        trainer = fo.Trainer(fo.mlp(32, [64, 64], 3, seed=seed), "cross_entropy")
        results[seed] = trainer.fit(x, y, epochs=3, batch_size=50)["loss"]

    alone, together = {}, {}
    for seed in range(3):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def failing(isa):
    code, out, error = run_python("import fastopt; print(fastopt.build_info()['isa'])", isa=isa, check=False)
    return code, out, error.splitlines()[-1] if error else ""


def test_forced_instruction_sets():
    built = built_isas()
    for isa in ISAS:
        code, out, error = failing(isa)
        if isa not in built:
            assert code != 0, f"FASTOPT_ISA={isa} is not built but was accepted"
            assert error.startswith("ImportError"), error
            assert isa in error
        elif code != 0:
            assert error.startswith("ImportError"), error
            assert "processor" in error, f"FASTOPT_ISA={isa} is built but refused: {error}"
        else:
            assert out == isa, f"FASTOPT_ISA={isa} chose {out}"


def test_an_unknown_instruction_set():
    code, _, error = failing("avx9")
    assert code != 0
    assert error.startswith("ImportError"), error
    for word in ("avx9", *ISAS):
        assert word in error, f"{word} is not in: {error}"


def test_no_core_at_all():
    """With every core hidden the import fails with one sentence that says what to do."""
    code, _, error = run_python(
        """
        import importlib.abc, sys
        from importlib import util
        find = util.find_spec
        util.find_spec = lambda name, package=None: None if "._core_" in name else find(name, package)
        import fastopt
        """,
        check=False,
        FASTOPT_ISA="",
    )
    assert code != 0
    assert error.splitlines()[-1].startswith("ImportError"), error
    assert "pip install" in error.splitlines()[-1]


def test_floating_point_modes():
    """Denormals survive and rounding is to nearest, at import, after parallel runs, and in worker threads' results."""
    out = run_python("""
        import numpy as np

        def modes():
            tiny, one = np.full(9, 5e-324), np.ones(9)
            return (float((tiny * one)[0]), float((np.full(9, 1e-310) / 2)[0]), float(np.float32(1e-40) * np.float32(1)), 1.0 + 2.0**-53)

        before = modes()
        import fastopt as fo
        imported = modes()
        fo.set_num_threads(4)
        rng = np.random.default_rng(1)
        trainer = fo.Trainer(fo.mlp(64, [128, 128], 3, seed=1), "cross_entropy")
        trainer.fit(rng.standard_normal((600, 64)), rng.integers(0, 3, 600), epochs=2, batch_size=200)
        out = fo.kernels.matmul(np.full((300, 64), 2.0**-1060), np.eye(64))
        print(before == imported == modes(), before[0] > 0, bool((out == 2.0**-1060).all()))
    """)
    assert out == "True True True"


def test_beside_torch_and_sklearn():
    """Imported in either order in one process, each still works."""
    for name in ("torch", "sklearn"):
        pytest.importorskip(name)
    for order in (("torch", "sklearn.linear_model", "fastopt"), ("fastopt", "torch", "sklearn.linear_model")):
        out = run_python(
            f"""
            import importlib
            for name in {order!r}:
                importlib.import_module(name)
            import numpy as np, fastopt as fo, torch
            rng = np.random.default_rng(1)
            x, y = rng.standard_normal((300, 64)), rng.standard_normal((300, 1))
            first = fo.Trainer(fo.mlp(64, [128], 1, seed=1), "mse").fit(x, y, epochs=1)["loss"]
            torch.ones(300, 300) @ torch.ones(300, 300)
            print(first == fo.Trainer(fo.mlp(64, [128], 1, seed=1), "mse").fit(x, y, epochs=1)["loss"])
            """,
            PYTHONWARNINGS="default",
        )
        assert out == "True", f"imported in the order {order}"


def test_threads_from_the_environment():
    for threads in (1, 3):
        out = run_python("import fastopt; print(fastopt.get_num_threads(), fastopt.build_info()['threads'])", threads=threads)
        assert out == f"{threads} {threads}"


@pytest.mark.parametrize("call", ["t.fit(x, y, epochs=10**6)", "t.step(x[:32], y[:32])", "t.predict(x)", "t.network(x[:1])"])
def test_a_daemon_thread_at_the_end_of_the_process(call):
    """It ends with the interpreter, without a crash."""
    out = run_python(
        f"""
        import threading, time
        import numpy as np, fastopt as fo
        x = np.random.default_rng(0).standard_normal((2000, 20)).astype("f4")
        y = (x[:, 0] > 0).astype(int)
        t = fo.Trainer(fo.mlp(20, [64, 64], 2, seed=0), "cross_entropy")

        def loop():
            while True:
                {call}

        threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.1)
        print("done")
        """
    )
    assert out == "done"


@forks
def test_a_bar_in_a_child_whose_parent_draws_one():
    """A child forked while another thread draws, and a parent whose child was killed while it drew, draw on."""
    out = run_python("""
        import io, os, signal, sys, threading, warnings
        import numpy as np, fastopt as fo

        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside a thread
        x = np.ones((8, 2))
        inside, go_on = threading.Event(), threading.Event()

        class Slow(io.StringIO):
            def write(self, text):
                if threading.current_thread() is not threading.main_thread() and not go_on.is_set():
                    inside.set()
                    go_on.wait()
                return super().write(text)

        sys.stderr = Slow()

        def fit():
            fo.Trainer(fo.mlp(2, [3], 1, seed=0), "mse").fit(x, x[:, 0], progress=True)

        drawing = threading.Thread(target=fit)
        drawing.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            fit()
            os._exit(0)
        ended = os.waitpid(child, 0)[1]
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            class Told(io.StringIO):
                def write(self, text):
                    os.write(write, b"x")
                    threading.Event().wait()
            sys.stderr = Told()
            fit()
        os.read(read, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        go_on.set()
        drawing.join()
        fit()
        print(ended)
    """)
    assert out == "0"
