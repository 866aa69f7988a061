"""Steps of one thread that make the calls of the step before them again: the bits of steps that ask the layers, which a profile brings."""

import contextlib

import fastopt as fo
import numpy as np
import pytest
from helpers import loss_cases
from native import DTYPES, core
from networks import batch_for, every_layer
from numpy.testing import assert_array_equal

ROWS, BATCH, EPOCHS = 150, 32, 3
FULL = ROWS // BATCH  # batches of an epoch; one more is short

L = fo.layers
REPEATING = {
    "one row of tiles": (8, [L.Dense(32, activation="relu"), L.Dense(32, activation="relu"), L.Dense(1)]),
    "linear": (1, [L.Dense(1)]),
    "odd": (3, [L.Dense(17, activation="tanh"), L.Dense(65, activation="gelu"), L.Dense(5)]),
    "thin inside": (7, [L.Dense(3, activation="elu"), L.Dense(2, activation="relu"), L.Dense(40, activation="silu"), L.Dense(4)]),
    "activation at the end": (6, [L.Dense(20, activation="relu"), L.Dense(10, activation="sigmoid")]),
    "sums in halves": (30, [L.Dense(64, activation="relu"), L.Dense(64, activation="selu"), L.Dense(2)]),
    "packed": (200, [L.Dense(300, activation="relu"), L.Dense(130, activation="softplus"), L.Dense(11)]),
    "standardized": (9, [L.Standardize(), L.Dense(33, activation="relu"), L.Dense(2)]),
    "activations of their own": (
        5,
        [L.Activation("tanh"), L.Dense(24), L.Activation("gelu"), L.Activation("relu"), L.Activation("linear"), L.Dense(3)],
    ),
    "frozen below": (10, [L.Dense(16, activation="relu", trainable=False), L.Dense(18, activation="relu"), L.Dense(2)]),
    "frozen": (10, [L.Dense(16, activation="relu"), L.Dense(18, activation="relu", trainable=False), L.Dense(2)]),
    "no bias": (12, [L.Dense(40, bias=False, activation="leaky_relu"), L.Dense(6, bias=False)]),
    "of their own": (25, [L.Dense(20, activation="hard_tanh", l1=1e-3, learning_rate_multiplier=0.5), L.Dense(4, l2=1e-3)]),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = fo.get_num_threads()
    fo.set_num_threads(1)
    yield
    fo.set_num_threads(before)


def data_for(trainer, inputs, dtype="float32", rows=ROWS, kind=None):
    return batch_for(trainer.loss.name, trainer.network.outputs, rows, inputs, np.random.default_rng(5), dtype=dtype, kind=kind)


def trainer_of(inputs, layers, loss="mse", optimizer="adam", dtype="float32", precision="full", **options):
    return fo.Trainer(fo.Network(inputs, layers, dtype=dtype, seed=3, precision=precision), fo.losses.get(loss), optimizer, **options)


def fitted(asks, inputs, layers, *, weighted=False, kind=None, batch=BATCH, **options):
    """(trainer, everything that a fit leaves behind); `asks`: every step asks the layers."""
    trainer = trainer_of(inputs, layers, **options)
    x, y, weight = data_for(trainer, inputs, options.get("dtype", "float32"), kind=kind)
    fit = {"epochs": EPOCHS, "batch_size": batch, "sample_weight": weight if weighted else None}
    with trainer.profile() if asks else contextlib.nullcontext():
        history = trainer.fit(x, y, **fit)
    left = {f"state: {name}": value for name, value in trainer.state_dict().items()}
    left |= {f"gradient of {name}": value.copy() for name, value in trainer.network.gradients.items()}
    left |= {f"history: {name}": np.array(values) for name, values in history.items()}
    left["predictions"] = trainer.network(x)
    return trainer, left


def repeated(trainer):
    return trainer._native.steps_repeated


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert_array_equal(value, right[name], err_msg=name)


def compare(*arguments, steps=None, **options):
    """The same bits; all full batches but the first two are repeated."""
    trainer, left = fitted(False, *arguments, **options)
    asking, right = fitted(True, *arguments, **options)
    assert repeated(asking) == 0
    assert repeated(trainer) == (EPOCHS * FULL - 2 if steps is None else steps)
    assert_same(left, right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REPEATING)
def test_the_bits_of_steps_that_ask_the_layers(name, dtype):
    compare(*REPEATING[name], dtype=dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", core.loss_names())
def test_every_loss(loss, weighted):
    for options, outputs, kind in loss_cases(loss):
        layers = [L.Dense(20, activation="relu"), L.Dense(outputs)]
        compare(9, layers, loss=fo.losses.table()[loss](**options), kind=kind, weighted=weighted)


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"accumulate": 2}, {"ema": 0.9}, {"l2": 1e-3, "clip_value": 0.1}], ids=str)
def test_every_option(options):
    compare(*REPEATING["odd"], **options)


