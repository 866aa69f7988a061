"""Dense forward and backward, with every activation fused, against the twin over odd shapes."""

import itertools

import numpy as np
import pytest
from helpers import close, refuses
from native import DTYPES, core, guarded, sample
from reference import layers
from reference.activations import ACTIVATIONS

SHAPES = [
    *itertools.product((0, 1, 3, 17, 65), (1, 3, 17, 65), (1, 2, 10, 65)),
    *((40, 21, units) for units in range(4, 18)),  # from thin to more than a cache line
    *((300, inputs, units) for inputs in (21, 70) for units in range(1, 5)),  # thin, of more rows than are worked through at once
    (130, 400, 70),
    (33, 784, 128),
    (5, 0, 3),
    (256, 30, 64),
    (1300, 301, 12),  # gradient of the input, and for (1300, 12, 301) the output, larger than any L2 with few k
    (1300, 12, 301),
]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def forward(x, weight, bias, activation):
    shape = x.shape[0], weight.shape[1]
    out, check = guarded(shape, x.dtype)
    pre, check_pre = guarded(shape, x.dtype) if core.activation_needs_input(activation) else (None, lambda what: None)
    core.dense_forward(x, weight, bias, activation, out, pre)
    check(f"dense_forward {x.shape} {weight.shape}")
    check_pre(f"dense_forward {x.shape} {weight.shape}, pre")
    return out, pre


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_over_odd_shapes(dtype):
    rng = np.random.default_rng(41)
    names = itertools.cycle(core.activation_names())
    for rows, inputs, units in SHAPES:
        x, weight, bias = sample(rng, (rows, inputs), dtype), sample(rng, (inputs, units), dtype), sample(rng, (units,), dtype)
        weight /= np.sqrt(max(inputs, 1)).astype(dtype)
        for use_bias, name in itertools.product((True, False), [next(names) for _ in range(3)]):
            what = f"rows, inputs, units = {rows, inputs, units}, {name}, {'with' if use_bias else 'no'} bias, {dtype}"
            given = bias if use_bias else None
            out, pre = forward(x, weight, given, name)
            wide = [None if v is None else v.astype(np.float64) for v in (x, weight, given)]
            expected = layers.dense_forward(*wide)
            close(out, ACTIVATIONS[name][0](expected), TOLERANCE[dtype], what, floor=1.0)
            if pre is not None:
                close(pre, expected, TOLERANCE[dtype], f"{what}: pre", floor=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", core.activation_names())
def test_fusing_does_not_change_bits(name, dtype):
    """The fused activation is the same function as the one alone."""
    rng = np.random.default_rng(42)
    for rows, inputs, units in [(1, 1, 1), (17, 30, 64), (65, 8, 3), (64, 64, 10), (200, 65, 129)]:
        x, weight, bias = sample(rng, (rows, inputs), dtype), sample(rng, (inputs, units), dtype), sample(rng, (units,), dtype)
        fused, _ = forward(x, weight, bias, name)
        plain, _ = forward(x, weight, bias, "identity")
        alone = np.empty_like(plain)
        core.activation_forward(name, plain, alone)
        np.testing.assert_array_equal(fused, alone, err_msg=f"{name} {rows, inputs, units}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_over_odd_shapes(dtype):
    rng = np.random.default_rng(43)
    for rows, inputs, units in SHAPES:
        x, weight, grad = sample(rng, (rows, inputs), dtype), sample(rng, (inputs, units), dtype), sample(rng, (rows, units), dtype)
        expected = layers.dense_backward(*(v.astype(np.float64) for v in (x, weight, grad)))
        for with_bias, with_x in itertools.product((True, False), repeat=2):
            what = f"rows, inputs, units = {rows, inputs, units}, {dtype}"
            outputs = [guarded(weight.shape, dtype), guarded((units,), dtype), guarded(x.shape, dtype)]
            given = [outputs[0][0], outputs[1][0] if with_bias else None, outputs[2][0] if with_x else None]
            core.dense_backward(x, weight, grad, *given)
            for (_, check), value, wanted, name in zip(outputs, given, expected, ("weight", "bias", "x"), strict=True):
                check(f"{what}: grad_{name}")
                if value is not None:
                    close(value, wanted, TOLERANCE[dtype], f"{what}: grad_{name}", floor=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_plain_products_to_the_bit(dtype):
    """However few the outputs: one chain over the batch, or over the outputs, for each element."""
    rng = np.random.default_rng(44)
    for rows, inputs, units in [*((70, 37, units) for units in range(1, 18)), (1300, 300, 10), (1, 5, 10)]:
        x, weight, grad = sample(rng, (rows, inputs), dtype), sample(rng, (inputs, units), dtype), sample(rng, (rows, units), dtype)
        got = [np.empty_like(weight), np.empty_like(x)]
        core.dense_backward(x, weight, grad, got[0], None, got[1])
        expected = [np.empty_like(weight), np.empty_like(x)]
        core.matmul(x, grad, expected[0], True, False)
        core.matmul(grad, weight, expected[1], False, True)
        for name, one, other in zip(("weight", "x"), got, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"gradient of {name} for {rows, inputs, units}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_refusals(dtype):
    x, weight, bias, out = np.ones((3, 4), dtype), np.ones((4, 5), dtype), np.ones(5, dtype), np.zeros((3, 5), dtype)
    for what, arguments in {
        "x too narrow": (x[:, :3].copy(), weight, bias, "relu", out, None),
        "bias too long": (x, weight, np.ones(6, dtype), "relu", out, None),
        "out too small": (x, weight, bias, "relu", out[:2], None),
        "unknown activation": (x, weight, bias, "rellu", out, None),
        "strided weight": (x, np.ones((4, 10), dtype)[:, ::2], bias, "relu", out, None),
    }.items():
        refuses(what, core.dense_forward, *arguments)
        assert not out.any(), f"{what}: out was written by a refused call"
