"""Threads that are not equally fast: what each gets, what is learned from a region, and the same bits whatever the shares."""

import fastopt as fo
import numpy as np
import pytest
from fastopt.layers import Activation, BatchNorm, Dense, Dropout
from native import core

LONG = 1e12  # so much work is shared by speed
LAYERS = [Dense(75), BatchNorm(), Activation("relu"), Dropout(0.2), Dense(33, activation="tanh"), Dense(7)]
SPEEDS = {"the second slow": [1.0, 0.3], "the first slow": [0.25, 1.0], "three": [0.5, 1.0, 0.26], "one of four": [1.0, 0.9, 0.25, 1.0]}


@pytest.fixture(autouse=True)
def _equal_afterwards():
    yield
    core.set_thread_speeds([1.0] * 64)


@pytest.mark.parametrize("grain", [1, 6, 16])
@pytest.mark.parametrize("count", [0, 1, 5, 16, 17, 100, 513])
@pytest.mark.parametrize(("rows", "cols"), [(1, 2), (2, 1), (2, 2), (3, 1), (2, 4), (8, 8)])
def test_shares_cover_everything_once(rows, cols, count, grain):
    rng = np.random.default_rng(count + grain)
    for _ in range(10):
        core.set_thread_speeds(rng.uniform(0.25, 1, rows * cols))
        for lines in core.shares(count, grain, rows, cols, LONG):
            edges = [0, *(end for _, end in lines)]
            assert [begin for begin, _ in lines] == edges[:-1], "one after the other"
            assert edges[-1] == count, "to the end"
            assert all(begin <= end and (end % grain == 0 or end == count) for begin, end in lines), "whole grains"


def test_shares_follow_the_speeds():
    core.set_thread_speeds([1.0, 0.5, 0.25, 0.25])
    assert core.shares(1600, 1, 4, 1, LONG)[0] == [(0, 800), (800, 1200), (1200, 1400), (1400, 1600)]
    # Threads 0 and 1 are the first column of a grid of two rows, threads 0 and 2 its first row.
    assert core.shares(1600, 1, 2, 2, LONG) == ([(0, 1000), (1000, 1600)], [(0, 1200), (1200, 1600)])
    assert core.shares(1600, 1, 4, 1, 1.0)[0] == [(0, 400), (400, 800), (800, 1200), (1200, 1600)], "short work: equal"


def test_what_a_region_teaches():
    core.set_thread_speeds([1.0, 1.0])
    assert core.learn_thread_speeds([3.0, 3.0], [0.7, 0.7]) == [1, 1]
    for _ in range(100):
        speeds = core.learn_thread_speeds([5.0, 1.0], [1.0, 0.5])
    np.testing.assert_allclose(speeds, [1, 0.4], rtol=1e-6)
    # One thread lost its core for a hundred times as long as its part takes: that moves little, and is forgotten.
    speeds = core.learn_thread_speeds([5.0, 1.0], [1.0, 50.0])
    assert 0.32 < speeds[1] / speeds[0] < 0.4
    assert core.learn_thread_speeds([5.0, 0.0], [1.0, 0.0]) == speeds, "nothing to do says nothing"
    for _ in range(100):
        speeds = core.learn_thread_speeds([5.0, 1.0], [1.0, 0.5])
    np.testing.assert_allclose(speeds, [1, 0.4], rtol=1e-6)
    for _ in range(100):
        speeds = core.learn_thread_speeds([1.0, 1.0], [1.0, 1e6])
    assert speeds == [1, 0.25], "nobody is left without work"


@pytest.mark.parametrize("speeds", SPEEDS)
def test_products(cut_for_threads, speeds):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((83, 70), dtype=np.float32), rng.standard_normal((70, 117), dtype=np.float32)
    results = []
    for threads in (1, len(SPEEDS[speeds])):
        cut_for_threads(threads)
        core.set_thread_speeds(SPEEDS[speeds])
        out = np.empty((83, 117), np.float32)
        core.matmul(a, b, out, False, False)
        turned = np.empty((117, 83), np.float32)
        core.matmul(b, a, turned, True, True)
        results.append((out, turned))
    for alone, shared in zip(*results, strict=True):
        np.testing.assert_array_equal(alone, shared)


@pytest.mark.parametrize("speeds", SPEEDS)
def test_training(cut_for_threads, speeds):
    """Products, batch normalization (which keeps rows together), losses and updates, whose shares move with the speeds."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((150, 40)), rng.integers(0, 7, 150)
    states = []
    for threads in (1, len(SPEEDS[speeds])):
        cut_for_threads(threads)
        net = fo.Network(40, LAYERS, seed=0)
        trainer = fo.Trainer(net, "cross_entropy", fo.optimizers.AdamW(weight_decay=0.1), clip_norm=1.0, l1=1e-3)
        for order in (1, -1):
            core.set_thread_speeds(SPEEDS[speeds][::order])
            trainer.fit(x, y, epochs=2, batch_size=64, progress=False)
        states.append(trainer.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)
