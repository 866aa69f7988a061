"""Large batches of small networks, which go through in blocks of rows: the gradients of the whole batch, on any number of threads."""

import signal
import sys

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from helpers import loss_cases
from native import DTYPES, core, native
from networks import batch_for, every_layer
from numpy.testing import assert_allclose, assert_array_equal

ROWS, INPUTS, OUTPUTS = 9001, 30, 3

L = fo.layers
NETWORKS = {
    "every kind of layer": [
        L.Standardize(),
        L.Dense(70),
        L.Activation("gelu"),
        L.Dropout(0.3),
        L.Dense(33, bias=False),
        L.Activation("silu"),
    ],
    "frozen first": [L.Dense(80, activation="relu", trainable=False), L.Dense(40, activation="tanh")],
    "frozen between": [L.Dense(40, activation="relu"), L.Dense(50, activation="elu", trainable=False), L.Dense(16, activation="silu")],
    "transparent between": [L.Dense(60, activation="relu"), L.Dropout(0.0), L.Activation("identity"), L.Dense(40)],
    "transparent first": [L.Dropout(0.0), L.Dense(90, activation="gelu")],
    "thin": [L.Dense(1, activation="tanh"), L.Dense(4, activation="softplus"), L.Dense(9), L.Dense(80)],
    "dropout first": [L.Dropout(0.5), L.Dense(100, activation="leaky_relu")],
    "wide": [L.Dense(200, activation="relu"), L.Dense(90, activation="relu")],
}


def data(loss="mse", outputs=OUTPUTS, dtype="float32", kind=None, rows=ROWS):
    return batch_for(loss, outputs, rows, INPUTS, np.random.default_rng(5), dtype=dtype, kind=kind)


def fitted(net, loss="mse", optimizer="adam", weighted=False, kind=None, rows=ROWS, **options):
    """(state, losses) of two epochs of one step each; all of them in blocks."""
    loss = fo.losses.get(loss)
    x, y, weight = data(loss.name, net.outputs, net.dtype, kind, rows)
    weight[::7] = 0
    trainer = fo.Trainer(net, loss, optimizer, **options)
    history = trainer.fit(x, y, epochs=2, batch_size=None, sample_weight=weight if weighted else None)
    assert trainer._native.steps_in_blocks == 2
    return trainer.state_dict(), history["loss"]


