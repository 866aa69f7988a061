"""Batch normalisation against the twin and the golden file: statistics, running values, inference, exact backward."""

import itertools

import fastopt as fo
import numpy as np
import pytest
from helpers import close, golden, refuses
from native import DTYPES, EPS, core, guarded, sample
from reference import layers

ROWS = (1, 2, 3, 17, 64, 65, 301)
WIDTHS = (1, 3, 16, 17, 65, 130)
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def forward(x, gamma, beta, running, momentum=0.1, eps=1e-5, first=False):
    """(out, mean, inverse_std); `running` is a pair of arrays, updated in place."""
    out, check = guarded(x.shape, x.dtype)
    mean, check_mean = guarded(gamma.shape, x.dtype)
    inverse_std, check_std = guarded(gamma.shape, x.dtype)
    core.batchnorm_forward(x, gamma, beta, *running, momentum, eps, first, out, mean, inverse_std)
    for checked in (check, check_mean, check_std):
        checked(f"batchnorm_forward {x.shape}")
    return out, mean, inverse_std


def backward(x, gamma, mean, inverse_std, grad_out):
    outputs = [guarded(x.shape, x.dtype), guarded(gamma.shape, x.dtype), guarded(gamma.shape, x.dtype)]
    core.batchnorm_backward(x, gamma, mean, inverse_std, grad_out, *(array for array, _ in outputs))
    for _, check in outputs:
        check(f"batchnorm_backward {x.shape}")
    return [array for array, _ in outputs]


def inference(x, gamma, beta, mean, variance, eps=1e-5):
    out, check = guarded(x.shape, x.dtype)
    core.batchnorm_inference(x, gamma, beta, mean, variance, eps, out)
    check(f"batchnorm_inference {x.shape}")
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_twin(dtype):
    rng = np.random.default_rng(51)
    for rows, width in itertools.product(ROWS, WIDTHS):
        x, grad_out = 3 * sample(rng, (rows, width), dtype) + dtype_of(dtype, 2), sample(rng, (rows, width), dtype)
        gamma, beta = sample(rng, (width,), dtype), sample(rng, (width,), dtype)
        for first in (True, False):
            running = [sample(rng, (width,), dtype), sample(rng, (width,), dtype) ** 2]
            wide = [v.astype(np.float64) for v in (x, gamma, beta, *running)]
            expected = layers.batchnorm_forward(*wide, momentum=0.3, eps=1e-3, first=first)
            out, mean, inverse_std = forward(x, gamma, beta, running, 0.3, 1e-3, first)
            what = f"{rows} rows, {width} columns, {dtype}, {'first batch' if first else 'later batch'}"
            names = ("out", "mean", "inverse_std", "running mean", "running variance")
            for name, value, wanted in zip(names, (out, mean, inverse_std, *running), expected, strict=True):
                close(value, wanted, TOLERANCE[dtype], f"{what}: {name}", floor=1e-3)
        x64, gamma64, grad64 = x.astype(np.float64), gamma.astype(np.float64), grad_out.astype(np.float64)
        wanted = layers.batchnorm_backward(x64, gamma64, expected[1], expected[2], grad64)
        scale = abs(gamma64 * expected[2]).max() * abs(grad64).max()  # with one or two rows the gradient cancels to nearly nothing
        grad_x, grad_gamma, grad_beta = backward(x, gamma, mean, inverse_std, grad_out)
        close(grad_x, wanted[0], TOLERANCE[dtype], f"{what}: grad_x", floor=scale)
        close(grad_gamma, wanted[1], TOLERANCE[dtype], f"{what}: grad_gamma", floor=rows**0.5)
        close(grad_beta, wanted[2], TOLERANCE[dtype], f"{what}: grad_beta", floor=rows**0.5)
        got = inference(x, gamma, beta, *running, 1e-3)
        close(
            got,
            layers.batchnorm_inference(*wide[:3], *(r.astype(np.float64) for r in running), 1e-3),
            TOLERANCE[dtype],
            f"{what}: inference",
        )


def dtype_of(dtype, value):
    return np.dtype(dtype).type(value)


