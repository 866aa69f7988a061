"""What is kept from one call to the next: nothing of it shows in another call, and `initialize` and `reset` forget it."""

import fastopt as fo
import numpy as np
import pytest
from helpers import close, refuses

L = fo.layers


def table(rows, columns, seed=171):
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2]


def weights(net):
    return {name: value.copy() for name, value in net.parameters.items()}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_weights_of_the_rows_before():
    """A step without weights after one with them is that of a trainer which has seen none."""
    x, y = table(32, 4)
    trainer = fo.Trainer(fo.Network(4, [L.Dense(1)], seed=0), "mse", fo.optimizers.SGD(learning_rate=0.1))
    trainer.step(x, y, sample_weight=np.linspace(0.1, 5, 32))
    fresh = fo.Trainer(trainer.network.copy(), "mse", fo.optimizers.SGD(learning_rate=0.1))
    for each in (trainer, fresh):
        each.step(x, y)
    same(trainer.network.parameters, fresh.network.parameters)


def test_reset_forgets_micro_batches_that_wait():
    x, y = table(8, 3)
    trainers = [fo.Trainer(fo.Network(3, [L.Dense(1)], seed=0), "mse", "sgd", accumulate=3) for _ in range(2)]
    trainers[0].step(100 * x, y)
    trainers[0].reset()
    for trainer in trainers:
        for _ in range(3):
            trainer.step(x, y)
    same(trainers[0].network.parameters, trainers[1].network.parameters)


def test_initialize_is_a_fresh_network():
    """Weights, biases, statistics, masks of dropout; a Standardize layer waits for data again."""
    x, y = table(64, 6)

    def made():
        return fo.Network(6, [L.Standardize(), L.Dense(8, activation="relu"), L.BatchNorm(), L.Dropout(0.5), L.Dense(1)], seed=0)

    net, fresh = made(), made()
    fo.Trainer(net, "mse").fit(5 * x + 3, y, epochs=3)
    net.initialize(0)
    left, expected = ({name: value for name, value in each.state_dict().items() if name[0] != "0"} for each in (net, fresh))
    same(left, expected)
    refuses("not adapted", net, x, errors=ValueError, match="has not seen data")
    for each in (net, fresh):
        each.adapt(x)
    np.testing.assert_array_equal(net(x), fresh(x))
    np.testing.assert_array_equal(net.forward(x, training=True), fresh.forward(x, training=True))


def test_backward_needs_a_training_forward_of_these_weights():
    x, _ = table(8, 6)
    net = fo.Network(6, [L.Dense(5, activation="relu"), L.Dense(1)], seed=0)
    for forget in (lambda: net.forward(2 * x), lambda: net.initialize(1)):
        net.forward(x, training=True)
        forget()
        refuses("nothing to go back through", net.backward, np.ones((8, 1), np.float32), errors=ValueError)


def test_a_forward_of_other_rows_after_steps_that_repeat():
    """Steps make the calls of the step before again: those of the rows then, not of others."""
    fo.set_num_threads(1)
    x, y = table(64, 6)
    trainer = fo.Trainer(fo.Network(6, [L.Dense(16, activation="relu"), L.Dense(1)], seed=0), "mse", fo.optimizers.SGD(learning_rate=0.01))
    trainer.step(x, y)
    for _ in range(5):
        trainer.step(x[:32], y[:32])
    far = y[:32].copy()
    far[0] = 3e38
    with pytest.raises(fo.NonFiniteLossError):
        trainer.step(x[:32], far)
    net = trainer.network
    close(net.forward(x, training=True), net(x), 1e-5, "forward")


@pytest.mark.parametrize("threads", [2, 3])
def test_inference_on_more_threads_than_before(cut_for_threads, threads):
    x, _ = table(200, 300)
    net = fo.Network(300, [L.Dense(1500, activation="relu"), L.Dense(700), L.Dense(1)], seed=0)
    cut_for_threads(1)
    alone = net(x)
    cut_for_threads(threads)
    np.testing.assert_array_equal(net(x), alone)
    cut_for_threads(8)
    np.testing.assert_array_equal(net(x), alone)


def test_a_short_last_batch_before_a_long_first_one(cut_for_threads):
    """What gathers the next batch beside a step has memory for a whole one."""
    x, y = table(643, 1000)
    left = []
    for threads in (1, 2):
        cut_for_threads(threads)
        net = fo.Network(1000, [L.Dense(600, activation="relu"), L.Dense(600), L.Dense(1)], seed=0)
        trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=1e-4))
        for _ in range(4):
            trainer.fit(x, y, batch_size=640)
        left.append(weights(net))
    same(left[1], left[0])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=str)
def test_frozen_layers_are_not_updated(cut_for_threads, threads, options):
    """Neither by decay, nor where threads share an update that needs all gradients."""
    cut_for_threads(threads)
    x, y = table(256, 20)
    net = fo.Network(20, [L.Dense(64, activation="relu", trainable=False), L.BatchNorm(trainable=False), L.Dense(1)], seed=0)
    for name in ("0.bias", "1.gamma", "1.beta"):
        net.parameters[name][...] = 1.0
    before = weights(net)
    trainer = fo.Trainer(net, "mse", fo.optimizers.AdamW(weight_decay=0.1, decay_all=True), **options)
    trainer.fit(x, y, epochs=3)
    for name, value in weights(net).items():
        assert np.array_equal(value, before[name]) == (not name.startswith("2.")), name
    net.forward(x, training=True)
    net.backward(x[:, :1])
    for name, value in net.gradients.items():
        assert value.any() == name.startswith("2."), name


def test_pieces_of_a_long_gradient(cut_for_threads):
    """A step that takes long is cut so that it can be interrupted; its gradients are those of all rows."""
    cut_for_threads(1)
    x, y = table(1500, 2048)
    net = fo.Network(2048, [L.Dense(2048, activation="relu"), L.Dense(1)], seed=0)
    first, second = net.parameters["0.weight"].copy(), net.parameters["1.weight"].copy()
    trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=0.0))
    trainer.step(x, y)
    hidden = np.maximum(x @ first, 0)
    outer = 2 * (hidden @ second - y) / np.float32(len(x))
    expected = x.T @ (outer * second.T * (hidden > 0))
    close(net.gradients["0.weight"], expected, 1e-3, "weight gradient", floor=float(np.abs(expected).mean()))


def test_averages_are_of_statistics_too():
    """Batch normalization is evaluated at the average of its statistics; before the first update there is no average."""
    x, y = table(96, 6)
    trainer = fo.Trainer(fo.Network(6, [L.BatchNorm(), L.Dense(1)], seed=0), "mse", "adam", ema=0.9)
    net = trainer.network
    untrained = net(x)
    with trainer.evaluation_weights():
        np.testing.assert_array_equal(net(x), untrained)
    averages = {}
    for step in range(6):
        rows = slice(16 * step, 16 * step + 16)
        trainer.step(3 * x[rows] + 5, y[rows])
        for name, value in {**net.parameters, **net.buffers}.items():
            now = value.astype(np.float64)
            averages[name] = now if step == 0 else averages[name] + 0.1 * (now - averages[name])
    trained = {name: value.copy() for name, value in {**net.parameters, **net.buffers}.items()}
    with trainer.evaluation_weights():
        for name, value in {**net.parameters, **net.buffers}.items():
            close(value, averages[name], 1e-5, name, floor=1e-3)
    same({**net.parameters, **net.buffers}, trained)
