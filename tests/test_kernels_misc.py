"""Softmax, column sums, the counter-based random numbers, dropout, permutations."""

import itertools

import fastopt as fo
import numpy as np
import pytest
from helpers import close, close_each, refuses
from native import DTYPES, core, guarded, sample
from reference import activations, layers, philox

STREAMS = [(0, 0, 0), (7, 3, 1), (2**40 + 5, 2, 9), (1, 2**33 + 1, 4), (2**63 + 11, 2**45, 2**31)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(dtype):
    rng = np.random.default_rng(61)
    for rows, columns in itertools.product((0, 1, 3, 17, 65), (1, 2, 3, 10, 17, 65, 300)):
        x = 4 * sample(rng, (rows, columns), dtype)
        out, check = guarded(x.shape, dtype)
        core.softmax(x, out)
        check(f"softmax {x.shape}")
        close_each(out, activations.softmax(x.astype(np.float64)), 1e-5 if dtype == "float32" else 1e-12, f"softmax {x.shape}")
        core.softmax(x, x)
        np.testing.assert_array_equal(x, out, err_msg=f"softmax over its input, {x.shape}")
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]], dtype)
    out = np.empty_like(x)
    core.softmax(x, out)
    close(out, [[1, 0, 0], [1 / 3] * 3, [1 / 3] * 3], 1e-6, "softmax at 1e4")


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_far_below_the_largest(dtype):
    """Every size that an exponential can have, down to where it is smaller than the smallest normal number, and 0 there and below."""
    lowest = np.log(np.finfo(dtype).tiny)
    for columns in (2, 40):
        x = np.zeros((4001, columns), dtype)
        x[:, 1] = np.linspace(1.3 * lowest, 0, len(x))
        x[:, 2:] = -np.inf
        x[-3:, 1] = [-np.inf, np.finfo(dtype).min, np.nan]
        out = np.empty_like(x)
        core.softmax(x, out)
        assert np.isnan(out[-1, :2]).all()
        wide = x[:-1, 1].astype(np.float64)
        wanted = np.where(wide < lowest, 0, np.exp(wide) / (1 + np.exp(wide)))
        close_each(out[:-1, 1], wanted, 1e-6 if dtype == "float32" else 1e-13, f"{columns} columns")


@pytest.mark.parametrize("dtype", DTYPES)
def test_column_sums(dtype):
    rng = np.random.default_rng(62)
    for rows, columns in itertools.product((0, 1, 3, 17, 65, 1000), (1, 3, 16, 17, 65)):
        x = sample(rng, (rows, columns), dtype)
        out, check = guarded((columns,), dtype)
        core.column_sums(x, out)
        check(f"column_sums {x.shape}")
        close(out, x.astype(np.float64).sum(axis=0), 1e-5 if dtype == "float32" else 1e-13, f"column_sums {x.shape}", floor=rows**0.5)


@pytest.mark.parametrize("rows", [1023, 1024, 1025, 3000, 1_000_000])
def test_sums_of_long_columns(rows):
    """Along a tree: one after the other, a million rows of one sign would lose four digits."""
    x = np.random.default_rng(12).uniform(0.5, 1.0, (rows, 3)).astype(np.float32)
    out = np.empty(3, np.float32)
    core.column_sums(x, out)
    close(out, x.sum(axis=0, dtype=np.float64), 1e-5 if rows < 3000 else 2e-6, f"{rows} rows")


def test_uniforms_are_those_of_philox():
    for (seed, step, layer), n in itertools.product(STREAMS, (0, 1, 3, 4, 17, 64, 65, 1027)):
        np.testing.assert_array_equal(
            core.uniform(n, seed, step, layer), philox.uniform(n, seed, step, layer), err_msg=f"{seed, step, layer}"
        )
    # Whole chunks of 64 are made in another way than what is left over, and must be the same; also behind 2^32 blocks of four.
    for (seed, step, layer), first in itertools.product(STREAMS, (0, 64, 2**34 - 64, 2**34, 2**40 + 64)):
        at_once = core.uniform(64, seed, step, layer, first)
        np.testing.assert_array_equal(at_once[:40], core.uniform(40, seed, step, layer, first), err_msg=f"{seed, step, layer, first}")
        np.testing.assert_array_equal(at_once[1:], core.uniform(63, seed, step, layer, first + 1), err_msg=f"{seed, step, layer, first}")
        np.testing.assert_array_equal(at_once, philox.uniform(64, seed, step, layer, first), err_msg=f"{seed, step, layer, first}")
    values = core.uniform(200_000, 1, 0, 0)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.003
    assert abs(values.var() - 1 / 12) < 0.001


