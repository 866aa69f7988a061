"""Threads that share products compute both gradients of a layer in one region; with a profile, which tells them apart, in two."""

import contextlib

import fastopt as fo
import numpy as np
import pytest
from native import DTYPES
from numpy.testing import assert_array_equal

L = fo.layers
# Inputs, units of each layer, rows of a batch; the batch normalization keeps threads from taking rows of their own.
SHAPES = {
    "even": (64, [64, 96, 32], 64),
    "odd": (37, [131, 65, 17], 51),
    "few rows": (40, [300, 200, 70], 3),
    "tall": (24, [33, 50, 20], 700),
    "wide enough to pack": (520, [272, 300, 264], 200),
}


def trained(shape, dtype, frozen, profiled):
    """(state, losses) of two epochs with a short batch at the end."""
    inputs, units, batch = SHAPES[shape]
    rng = np.random.default_rng(3)
    rows = 2 * batch + batch // 2 + 1
    x, y = rng.standard_normal((rows, inputs)), rng.standard_normal((rows, units[-1]))
    stack = [L.Dense(n, activation="relu" if i % 2 else "silu", trainable=not (frozen and i == 1)) for i, n in enumerate(units[:-1])]
    net = fo.Network(inputs, [*stack[:1], L.BatchNorm(), *stack[1:], L.Dense(units[-1])], dtype=dtype, seed=2)
    trainer = fo.Trainer(net, "mse", "adam", l2=1e-3)

    with trainer.profile() if profiled else contextlib.nullcontext():
        history = trainer.fit(x, y, epochs=2, batch_size=batch, progress=False)
    return trainer.state_dict(), history["loss"]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_of_one_thread(cut_for_threads, shape, dtype, frozen):
    cut_for_threads(1)
    state, losses = trained(shape, dtype, frozen, False)
    for threads in (2, 3, 8, 20):
        cut_for_threads(threads)
        for profiled in (False, True):
            others, again = trained(shape, dtype, frozen, profiled)
            assert again == losses
            for name, value in state.items():
                assert_array_equal(others[name], value, err_msg=f"{name}, {threads} threads, profiled: {profiled}")
