"""Two threads that share the first two layers of a small network by units: the bits of one thread, in a run of steps and after it."""

import contextlib
import threading
import time

import fastopt as fo
import numpy as np
import pytest
from fastopt import _array_epochs
from helpers import close, loss_cases
from native import DTYPES, core
from networks import batch_for
from numpy.testing import assert_array_equal

ROWS, BATCH, EPOCHS = 150, 32, 3  # a short batch at the end

L = fo.layers
NETWORKS = {
    "one hidden layer": (30, [L.Dense(96, activation="relu"), L.Dense(3)]),
    "two": (30, [L.Dense(64, activation="relu"), L.Dense(64, activation="relu"), L.Dense(3)]),
    "kept inputs of activations": (
        20,
        [L.Dense(64, activation="gelu"), L.Dense(40, activation="silu"), L.Dense(3, activation="gelu_tanh")],
    ),
    "small": (8, [L.Dense(32, activation="relu"), L.Dense(32, activation="relu"), L.Dense(1)]),
    "third layer of many": (30, [L.Dense(128, activation="relu"), L.Dense(64, activation="tanh"), L.Dense(10, activation="elu")]),
    "uneven": (17, [L.Dense(100, activation="tanh"), L.Dense(33, activation="elu"), L.Dense(7)]),
    "one output": (9, [L.Dense(240, activation="sigmoid"), L.Dense(1, activation="softplus")]),
    "no bias": (40, [L.Dense(64, bias=False, activation="relu"), L.Dense(50, bias=False, activation="relu"), L.Dense(2, bias=False)]),
    "standardized": (30, [L.Standardize(), L.Dense(64, activation="relu"), L.Dense(64, activation="tanh"), L.Dense(3)]),
    "of their own": (
        25,
        [
            L.Dense(64, activation="selu", l1=1e-3, learning_rate_multiplier=0.5),
            L.Dense(64, activation="hard_tanh", l2=1e-3),
            L.Dense(4, learning_rate_multiplier=2.0),
        ],
    ),
}
NOT_SHARED = {
    "deep": (30, [L.Dense(64), L.Dense(64), L.Dense(64), L.Dense(3)]),
    "wide end": (30, [L.Dense(64), L.Dense(64), L.Dense(64)]),
    "many outputs": (40, [L.Dense(64), L.Dense(50)]),
    "wide second": (20, [L.Dense(32), L.Dense(256), L.Dense(1)]),
    "small": (13, [L.Dense(64), L.Dense(1)]),
    "few parameters a sum": (7, [L.Dense(32), L.Dense(40), L.Dense(1)]),
    "odd units": (30, [L.Dense(50), L.Dense(64), L.Dense(1)]),
    "frozen": (30, [L.Dense(64, trainable=False), L.Dense(64), L.Dense(3)]),
    "dropout": (30, [L.Dense(64), L.Dropout(0.1), L.Dense(64), L.Dense(3)]),
    "many inputs": (2000, [L.Dense(32), L.Dense(3)]),
    "large": (600, [L.Dense(512), L.Dense(3)]),
}


def fitted(inputs, layers, *, loss="mse", optimizer="adam", dtype="float32", weighted=False, kind=None, callbacks=(), **options):
    """(trainer, everything that a fit leaves behind)."""
    net = fo.Network(inputs, layers, dtype=dtype, seed=3)
    loss = fo.losses.get(loss)
    x, y, weight = batch_for(loss.name, net.outputs, ROWS, inputs, np.random.default_rng(5), dtype=dtype, kind=kind)
    trainer = fo.Trainer(net, loss, optimizer, **options)
    history = trainer.fit(x, y, epochs=EPOCHS, batch_size=BATCH, sample_weight=weight if weighted else None, callbacks=list(callbacks))
    left = {f"state: {name}": value for name, value in trainer.state_dict().items()}
    left["losses"] = np.array(history["loss"])
    if "penalty" in history:
        left["penalties"] = np.array(history["penalty"])
    left |= {f"gradient of {name}": value.copy() for name, value in net.gradients.items()}
    left |= {f"output of layer {number}": net._native.layer_output(number).copy() for number in range(len(layers))}
    return trainer, left


