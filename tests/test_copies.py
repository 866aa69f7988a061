"""Copies of arrays that change: what was taken comes back, whatever the size, the place in memory and the number of threads."""

import numpy as np
import pytest
from native import core


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_was_taken_comes_back(cut_for_threads, threads):
    cut_for_threads(threads)
    rng = np.random.default_rng(threads)
    large = rng.standard_normal((1 << 20) // 4 + 1001).astype(np.float32)  # past the caches
    arrays = [
        large,
        large.copy()[3:-5],  # of a beginning within a line
        rng.standard_normal((517, 300)),
        rng.integers(0, 256, (1 << 20) + 1).astype(np.uint8),
        rng.integers(0, 1 << 32, (1 << 18) + 7).astype(np.uint32).view(np.float32),  # any bits, NaN and denormal numbers too
        rng.standard_normal(17),
        np.zeros(0),
    ]
    before = [array.tobytes() for array in arrays]
    copies = core.ArrayCopies(arrays)
    copies.take()
    for array in arrays:
        array.view(np.uint8)[...] ^= 0xFF
    assert all(array.tobytes() != was for array, was in zip(arrays, before, strict=True) if array.size)
    copies.restore()
    assert [array.tobytes() for array in arrays] == before
    arrays[0][7] = 1.5
    copies.take()
    arrays[0][7] = 2.5
    copies.restore()
    assert arrays[0][7] == 1.5
