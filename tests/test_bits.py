"""The same bits on 1, 2, 3 and 4 threads and on every instruction set: kernels and whole training runs, in children."""

import json
from functools import lru_cache

import fastopt as fo
import pytest
from children import run_python
from native import built_isas

THREADS = (1, 2, 3, 4)
HERE = fo.build_info()["isa"]


@lru_cache
def runs(isa, threads):
    """What bits_runs.py computes on this instruction set with so many threads."""
    out = json.loads(run_python("import runpy; runpy.run_module('bits_runs', run_name='__main__')", isa=isa, threads=threads))
    assert (out["isa"], out["threads"]) == (isa, threads), "the child runs what was asked for"
    return out["hashes"]


def differences(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if a[name] != b[name]]


def test_threads():
    for threads in THREADS[1:]:
        differ = differences(runs(HERE, 1), runs(HERE, threads))
        assert not differ, f"{len(differ)} of {len(runs(HERE, 1))} differ between 1 and {threads} threads on {HERE}: {differ}"


def other_isas():
    return [isa for isa in ("v3", "v4") if isa != HERE]


@pytest.mark.parametrize("isa", other_isas())
def test_instruction_sets(isa):
    if isa not in built_isas():
        pytest.skip(f"the core for {isa} is not built here: only {', '.join(built_isas())}")
    if HERE == "v3":
        code, _, error = run_python("import fastopt", isa=isa, check=False)
        if code != 0 and "not supported by this processor" in error:
            pytest.skip(f"this processor does not support {isa}")
    differ = differences(runs(HERE, 1), runs(isa, 1))
    assert not differ, f"{len(differ)} of {len(runs(HERE, 1))} differ between {HERE} and {isa}: {differ}"
    differ = differences(runs(HERE, 1), runs(isa, 2))
    assert not differ, f"{len(differ)} differ between {HERE} on 1 thread and {isa} on 2: {differ}"


def test_the_number_of_threads_set_in_between_does_not_matter():
    """The same, within one process: threads are changed between the epochs of a fit."""
    import numpy as np

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((400, 100)), rng.integers(0, 5, 400)

    def weights(threads_of):
        net = fo.mlp(100, [128, 128], 5, batch_norm=True, seed=1)
        trainer = fo.Trainer(net, "cross_entropy")
        trainer.fit(x, y, epochs=4, batch_size=100, callbacks=[lambda trainer, row: fo.set_num_threads(threads_of(row["epoch"]))])
        return np.concatenate([view.ravel() for view in net.parameters.values()])

    np.testing.assert_array_equal(weights(lambda epoch: 1), weights(lambda epoch: epoch % 4 + 1))
