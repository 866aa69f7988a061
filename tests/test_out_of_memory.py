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
    assert all(count > 5 for count in found.values()), f"hardly any request failed: {found}"