def test_streams_differ():
    keys = [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1 + 2**32, 2, 3), (1, 2 + 2**33, 3)]
    streams = [tuple(core.uniform(8, *key)) for key in keys]
    assert len(set(streams)) == len(keys), "two of seed, step and layer give the same numbers"


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype):
    rng = np.random.default_rng(63)
    for shape, rate, (seed, step, layer) in zip(
        [(0, 3), (1, 1), (3, 5), (17, 1), (33, 65), (64, 64), (5, 1000)],
        [0.5, 0.1, 0.0, 0.9, 0.3, 0.5, 0.25],
        itertools.cycle(STREAMS),
        strict=False,
    ):
        x = sample(rng, shape, dtype)
        out, check = guarded(shape, dtype)
        core.dropout_forward(x, rate, seed, step, layer, out)
        check(f"dropout {shape}")
        expected = layers.dropout_forward(x.astype(np.float64), rate, seed, step, layer)
        np.testing.assert_array_equal(out == 0, expected == 0, err_msg=f"mask of {shape}, rate {rate}")
        close_each(out, expected, 3e-7 if dtype == "float32" else 1e-15, f"dropout {shape}, rate {rate}")


def test_dropout_keeps_the_mean():
    x, out = np.ones((1000, 300)), np.empty((1000, 300))
    core.dropout_forward(x, 0.2, 5, 0, 0, out)
    assert abs((out == 0).mean() - 0.2) < 0.005
    assert abs(out.mean() - 1) < 0.01


def test_weighted_means():
    values, weights = np.array([[1.0, 4.0], [5.0, 7.0], [2.0, 3.0]]), np.array([[1.0, 2.0], [0.0, 0.0], [4.0, 0.0]])
    assert core.weighted_means(values, weights) == [3.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="weights"):
        core.weighted_means(values, weights[:2])


def test_permutations():
    for n in (0, 1, 2, 3, 17, 1000):
        order = core.permutation(n, 5, 0)
        assert order.dtype == np.int32  # half the memory of an index; 64 bits only where they are needed
        np.testing.assert_array_equal(np.sort(order), np.arange(n), err_msg=f"permutation of {n}")
        np.testing.assert_array_equal(order, core.permutation(n, 5, 0), err_msg="the same arguments give the same order")
    groups = [count + extra for count in (16, 32, 48, 64, 96) for extra in (-1, 0, 1, 2)]  # of draws
    for n, (seed, epoch, _) in itertools.product((2, *groups, 1000), STREAMS):
        np.testing.assert_array_equal(core.permutation(n, seed, epoch), philox.permutation(n, seed, epoch), err_msg=f"{n, seed, epoch}")
    for n in (65_536, 65_537, 65_600):  # from the second on draws of 64 bits
        np.testing.assert_array_equal(core.permutation(n, 3, 1), philox.permutation(n, 3, 1), err_msg=f"permutation of {n}")
    orders = [tuple(core.permutation(50, seed, epoch)) for seed, epoch in itertools.product((0, 1, 2**40), (0, 1, 2))]
    assert len(set(orders)) == 9, "two of (seed, epoch) give the same order"
    firsts = np.array([core.permutation(4, 0, epoch) for epoch in range(4000)])
    counts = np.array([[(firsts[:, place] == value).mean() for value in range(4)] for place in range(4)])
    assert abs(counts - 0.25).max() < 0.04, f"every value comes to every place equally often; got {counts}"


def test_lines_between_threads_cost_nothing_alone():
    before = fo.get_num_threads()
    try:
        fo.set_num_threads(1)
        assert core.crossing_cost(10, 0.003) == (0.0, 0.0)
        fo.set_num_threads(3)
        assert core.crossing_cost(0, 0.003) == (0.0, 0.0)
        line, meeting = core.crossing_cost(100, 0.003)
    finally:
        fo.set_num_threads(before)
    assert line >= 0
    assert meeting > 0
    refuses("a number of lines below 0", core.crossing_cost, -1, 0.003, match="lines")
