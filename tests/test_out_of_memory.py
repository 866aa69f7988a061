"""Memory that runs out in the middle of a step is an error of that step, and of nothing else."""

import json
from pathlib import Path

import pytest
from children import preloaded, run_python

SOURCE = Path(__file__).parent / "failing_new.cpp"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_whose_memory_runs_out_changes_nothing(threads, tmp_path):
    code = "import runpy; runpy.run_module('memory_failures', run_name='__main__')"
    found = json.loads(run_python(code, threads=threads, LD_PRELOAD=preloaded(SOURCE, tmp_path)))
    assert all(requests > 5 for requests, _ in found.values()), f"hardly any request failed: {found}"
    in_halves = [kind for kind, (_, steps) in found.items() if steps > 0]
    assert in_halves == (["halves, plain"] if threads == 2 else []), found