def steps_in_halves(trainer):
    return trainer._native.steps_in_halves


def same_bits(cut_for_threads, inputs, layers, **case):
    cut_for_threads(1)
    trainer, expected = fitted(inputs, layers, **case)
    assert steps_in_halves(trainer) == 0
    for threads in (2, 3, 4):
        cut_for_threads(threads)
        trainer, found = fitted(inputs, layers, **case)
        assert (steps_in_halves(trainer) > 0) == (threads == 2), f"{threads} threads"
        for name, value in expected.items():
            assert_array_equal(found[name], value, err_msg=f"{name}, {threads} threads")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(cut_for_threads, name, dtype, weighted):
    same_bits(cut_for_threads, *NETWORKS[name], dtype=dtype, weighted=weighted)


@pytest.mark.parametrize("optimizer", [name for name in core.optimizer_names() if name != "adagrad_norm"])
def test_optimizers(cut_for_threads, optimizer):
    for name in ("two", "third layer of many"):
        same_bits(cut_for_threads, *NETWORKS[name], optimizer=optimizer, l1=1e-3, l2=1e-3, clip_value=0.1)


@pytest.mark.parametrize("activation", core.activation_names())
def test_activations(cut_for_threads, activation):
    layers = [L.Dense(64, activation=activation), L.Dense(48, activation=activation), L.Dense(3, activation=activation)]
    same_bits(cut_for_threads, 20, layers, optimizer="sgd")


@pytest.mark.parametrize("loss", core.loss_names())
def test_losses(cut_for_threads, loss):
    for options, outputs, kind in loss_cases(loss):
        layers = [L.Dense(64, activation="tanh"), L.Dense(64, activation="tanh"), L.Dense(outputs)]
        same_bits(cut_for_threads, 30, layers, loss=fo.losses.table()[loss](**options), kind=kind)


@pytest.mark.parametrize("options", [{}, {"l2": 1e-3}], ids=str)  # a penalty is looked at after each epoch, with all weights at home
@pytest.mark.parametrize("rows", [BATCH * 7, BATCH * 7 + 5, 2 * BATCH])
@pytest.mark.parametrize("optimizer", ["adam", "rprop", "nadam"])
def test_threads_that_meet_once_a_step(cut_for_threads, optimizer, rows, options):
    """Where both have all weights of the later layers, one may be a step behind, also when the next batch is a short one."""
    x, y, _ = batch_for("mse", 1, rows, 8, np.random.default_rng(6))

    def trained(threads):
        cut_for_threads(threads)
        trainer = fo.Trainer(fo.Network(*NETWORKS["small"], seed=3), "mse", optimizer, **options)
        trainer.fit(x, y, epochs=20, batch_size=BATCH)
        return trainer

    alone, both = trained(1), trained(2)
    if rows > 2 * BATCH or not options:  # two batches an epoch are over before a step is like one before
        assert (both._native.steps_meeting_once > 0) == (optimizer != "nadam"), "nadam moves a scalar on, which one thread does for both"
    assert both.history["loss"] == alone.history["loss"]
    expected = alone.state_dict()
    for name, value in both.state_dict().items():
        assert_array_equal(value, expected[name], err_msg=name)