@pytest.mark.parametrize("name", core.optimizer_names())
def test_every_optimizer(name):
    compare(*REPEATING["odd"], optimizer=name)


@pytest.mark.parametrize("batch", [1, 5, 8, 33])
def test_sizes_of_batches(batch):
    short = ROWS % batch != 0
    trainer, left = fitted(False, *REPEATING["odd"], batch=batch)
    assert_same(left, fitted(True, *REPEATING["odd"], batch=batch)[1])
    assert repeated(trainer) == EPOCHS * (-(-ROWS // batch) - short) - 2


@pytest.mark.skipif(not fo.build_info()["bf16"], reason="this processor, or the core in use, has no bfloat16 products")
def test_bf16():
    compare(20, [L.Dense(64, activation="relu"), L.Dense(33, activation="relu"), L.Dense(7)], precision="bf16")


def test_layers_that_draw_or_normalize_are_asked():
    trainer = fo.Trainer(every_layer(6, 10, 3), "mse")
    x, y, _ = data_for(trainer, 6)
    trainer.network.adapt(x)
    trainer.fit(x, y, epochs=EPOCHS, batch_size=BATCH)
    assert repeated(trainer) == 0


def test_what_comes_between_steps():
    """Weights written from outside, other sizes of batches, predictions, a user's own forward and backward, new weights."""
    runs = []
    for asks in (False, True):
        trainer = trainer_of(*REPEATING["standardized"], loss="mse")
        net = trainer.network
        x, y, _ = data_for(trainer, 9)
        net.adapt(x)
        left = {}

        def step(rows, trainer=trainer, x=x, y=y, asks=asks):
            with trainer.profile() if asks else contextlib.nullcontext():
                trainer.step(x[:rows], y[:rows])

        def leave(name, left=left, net=net, trainer=trainer):
            left |= {f"{name}: {key}": value.copy() for key, value in trainer.state_dict().items()}
            left |= {f"{name}: gradient of {key}": value.copy() for key, value in net.gradients.items()}

        for rows in (32, 32, 32, 17, 32, 32, 17, 17, 17, 32, 150, 32, 32, 32):
            step(rows)
        leave("sizes")
        net.parameters["1.weight"][:] *= 0.5
        net.buffers["0.mean"][:] += 0.25
        step(32)
        leave("written")
        left["predicted"] = net(x)
        step(32)
        out = net.forward(x[:20], training=True)
        left["input gradient"] = net.backward(np.ones_like(out))
        leave("own pass")
        step(32)
        left["output of a layer"] = net._native.layer_output(1).copy()
        left["gradient after a step"] = net.backward(np.ones((32, 2), np.float32))
        step(32)
        step(32)
        net.initialize(seed=11)
        net.adapt(x + 1)
        for _ in range(4):
            step(32)
        leave("new weights")
        assert (repeated(trainer) > 0) != asks
        runs.append(left)
    assert_same(*runs)


def test_a_loss_that_is_not_finite_undoes_its_step():
    """The tape of a step without backward is of no use, and one that was whole stays so."""
    runs = []
    for asks in (False, True):
        trainer = trainer_of(*REPEATING["one row of tiles"])
        x, y, _ = data_for(trainer, 8, rows=BATCH)
        bad = np.full_like(x, np.nan)
        for features in (x, bad, x, x, bad, x, x, x):
            expects = pytest.raises(fo.NonFiniteLossError) if features is bad else contextlib.nullcontext()
            with trainer.profile() if asks else contextlib.nullcontext(), expects:
                trainer.step(features, y)
        assert trainer.steps == 6
        assert (repeated(trainer) > 0) != asks
        runs.append(trainer.state_dict())
    assert_same(*runs)
