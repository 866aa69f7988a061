"""What all tests share: their helpers on the path, and the number of threads put back."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _threads_as_before():
    """A test may set the number of threads; the next one starts with what the process had."""
    import fastopt as fo

    before = fo.get_num_threads()
    yield
    fo.set_num_threads(before)