ONE_OUTPUT_LOSSES = [(name, *case) for name in core.loss_names() for case in loss_cases(name) if case[1] == 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [1, 4, 8, 15, 16, 17, 32, 40, 60, 64, 65])
def test_ends_of_one_output(cut_for_threads, units, dtype):
    """From the sums of the second layer to their gradients in one pass, or in several; the same bits for any number of rows and units."""
    passes = 0
    for number, (name, options, _, kind) in enumerate(ONE_OUTPUT_LOSSES):
        batch, bias = (32, 20, 13, 9, 1, 64)[(number + units) % 6], number % 3 > 0
        layers = [L.Dense(64, activation="tanh"), L.Dense(units, activation="relu", bias=bias), L.Dense(1, bias=bias)]
        loss = fo.losses.table()[name](**options)
        x, y, _ = batch_for(name, 1, 12 * batch, 30, np.random.default_rng(number), dtype=dtype, kind=kind)
        states = []
        for threads in (1, 2):
            cut_for_threads(threads)
            trainer = fo.Trainer(fo.Network(30, layers, dtype=dtype, seed=3), loss, "adam", l1=1e-3)
            trainer.fit(x, y, epochs=1, batch_size=batch)
            states.append(trainer.state_dict())
        passes += trainer._native.steps_with_one_output
        assert steps_in_halves(trainer) > 0
        for key, value in states[0].items():
            assert_array_equal(states[1][key], value, err_msg=f"{key}, {name} {options}, batch {batch}, bias {bias}")
    lanes = 64 // np.dtype(dtype).itemsize
    assert (passes > 0) == (fo.build_info()["isa"] == "v4" and units <= 4 * lanes)


@pytest.mark.parametrize("wrong", [0, 1, 5, 6, 30, 57, 58, 59])
def test_steps_that_are_told_together(cut_for_threads, wrong):
    """A loss that is not finite ends them for both threads, wherever it comes."""
    x, y, _ = batch_for("mse", 1, 60 * BATCH, 8, np.random.default_rng(6))
    y[wrong * BATCH] = 1e30
    left = []
    for threads in (1, 2):
        cut_for_threads(threads)
        trainer = fo.Trainer(fo.Network(*NETWORKS["small"], seed=3), "mse", "adam")
        losses, weights, order = np.zeros(60), np.zeros(60), np.arange(len(x))
        done = trainer._native.run_steps(x, y, None, order, BATCH, np.full(60, 1e-3), losses, weights)
        assert done == wrong
        left.append((losses[:wrong], trainer.state_dict()))
        if wrong > 10 and threads == 2:
            assert trainer._native.steps_meeting_once > 0.5 * wrong
    assert_array_equal(left[1][0], left[0][0])
    for key, value in left[0][1].items():
        assert_array_equal(left[1][1][key], value, err_msg=key)


def test_a_number_of_threads_that_changes_meanwhile(cut_for_threads):
    """Both threads go on with the steps that they know of; the next run begins with the new number."""
    x, y, _ = batch_for("mse", 1, 128 * BATCH, 8, np.random.default_rng(6))
    cut_for_threads(2)
    trainer = fo.Trainer(fo.Network(*NETWORKS["small"], seed=3), "mse", "adam")
    over = threading.Event()

    def change():
        while not over.is_set():
            for threads in (1, 2):
                fo.set_num_threads(threads)
                time.sleep(1e-3)

    other = threading.Thread(target=change)
    other.start()
    try:
        found = [trainer.fit(x, y, epochs=30, batch_size=BATCH)["loss"] for _ in range(10)]
    finally:
        over.set()
        other.join()
    cut_for_threads(1)
    trainer = fo.Trainer(fo.Network(*NETWORKS["small"], seed=3), "mse", "adam")
    assert found == [trainer.fit(x, y, epochs=30, batch_size=BATCH)["loss"] for _ in range(10)]


def test_rows_without_weight_that_overflow(cut_for_threads):
    """Their losses are infinite, and have no part in the gradient, however many threads there are."""
    x, y, _ = batch_for("poisson", 2, ROWS, 30, np.random.default_rng(7))
    weight = np.ones(ROWS)
    x[::7], weight[::7] = x[::7] * 1e30, 0.0
    losses = []
    for threads in (1, 2):
        cut_for_threads(threads)
        trainer = fo.Trainer(fo.mlp(30, [64, 64], 2, seed=3), "poisson")
        assert np.isinf(fo.losses.Poisson()(trainer.network(x), y)), "no row overflows"
        losses.append(trainer.fit(x, y, epochs=3, batch_size=BATCH, sample_weight=weight)["loss"])
        assert (steps_in_halves(trainer) > 0) == (threads == 2)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", NOT_SHARED)
