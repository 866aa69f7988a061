"""What all tests share: their helpers on the path, and the number of threads put back."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def cut_for_threads():
    """Sets a number of threads, and that they share every piece of work, however small; with 1 as built."""
    import fastopt as fo
    from native import core

    def cut(threads):
        fo.set_num_threads(threads)
        core.set_work_per_thread(0 if threads == 1 else 1)

    yield cut
    core.set_work_per_thread(0)


@pytest.fixture(autouse=True)
def _threads_as_before():
    """A test may set the number of threads; the next one starts with what the process had."""
    import fastopt as fo

    before = fo.get_num_threads()
    yield
    fo.set_num_threads(before)
