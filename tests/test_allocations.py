"""Nothing is allocated by a warm step or by inference into an array of the caller: every request of the process is counted."""

import json
from pathlib import Path

import pytest
from children import preloaded, run_python
from native import core

SOURCE = Path(__file__).parent / "counting_malloc.cpp"


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """The shared library that counts, compiled here."""
    return preloaded(SOURCE, tmp_path_factory.mktemp("counter"))


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_and_inference_allocate_nothing(counter, threads):
    """With two threads every piece of work is cut, so that the parallel regions are counted too."""
    work = {1: 0, 2: 1}[threads]
    code = "import runpy; runpy.run_module('allocation_runs', run_name='__main__')"
    out = json.loads(run_python(code, threads=threads, arguments=[str(work)], LD_PRELOAD=counter))
    assert out["threads"] == threads, "the child runs what was asked for"
    for names in (core.loss_names(), core.optimizer_names(), core.activation_names()):
        missing = [name for name in names if not any(name in case for case in out["requests"])]
        assert not missing, f"nothing was counted for {missing}"
    found = {case: count for case, count in out["requests"].items() if count != 0}
    assert not found, f"{len(found)} of {len(out['requests'])} runs allocate: {found}"