def test_networks_that_are_not_shared(cut_for_threads, name):
    cut_for_threads(2)
    trainer, _ = fitted(*NOT_SHARED[name])
    assert steps_in_halves(trainer) == 0


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"accumulate": 2}, {"clip_norm": 1.0}, {"optimizer": "adagrad_norm"}], ids=str)
def test_what_needs_all_weights_at_once(cut_for_threads, options):
    """Such steps go another way, with the same sums."""
    cut_for_threads(1)
    _, expected = fitted(*NETWORKS["two"], **options)
    cut_for_threads(2)
    trainer, found = fitted(*NETWORKS["two"], **options)
    assert steps_in_halves(trainer) == 0
    for name, value in expected.items():
        assert_array_equal(found[name], value, err_msg=name)


def test_all_but_the_last_step_of_a_run(cut_for_threads, monkeypatch):
    """The last one leaves weights where others look for them; so does each epoch that somebody looks at."""
    cut_for_threads(2)
    monkeypatch.setattr(_array_epochs, "PIECE_SECONDS", 1e3)  # on a slow machine an epoch is several runs
    batches = -(-ROWS // BATCH)
    trainer, _ = fitted(*NETWORKS["two"])
    assert EPOCHS * (batches - 1) <= steps_in_halves(trainer) < EPOCHS * batches
    seen = []
    trainer, _ = fitted(*NETWORKS["two"], callbacks=[lambda trainer, row: seen.append(trainer.network.parameters["0.weight"].copy())])
    assert steps_in_halves(trainer) == EPOCHS * (batches - 1)
    cut_for_threads(1)
    expected = []
    fitted(*NETWORKS["two"], callbacks=[lambda trainer, row: expected.append(trainer.network.parameters["0.weight"].copy())])
    assert_array_equal(seen, expected)
    trainer.step(np.zeros((BATCH, 30), np.float32), np.zeros((BATCH, 3), np.float32))
    assert steps_in_halves(trainer) == EPOCHS * (batches - 1)


@pytest.mark.parametrize("loss", ["mse", "softmax_cross_entropy"])
@pytest.mark.parametrize("name", ["one hidden layer", "two", "third layer of many", "uneven", "standardized"])
def test_long_runs(cut_for_threads, name, loss):
    """Each thread makes the calls of a step before again, of one for each of its two batches, and thread 1 begins before it is told."""
    inputs, layers = NETWORKS[name]
    states = []
    for threads in (1, 2):
        cut_for_threads(threads)
        net = fo.Network(inputs, layers, dtype="float32", seed=3)
        x, y, _ = batch_for(loss, net.outputs, 20 * BATCH + 7, inputs, np.random.default_rng(6))
        trainer = fo.Trainer(net, loss, "adam")
        for rows, epochs, profiled in (
            (20 * BATCH, 4, False),
            (20 * BATCH + 7, 2, True),
            (20 * BATCH, 3, False),
            (20 * BATCH + 7, 2, False),
        ):
            with trainer.profile() if profiled else contextlib.nullcontext():
                trainer.fit(x[:rows], y[:rows], epochs=epochs, batch_size=BATCH)
        states.append(trainer.state_dict())
    native = trainer._native
    assert native.steps_in_halves > 0.9 * 11 * 20
    assert native.steps_repeated > 0.5 * native.steps_in_halves
    assert native.steps_begun_ahead > 0.8 * native.steps_in_halves
    for key, value in states[0].items():
        assert_array_equal(states[1][key], value, err_msg=key)


def test_penalties_of_epochs_in_one_run(cut_for_threads):
    """The penalty of an epoch is that of its last weights, wherever they lie."""
    cut_for_threads(1)
    _, expected = fitted(*NETWORKS["two"], l2=0.1)
    cut_for_threads(2)
    _, found = fitted(*NETWORKS["two"], l2=0.1)
    assert_array_equal(found["penalties"], expected["penalties"])


@pytest.mark.parametrize("name", ["two", "third layer of many", "small", "uneven", "no bias"])
def test_a_loss_that_is_not_finite(cut_for_threads, name):
    """A fit ends with the weights of the last finite epoch, which on two threads are brought home first; another one goes on from them."""
    left = []
    for threads in (1, 2):
        cut_for_threads(threads)
        net = fo.Network(*NETWORKS[name], dtype="float32", seed=3)
        x, y, _ = batch_for("mse", net.outputs, ROWS, net.inputs, np.random.default_rng(5))
        trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=0.05, momentum=0.9))
        losses = [trainer.fit(x, y, epochs=4, batch_size=BATCH)["loss"]]
        far = y.copy()
        far[::50] = 1e25
        with pytest.raises(fo.NonFiniteLossError) as error:
            trainer.fit(x, far, epochs=50, batch_size=BATCH)
        after = {**trainer.state_dict(), **{f"gradient of {key}": value.copy() for key, value in net.gradients.items()}}
        losses.append(trainer.fit(x, y, epochs=2, batch_size=BATCH)["loss"])
        left.append((str(error.value), losses, steps_in_halves(trainer), after, trainer.state_dict()))
    (message, losses, none, *expected), (again, same, some, *found) = left
    assert (message, losses, none) == (again, same, 0)
    assert some > 0
    for before, now in zip(expected, found, strict=True):
        for key, value in before.items():
            assert np.isfinite(value).all()
            assert_array_equal(now[key], value, err_msg=key)