def test_golden():
    sizes, data = golden("batchnorm")
    gamma, beta, momentum, eps = data["gamma"], data["beta"], float(data["momentum"]), float(data["eps"])
    running = [np.zeros(5), np.ones(5)]
    for i, m in enumerate(sizes):
        x, grad_out, what = data[f"{i}.x"], data[f"{i}.grad_out"], f"batch {i} of {m} rows"
        out, mean, inverse_std = forward(x, gamma, beta, running, momentum, eps, first=i == 0)
        grads = backward(x, gamma, mean, inverse_std, grad_out)
        actual = {"out": out, "grad_gamma": grads[1], "grad_beta": grads[2], "running_mean": running[0], "running_variance": running[1]}
        actual["inference"] = inference(x, gamma, beta, *running, eps)
        for name, value in actual.items():
            close(value, data[f"{i}.{name}"], 1e-11, f"{what}: {name}")
        for column in range(5):  # scales lie four decades apart
            scale = np.abs(gamma[column] * inverse_std[column] * grad_out[:, column]).max()
            close(grads[0][:, column], data[f"{i}.grad_x"][:, column], 1e-11, f"{what}: grad_x, column {column}", floor=scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_variance_far_from_zero_mean(dtype):
    """E[x^2] - E[x]^2 would lose everything here."""
    rng = np.random.default_rng(52)
    offset = 1e-2 / EPS[dtype] ** 0.75
    x = (offset * np.array([1, -1, 1]) + rng.standard_normal((400, 3)) * offset * 1e-3).astype(dtype)
    running = [np.zeros(3, dtype), np.ones(3, dtype)]
    forward(x, np.ones(3, dtype), np.zeros(3, dtype), running, first=True)
    variance = x.astype(np.float64).var(axis=0)
    close(running[1] / variance, np.ones(3), 1e-2 if dtype == "float32" else 1e-6, "variance over true variance")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_and_constant_columns_give_beta(dtype):
    beta, ones = np.array([0.5, -2.0], dtype), np.ones(2, dtype)
    for x in (np.array([[3.0, -7.0]], dtype), np.full((9, 2), 0.1, dtype)):
        out, mean, inverse_std = forward(x, ones, beta, [np.zeros(2, dtype), ones.copy()], first=True)
        close(out, np.tile(beta, (len(x), 1)), 1e-4 if dtype == "float32" else 1e-12, f"{len(x)} equal rows")
        grad_x = backward(x, ones, mean, inverse_std, np.ones_like(x))[0]
        assert abs(grad_x).max() < 1e-3, "the gradient through equal rows is 0"


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_do_not_see_each_other(dtype):
    rng = np.random.default_rng(53)
    x, gamma, beta = sample(rng, (37, 65), dtype), sample(rng, (65,), dtype), sample(rng, (65,), dtype)
    whole = forward(x, gamma, beta, [np.zeros(65, dtype), np.ones(65, dtype)])[0]
    for j in (0, 31, 64):
        column = [v[..., j : j + 1].copy() for v in (x, gamma, beta)]
        alone = forward(*column, [np.zeros(1, dtype), np.ones(1, dtype)])[0]
        np.testing.assert_array_equal(alone[:, 0], whole[:, j], err_msg=f"column {j}: bits depend on its neighbours")
    x[3, 5] = np.nan
    finite = np.isfinite(forward(x, gamma, beta, [np.zeros(65, dtype), np.ones(65, dtype)])[0])
    assert not finite[:, 5].any(), "a NaN fills its own column"
    assert np.delete(finite, 5, axis=1).all(), "a NaN reaches other columns"


@pytest.mark.parametrize("width", [1, 17, 64, 65, 130])
def test_results_in_the_place_of_an_input(width):
    """The last columns of rows that do not end on cache lines are read again, unless they were overwritten."""
    rng = np.random.default_rng(54)
    x, grad_out = sample(rng, (65, width), "float32"), sample(rng, (65, width), "float32")
    gamma, beta = sample(rng, (width,), "float32"), sample(rng, (width,), "float32")
    running = [[np.zeros(width, np.float32), np.ones(width, np.float32)] for _ in range(2)]
    out, mean, inverse_std = forward(x, gamma, beta, running[0])
    grads = backward(x, gamma, mean, inverse_std, grad_out)
    for name, over in (("x", 0), ("grad_out", 1)):
        arrays = [x.copy(), grad_out.copy()]
        grad_gamma, grad_beta = np.empty_like(gamma), np.empty_like(gamma)
        core.batchnorm_backward(arrays[0], gamma, mean, inverse_std, arrays[1], arrays[over], grad_gamma, grad_beta)
        for value, wanted in zip((arrays[over], grad_gamma, grad_beta), grads, strict=True):
            np.testing.assert_array_equal(value, wanted, err_msg=f"gradient over {name}, {width} columns")
    place = x.copy()
    core.batchnorm_forward(place, gamma, beta, *running[1], 0.1, 1e-5, False, place, np.empty_like(mean), np.empty_like(mean))
    np.testing.assert_array_equal(place, out, err_msg=f"forward over x, {width} columns")
    np.testing.assert_array_equal(running[1], running[0], err_msg=f"running values, {width} columns")
    place = x.copy()
    core.batchnorm_inference(place, gamma, beta, *running[0], 1e-5, place)
    np.testing.assert_array_equal(place, inference(x, gamma, beta, *running[0]), err_msg=f"inference over x, {width} columns")


@pytest.mark.parametrize("width", [512, 501])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_arrays_go_past_the_caches_with_the_same_bits(dtype, width):
    """Columns stand alone, so a strip of them, which every cache holds, must come out the same."""
    rng = np.random.default_rng(55)
    rows = 11001 if dtype == "float32" else 5501  # 42 MiB and more of x and result
    x, grad_out = line_aligned(rng, (rows, width), dtype), line_aligned(rng, (rows, width), dtype)
    gamma, beta = sample(rng, (width,), dtype), sample(rng, (width,), dtype)
    out, grad_x = line_aligned(rng, (rows, width), dtype), line_aligned(rng, (rows, width), dtype)
    mean, inverse_std, grad_gamma, grad_beta = (np.empty(width, dtype) for _ in range(4))
    core.batchnorm_forward(x, gamma, beta, np.zeros(width, dtype), np.ones(width, dtype), 0.1, 1e-5, True, out, mean, inverse_std)
    core.batchnorm_backward(x, gamma, mean, inverse_std, grad_out, grad_x, grad_gamma, grad_beta)
    for first in range(0, width, 167):
        part = [np.ascontiguousarray(v[..., first : first + 167]) for v in (x, gamma, beta, grad_out)]
        strip = part[1].shape
        ours = forward(*part[:3], [np.zeros(strip, dtype), np.ones(strip, dtype)], first=True)
        ours += tuple(backward(part[0], part[1], ours[1], ours[2], part[3]))
        for value, whole in zip(ours, (out, mean, inverse_std, grad_x, grad_gamma, grad_beta), strict=True):
            np.testing.assert_array_equal(whole[..., first : first + 167], value, err_msg=f"columns from {first} on")


def line_aligned(rng, shape, dtype):
    raw = np.empty(np.prod(shape) + 64, dtype)
    start = -raw.ctypes.data % 64 // raw.itemsize
    array = raw[start : start + np.prod(shape)].reshape(shape)
    array[...] = rng.standard_normal(shape)
    return array


def test_running_values_share_no_memory():
    x, ones = np.arange(6.0).reshape(2, 3), np.ones(3)
    for what, mean, variance, gamma in (
        ("running_variance", ones, ones, np.ones(3)),
        ("x", x[0], ones, np.ones(3)),
        ("gamma", ones, np.ones(3), ones),
    ):
        refuses(what, fo.kernels.batchnorm_forward, x, gamma, np.zeros(3), mean, variance, match=what)
    out = np.empty_like(x)
    refuses("out", fo.kernels.batchnorm_forward, x, ones, np.zeros(3), out[0], np.ones(3), out=out, match="out")
