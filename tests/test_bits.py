"""The same bits on 1, 2, 3, 4 and 8 threads and on every instruction set: kernels and whole training runs, in children."""

import json
from functools import lru_cache

import fastopt as fo
import pytest
from children import run_python
from native import built_isas, core

HERE = fo.build_info()["isa"]


@lru_cache
def runs(isa, threads):
    """What bits_runs.py computes on this instruction set with so many threads."""
    out = json.loads(run_python("import runpy; runpy.run_module('bits_runs', run_name='__main__')", isa=isa, threads=threads))
    assert (out["isa"], out["threads"]) == (isa, threads), "the child runs what was asked for"
    assert out["started"] is None or out["started"] >= threads, f"{out['started']} threads did the work of {threads}"
    return out["hashes"]


def assert_same(isa, threads):
    """The bits of this instruction set and number of threads are those of one thread here."""
    expected, found = runs(HERE, 1), runs(isa, threads)
    assert expected.keys() == found.keys()
    differ = [name for name in expected if expected[name] != found[name]]
    assert not differ, f"{len(differ)} of {len(expected)} differ between {HERE} on 1 thread and {isa} on {threads}: {differ}"


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_threads(threads):
    assert_same(HERE, threads)


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("isa", [isa for isa in ("v3", "v4") if isa != HERE])
def test_instruction_sets(isa, threads):
    if isa not in built_isas():
        pytest.skip(f"the core for {isa} is not built here: only {', '.join(built_isas())}")
    if HERE == "v3":
        code, _, error = run_python("import fastopt", isa=isa, check=False)
        if code != 0 and "not supported by this processor" in error:
            pytest.skip(f"this processor does not support {isa}")
    assert_same(isa, threads)


def test_everything_registered_is_hashed():
    """Each rule in a training run of an odd shape; the layers are all in `networks.every_layer`."""
    names = [name for name in runs(HERE, 1) if " odd " in name]
    for kind, known in (("loss", core.loss_names()), ("optimizer", core.optimizer_names()), ("activation", core.activation_names())):
        missing = [rule for rule in known if not any(f"odd {kind} {rule}" in name for name in names)]
        assert not missing, f"no training run of these is hashed: {missing}"


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_number_of_threads_set_in_between_does_not_matter(batch_norm):
    """The same, within one process: threads are changed between the epochs of a fit."""
    import numpy as np

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((400, 100)), rng.integers(0, 5, 400)

    def weights(threads_of):
        net = fo.mlp(100, [128, 128], 5, batch_norm=batch_norm, seed=1)
        trainer = fo.Trainer(net, "cross_entropy")
        trainer.fit(x, y, epochs=4, batch_size=100, callbacks=[lambda trainer, row: fo.set_num_threads(threads_of(row["epoch"]))])
        return np.concatenate([view.ravel() for view in net.parameters.values()])

    np.testing.assert_array_equal(weights(lambda epoch: 1), weights(lambda epoch: epoch % 4 + 1))