def same_bits(cut_for_threads, layers, dtype="float32", last=True, **case):
    layers = [*layers, L.Dense(OUTPUTS)] if last else layers

    def run(threads):
        cut_for_threads(threads)
        return fitted(fo.Network(INPUTS, layers, dtype=dtype, seed=3), **case)

    state, losses = run(1)
    for threads in (2, 3, 8, 20):
        others, again = run(threads)
        assert again == losses
        for name, value in state.items():
            assert_array_equal(others[name], value, err_msg=f"{name}, {threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_bits(cut_for_threads, name, dtype):
    same_bits(cut_for_threads, NETWORKS[name], dtype, weighted=True)


@pytest.mark.parametrize("end", [L.Dropout(0.0), L.Dropout(0.2), L.Activation("gelu")])
def test_ends(cut_for_threads, end):
    same_bits(cut_for_threads, [L.Dense(100), L.Dense(OUTPUTS), end], last=False)


@pytest.mark.parametrize("options", [{"l1": 1e-3, "l2": 1e-3, "clip_value": 0.05, "ema": 0.9}, {"clip_norm": 0.1, "accumulate": 2}])
def test_options(cut_for_threads, options):
    same_bits(cut_for_threads, NETWORKS["every kind of layer"], **options)


def whole_batch(net, loss, x, y, weight):
    """(loss, gradients) of one forward and backward over all rows, with the masks of the next step."""
    outputs = net._native.forward(x, True)
    value, grad = native("Loss", net.dtype, loss.name, loss.config()).value_and_grad(outputs, y, weight)
    net._native.backward(grad)
    net.training_step -= 1
    return value, {name: g.copy() for name, g in net.gradients.items()}


def gradients_agree(net, loss, kind=None, rows=ROWS, weighted=True):
    loss = fo.losses.get(loss)
    x, y, weight = data(loss.name, net.outputs, net.dtype, kind, rows)
    weight[::7] = 0
    weight = weight if weighted else None
    net._native.adapt(x)
    value, expected = whole_batch(net, loss, x, y, weight)
    trainer = fo.Trainer(net, loss, fo.optimizers.SGD(learning_rate=0.0))
    found = trainer.step(x, y, sample_weight=weight)
    assert trainer._native.steps_in_blocks == 1
    tolerance = {"float32": 2e-5, "float64": 1e-12}[str(net.dtype)]
    assert_allclose(found, value, rtol=tolerance)
    for name, gradient in expected.items():
        scale = np.abs(gradient).max()
        assert_allclose(net.gradients[name], gradient, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name, dtype):
    gradients_agree(fo.Network(INPUTS, [*NETWORKS[name], L.Dense(OUTPUTS)], dtype=dtype, seed=3), "mse")


@pytest.mark.parametrize("name", core.loss_names())
def test_losses(name):
    for options, outputs, kind in loss_cases(name):
        loss = fo.losses.table()[name](**options)
        gradients_agree(fo.mlp(INPUTS, [120], outputs, dtype="float64", seed=4, dropout=0.2), loss, kind)


@pytest.mark.parametrize("rows", [4097, 8191, 10_000, 16_384, 20_003])
def test_rows(rows):
    gradients_agree(fo.mlp(INPUTS, [128], 1, dtype="float64", seed=4, dropout=0.2), "mse", rows=rows, weighted=rows % 2 == 0)


def test_steps_of_an_order(cut_for_threads):
    """Rows by number and a short batch at the end, which is not in blocks."""
    cut_for_threads(2)
    x, y, _ = data(rows=2 * ROWS + 5)
    trainers = [fo.Trainer(fo.mlp(INPUTS, [100, 40], OUTPUTS, seed=6), "mse", "sgd", seed=1) for _ in range(2)]
    trainers[0].fit(x, y, epochs=1, batch_size=ROWS)
    order = core.permutations(len(x), 1, 0, 1)[0]
    for start in range(0, len(x), ROWS):
        trainers[1].step(x[order[start : start + ROWS]], y[order[start : start + ROWS]])
    assert [trainer._native.steps_in_blocks for trainer in trainers] == [2, 2]
    for (name, ours), theirs in zip(trainers[0].network.parameters.items(), trainers[1].network.parameters.values(), strict=True):
        assert_array_equal(ours, theirs, err_msg=name)


def test_which_batches():
    def in_blocks(net, rows, **options):
        trainer = fo.Trainer(net, "mse", "sgd", **options)
        trainer.step(np.zeros((rows, INPUTS), net.dtype), np.zeros((rows, net.outputs), net.dtype))
        return trainer._native.steps_in_blocks == 1

    assert in_blocks(fo.mlp(INPUTS, [64], OUTPUTS), 20_000)
    assert not in_blocks(fo.mlp(INPUTS, [64], OUTPUTS), 2_000)  # stays in cache as it is
    assert not in_blocks(fo.mlp(INPUTS, [64], OUTPUTS, batch_norm=True), 20_000)  # rows see each other
    assert not in_blocks(fo.mlp(INPUTS, [700, 400], OUTPUTS), 20_000)  # many weights


def test_a_loss_that_is_not_finite_changes_nothing():
    net = every_layer(INPUTS, 60, OUTPUTS, batch_norm=False)
    x, y, _ = data()
    net._native.adapt(x)
    y[-1] = np.float32(3e38)
    trainer = fo.Trainer(net, "mse", "adam")
    before, step = trainer.state_dict(), net.training_step
    with pytest.raises(fo.NonFiniteLossError):
        trainer.step(x, y)
    assert (trainer._native.steps_in_blocks, net.training_step) == (0, step)
    for name, value in trainer.state_dict().items():
        assert_array_equal(value, before[name], err_msg=name)


def test_what_is_left_of_a_step():
    """Outputs of single layers are those of one block only, so there are none."""
    trainer = fo.Trainer(fo.mlp(INPUTS, [100], OUTPUTS, seed=0), "mse", "sgd")
    x, y, _ = data()
    trainer.step(x, y)
    with pytest.raises(ValueError, match="forward"):
        trainer.network._native.layer_output(0)
    with pytest.raises(ValueError, match="forward"):
        trainer.network._native.backward(y)
    small = trainer.step(x[:100], y[:100])
    assert np.isfinite(small)
    assert trainer.network._native.layer_output(0).shape == (100, 100)


def test_profile_counts_steps():
    trainer = fo.Trainer(fo.mlp(INPUTS, [100], OUTPUTS, seed=0), "mse", "sgd")
    x, y, _ = data()
    with trainer.profile() as profile:
        for _ in range(3):
            trainer.step(x, y)
        trainer.step(x[:100], y[:100])
    assert trainer._native.steps_in_blocks == 3
    assert profile.steps == 4
    for stage in ("gather", "0.forward", "loss", "1.input_gradient", "0.weight_gradient", "update"):
        assert profile[stage].calls == 4, stage
    assert profile["0.weight_gradient"].flops == 2 * (3 * ROWS + 100) * INPUTS * 100


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt(threads):
    """Of a step that takes seconds it comes soon, and the step has not been."""
    code = """
        import signal
        import fastopt as fo
        import numpy as np

        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((1_000_000, 20), np.float32), rng.standard_normal(1_000_000, np.float32)
        net = fo.mlp(20, [64] * 8, 1, seed=0, dropout=0.1)
        trainer = fo.Trainer(net, "mse", "adam")
        trainer.step(x[:20_000], y[:20_000])
        before, step = trainer.state_dict(), net.training_step

        def interrupt(*_):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            trainer.step(x, y)
            print("not interrupted")
        except KeyboardInterrupt:
            print(trainer._native.steps_in_blocks, net.training_step - step)
        for name, value in trainer.state_dict().items():
            assert np.array_equal(value, before[name]), name
        assert np.isfinite(trainer.step(x[:20_000], y[:20_000]))
    """
    assert run_python(code, threads=threads).split() == ["1", "0"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_batch():
    code = """
        import resource
        import fastopt as fo
        import numpy as np

        rows = 200_000
        x, y = np.ones((rows, 20), np.float32), np.ones(rows, np.float32)
        trainer = fo.Trainer(fo.mlp(20, [64, 64], 1, seed=0), "mse")
        trainer.step(x[:20_000], y[:20_000])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer.step(x, y)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / rows)
    """
    assert float(run_python(code)) < 40  # bytes a row; activations of a row and their gradients take 1 300


def test_full_batch_needs_no_order():
    """An epoch of one step is a sum over all rows, which no permutation changes."""
    x, y, _ = data()
    trainers = [fo.Trainer(fo.mlp(INPUTS, [100], OUTPUTS, seed=6), "mse", "sgd") for _ in range(2)]
    for trainer, shuffle in zip(trainers, (True, False), strict=True):
        trainer.fit(x, y, epochs=2, batch_size=None, shuffle=shuffle)
    for (name, ours), theirs in zip(trainers[0].network.parameters.items(), trainers[1].network.parameters.values(), strict=True):
        assert_array_equal(ours, theirs, err_msg=name)
