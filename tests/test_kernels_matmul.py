"""The matrix product against NumPy in float64: odd shapes, both dtypes, all transposes, and what its bits may depend on."""

import itertools
import os
import sys

import numpy as np
import pytest
from helpers import refuses
from native import DTYPES, EPS, EndOfMemory, core, guarded, needs_bf16, sample

ODD = (0, 1, 3, 17, 65)
BIGGER = [
    (129, 385, 130),
    (33, 784, 10),
    (1, 2048, 31),
    (255, 7, 513),
    (14, 384, 32),
    (15, 769, 33),
    (300, 300, 1),
    (64, 64, 64),
    (2, 1500, 2),
    (1300, 12, 300),  # a large result of few k
    (1300, 54, 300),  # the same, with as much of a transposed b as is packed at once
    (1300, 1100, 260),  # several blocks of rows and of k with AVX2
    (460, 1041, 4100),  # several blocks of every dimension with AVX-512
    (40, 1100, 1024),  # a result whose rows lie whole pages apart, in several blocks of k
    (531, 37, 270),  # a transposed a whose rows lie far apart
    (100, 700, 300),  # a b that no cache holds
    (127, 240, 290),  # with AVX-512 a is packed, several tiles of a transposed one together
    (15, 350, 270),  # the same in tiles of eight and seven rows
    (3, 130, 260),
]
TRANSPOSES = list(itertools.product((False, True), repeat=2))


def operands(rng, m, k, n, transpose_a, transpose_b, dtype, make=sample):
    a = make(rng, (k, m) if transpose_a else (m, k), dtype)
    b = make(rng, (n, k) if transpose_b else (k, n), dtype)
    return a, b


def product(a, b, transpose_a=False, transpose_b=False, precision="full"):
    m = a.shape[1] if transpose_a else a.shape[0]
    n = b.shape[0] if transpose_b else b.shape[1]
    out, check = guarded((m, n), a.dtype)
    core.matmul(a, b, out, transpose_a, transpose_b, precision)
    check(f"matmul {a.shape} {b.shape}")
    return out