def test_two_trainers_and_steps_between_fits(cut_for_threads):
    """Who trains a network next finds what the one before has left, whatever lay with its owners."""
    left = []
    for threads in (1, 2):
        cut_for_threads(threads)
        net = fo.Network(*NETWORKS["two"], dtype="float32", seed=3)
        x, y, _ = batch_for("mse", net.outputs, ROWS, net.inputs, np.random.default_rng(5))
        first, second = fo.Trainer(net, "mse", "adam"), fo.Trainer(net, "mse", "rmsprop")
        seen = []
        for batch in (32, 20, 50, 32):
            seen += first.fit(x, y, epochs=2, batch_size=batch)["loss"]
            seen.append(first.step(x[:batch], y[:batch]))
            seen += second.fit(x, y, epochs=1, batch_size=batch)["loss"]
            second.load_state_dict(second.state_dict())
            seen.append(second.step(x[5:17], y[5:17]))
        left.append((seen, first.state_dict(), second.state_dict()))
        assert (min(steps_in_halves(first), steps_in_halves(second)) > 0) == (threads == 2)
    (losses, *expected), (again, *found) = left
    assert losses == again
    for before, now in zip(expected, found, strict=True):
        for key, value in before.items():
            assert_array_equal(now[key], value, err_msg=key)


def test_single_steps_of_a_small_network_try_nothing():
    """They cannot be shared, and a trial of two threads that share nothing would speak against them for the fits as well."""
    fo.set_num_threads(2)
    net = fo.Network(*NETWORKS["small"], dtype="float32", seed=3)
    x, y, _ = batch_for("mse", net.outputs, ROWS, net.inputs, np.random.default_rng(5))
    trainer = fo.Trainer(net, "mse", "adam")
    with trainer.profile() as profile:
        for _ in range(3000):
            trainer.step(x[:32], y[:32])
    assert "wait" not in profile or profile["wait"].calls == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_forward_is_the_forward(name, dtype):
    """Sums over both halves of the inputs are the sum, and what came before an activation is kept."""
    inputs, layers = NETWORKS[name]
    net = fo.Network(inputs, layers, dtype=dtype, seed=3)
    x = np.random.default_rng(8).standard_normal((45, inputs)).astype(dtype)  # with 7 a unit of hard_tanh is at its kink
    if name == "standardized":
        net.adapt(x)
    close(net.forward(x, training=True).copy(), net(x), 20 * np.finfo(dtype).eps, name, floor=1.0)
    if dtype == "float64":
        y = np.random.default_rng(9).standard_normal((45, net.outputs))
        assert fo.check_gradients(net, "mse", x, y)