def bound(a, b, transpose_a, transpose_b, eps):
    """A chain of k fused multiply-adds errs at most by k roundings of the sum of the magnitudes."""
    a, b = abs(a.astype(np.float64)), abs(b.astype(np.float64))
    k = a.shape[0] if transpose_a else a.shape[1]
    return (k + 1) * eps * ((a.T if transpose_a else a) @ (b.T if transpose_b else b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
def test_odd_shapes(dtype, transpose_a, transpose_b):
    rng = np.random.default_rng(21)
    for m, k, n in [*itertools.product(ODD, repeat=3), *BIGGER]:
        a, b = operands(rng, m, k, n, transpose_a, transpose_b, dtype)
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        expected = (wide_a.T if transpose_a else wide_a) @ (wide_b.T if transpose_b else wide_b)
        error = abs(product(a, b, transpose_a, transpose_b) - expected)
        wrong = ~(error <= bound(a, b, transpose_a, transpose_b, EPS[dtype]))
        assert not wrong.any(), f"m, k, n = {m, k, n}: {wrong.sum()} of {wrong.size} wrong, first at {np.argwhere(wrong)[0]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_integers_are_exact(dtype):
    rng = np.random.default_rng(22)

    def integers(rng, shape, dtype):
        return rng.integers(-9, 10, shape).astype(dtype)

    for (m, k, n), (transpose_a, transpose_b) in itertools.product([(5, 4, 6), (37, 50, 41), (130, 400, 70)], TRANSPOSES):
        a, b = operands(rng, m, k, n, transpose_a, transpose_b, dtype, integers)
        expected = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
        np.testing.assert_array_equal(product(a, b, transpose_a, transpose_b), expected, err_msg=f"{m, k, n}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a page that cannot be touched")
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_read_or_written_behind_arrays(dtype):
    """Also where rows are whole cache lines, but blocks of k or of rows are not."""
    left, right, result = EndOfMemory(1 << 24), EndOfMemory(1 << 24), EndOfMemory(1 << 24)
    sizes = [*BIGGER, (253, 1456, 194), (112, 240, 320), (256, 1456, 48), (30, 24, 40)]
    for (m, k, n), (transpose_a, transpose_b) in itertools.product(sizes, TRANSPOSES):
        if max(m * k, k * n, m * n) <= 1 << 21:
            a = left.array((k, m) if transpose_a else (m, k), dtype)
            b = right.array((n, k) if transpose_b else (k, n), dtype)
            a[...], b[...] = 1, 2
            out = result.array((m, n), dtype)
            out[...] = np.nan
            core.matmul(a, b, out, transpose_a, transpose_b)
            assert (out == 2 * k).all(), (m, k, n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_does_not_depend_on_its_neighbours(dtype):
    """One chain over k for each element: a row or a column computed alone has the same bits."""
    rng = np.random.default_rng(23)
    for m, k, n in [(37, 100, 45), (130, 500, 70), (65, 17, 129), (230, 1027, 1100)]:
        a, b = operands(rng, m, k, n, False, False, dtype)
        whole = product(a, b)
        for i in (0, 1, m // 2, m - 1):
            np.testing.assert_array_equal(product(a[i : i + 1], b)[0], whole[i], err_msg=f"row {i} of {m, k, n}")
        for j in (0, 1, n // 2, n - 1):
            np.testing.assert_array_equal(product(a, b[:, j : j + 1].copy())[:, 0], whole[:, j], err_msg=f"column {j} of {m, k, n}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposes_give_the_same_bits(dtype):
    rng = np.random.default_rng(24)
    for m, k, n in [(3, 5, 2), (64, 128, 64), (70, 450, 33), (514, 33, 257), (19, 1100, 1024), (230, 1027, 1100)]:
        a, b = operands(rng, m, k, n, False, False, dtype)
        expected = product(a, b)
        for transpose_a, transpose_b in TRANSPOSES:
            given = a.T.copy() if transpose_a else a, b.T.copy() if transpose_b else b
            np.testing.assert_array_equal(
                product(*given, transpose_a, transpose_b), expected, err_msg=f"{m, k, n} {transpose_a, transpose_b}"
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_the_same_memory_in_turn(dtype):
    """Small products are remembered by where their operands lie: neither what these hold nor another product of them may come back."""
    rng = np.random.default_rng(28)
    memory = [np.zeros(96 * 96, dtype) for _ in range(3)]
    shapes = [(32, 32, 32), (32, 31, 32), (31, 32, 32), (32, 32, 31), (6, 64, 16), (5, 64, 16), (64, 6, 48), (90, 96, 80), (1, 9, 64)]
    turns = [(shape, *transpose) for shape in shapes for transpose in TRANSPOSES] * 3
    rng.shuffle(turns)
    for (m, k, n), transpose_a, transpose_b in [turn for turn in turns for _ in range(2)]:
        for array in memory:
            array[:] = rng.standard_normal(array.size)
        a = memory[0][: m * k].reshape((k, m) if transpose_a else (m, k))
        b = memory[1][: k * n].reshape((n, k) if transpose_b else (k, n))
        out = memory[2][: m * n].reshape(m, n)
        core.matmul(a, b, out, transpose_a, transpose_b)
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        expected = (wide_a.T if transpose_a else wide_a) @ (wide_b.T if transpose_b else wide_b)
        assert np.all(abs(out - expected) <= bound(a, b, transpose_a, transpose_b, EPS[dtype])), (m, k, n, transpose_a, transpose_b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_in_their_row_and_column(dtype):
    rng = np.random.default_rng(25)
    for m, k, n in [(5, 3, 7), (33, 70, 35)]:
        for poison in (np.nan, np.inf):
            a, b = operands(rng, m, k, n, False, False, dtype)
            a[m // 2, k - 1] = poison
            finite = np.isfinite(product(a, b))
            assert not finite[m // 2].any(), f"{poison} in a row of a was lost"
            assert np.delete(finite, m // 2, axis=0).all(), f"{poison} in a row of a reached other rows"
            a[m // 2, k - 1] = 0
            b[0, n - 1] = poison
            finite = np.isfinite(product(a, b))
            assert not finite[a[:, 0] != 0, n - 1].any(), f"{poison} in a column of b was lost"
            assert finite[:, :-1].all(), f"{poison} in a column of b reached other columns"


@pytest.mark.parametrize("dtype", DTYPES)
def test_refusals(dtype):
    a, b = np.ones((3, 4), dtype), np.ones((4, 5), dtype)
    out = np.zeros((3, 5), dtype)
    other = "float64" if dtype == "float32" else "float32"
    read_only = out.copy()
    read_only.flags.writeable = False
    cases = {
        "inner sizes differ": (a, np.ones((3, 5), dtype), out),
        "out has another shape": (a, b, np.zeros((3, 4), dtype)),
        "out has another dtype": (a, b, out.astype(other)),
        "b has another dtype": (a, b.astype(other), out),
        "out is Fortran-ordered": (a, b, np.zeros((3, 5), dtype, order="F")),
        "a is strided": (np.ones((3, 8), dtype)[:, ::2], b, out),
        "out is read-only": (a, b, read_only),
        "a has one axis": (a[0], b, out),
    }
    for what, arguments in cases.items():
        refuses(what, core.matmul, *arguments, False, False)
        assert not np.any(arguments[2]), f"{what}: out was written by a refused call"
    square = np.ones((4, 4), dtype)
    refuses("out is an input", core.matmul, square, square, square, False, False, match="overlap|share")
    assert (square == 1).all(), "a refused overlap changed the array"


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_products_on_several_threads(dtype):
    """Every element of C is written, with the bits of one thread."""
    rng = np.random.default_rng(26)
    for m, k, n in [(1101, 200, 75), (75, 200, 2103), (520, 120, 1100)]:
        a, b = operands(rng, m, k, n, False, False, dtype)
        core.set_num_threads(1)
        expected = product(a, b)
        for threads in (2, 3, 4, 8):
            core.set_num_threads(threads)
            np.testing.assert_array_equal(product(a, b), expected, err_msg=f"{m, k, n} on {threads} threads")


@pytest.mark.parametrize("precision", ["full", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose_b", [False, True])
def test_panels_of_threads_that_are_held_up(dtype, transpose_b, precision):
    """Whoever is through takes them over. Of more threads than cores some wait for a core, each time others."""
    if (precision, dtype) == ("bf16", "float64"):
        pytest.skip("bfloat16 sums are float32")
    rng = np.random.default_rng(29)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for m, k, n in [(128, 512, 512), (512, 128, 512), (301, 131, 1031), (75, 340, 2103), (140, 512, 1100), (140, 1024, 1100)]:
        a, b = operands(rng, m, k, n, False, transpose_b, dtype)
        core.set_num_threads(1)
        expected = product(a, b, False, transpose_b, precision)
        for threads in (2 * cores, 2 * cores + 3, 17) * 3:
            core.set_num_threads(threads)
            found = product(a, b, False, transpose_b, precision)
            np.testing.assert_array_equal(found, expected, err_msg=f"{m, k, n} on {threads} threads")
