"""Gradients of whole networks against finite differences in float64: every activation, every loss, every kind of layer."""

import fastopt as fo
import numpy as np
import pytest
from helpers import close, loss_cases, make_target, numeric_gradient, refuses
from native import core
from twins import rich_network


def spec(name, options):
    return type(fo.losses.get(name))(**options)


def check(net, loss, x, y, weight, what):
    """Compare every parameter's and the input's gradient with central differences of the training loss."""
    start, buffers = net.training_step, {name: view.copy() for name, view in net.buffers.items()}

    def value():
        net.training_step = start  # the same masks
        for name, view in net.buffers.items():
            view[...] = buffers[name]
        return loss(net.forward(x, training=True), y, weight)

    value()
    net.training_step = start
    grad_x = net.backward(loss.value_and_grad(net.forward(x, training=True), y, weight)[1])
    analytic = {name: np.array(g) for name, g in net.gradients.items()}
    scale = max(abs(g).max() for g in analytic.values())
    for name, view in net.parameters.items():
        close(analytic[name], numeric_gradient(value, view), 1e-6, f"{what}: {name}", floor=scale)
    close(grad_x, numeric_gradient(value, x), 1e-6, f"{what}: input", floor=scale)


@pytest.mark.parametrize("activation", core.activation_names())
def test_every_activation(activation):
    rng = np.random.default_rng(111)
    for rows, widths in ((1, (3, 5, 2)), (7, (5, 17, 3)), (9, (1, 1, 1))):
        inputs, hidden, outputs = widths
        net = fo.mlp(inputs, [hidden, 3], outputs, activation=activation, dtype="float64", seed=6)
        for view in net.parameters.values():
            view += 0.1 * rng.standard_normal(view.shape)
        x, y = rng.standard_normal((rows, inputs)), rng.standard_normal((rows, outputs))
        check(net, fo.losses.MeanSquaredError(), x, y, None, f"{activation}, {rows} rows, {widths}")


@pytest.mark.parametrize("activation", core.activation_names())
def test_every_layer(activation):
    rng = np.random.default_rng(112)
    net = rich_network(activation, inputs=4)
    x, y, w = rng.standard_normal((6, 4)) * 3 + 1, rng.integers(0, 3, 6).astype(np.int32), rng.random(6) + 0.1
    check(net, fo.losses.SoftmaxCrossEntropy(), x, y, w, activation)


@pytest.mark.parametrize("name", core.loss_names())
def test_every_loss(name):
    rng = np.random.default_rng(113)
    for options, outputs, kind in loss_cases(name):
        net = fo.mlp(4, [5], outputs, activation="tanh", dtype="float64", seed=8)
        x, y, w = rng.standard_normal((7, 4)), make_target(kind, 7, outputs, rng), rng.random(7) + 0.1
        check(net, spec(name, options), x, y, w, f"{name} {options}")


@pytest.mark.parametrize("activation", core.activation_names())
def test_check_gradients_agrees(activation):
    """The public tool finds nothing wrong with our gradients."""
    rng = np.random.default_rng(114)
    net = fo.mlp(3, [4], 2, activation=activation, seed=9)
    report = fo.check_gradients(net, "mse", rng.standard_normal((5, 3)), rng.standard_normal((5, 2)))
    assert report, str(report)


def test_layers_that_are_not_trained():
    """They have no gradient to check, and none that could vanish."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    frozen = fo.layers.Dense(4, activation="tanh", trainable=False)
    net = fo.Network(3, [frozen, fo.layers.BatchNorm(trainable=False), fo.layers.Dense(2)], seed=0, dtype="float64")
    report = fo.check_gradients(net, "mse", x, y)
    assert report.passed, report
    assert [check.name for check in report.checks] == ["2.weight", "2.bias", "input"]
    monitor = fo.callbacks.GradientMonitor()
    fo.Trainer(net, "mse").fit(x, y, callbacks=[monitor])
    assert (list(monitor.gradient_norms), monitor.messages) == (["2.weight"], [])


def test_check_gradients_finds_a_wrong_loss():
    rng = np.random.default_rng(115)

    def wrong(prediction, target):
        return float(((prediction - target) ** 2).mean()), (prediction - target) * 1.01

    net = fo.mlp(3, [4], 1, activation="tanh", seed=9)
    report = fo.check_gradients(net, wrong, rng.standard_normal((5, 3)), rng.standard_normal((5, 1)))
    assert not report, str(report)


def test_check_gradients_finds_what_is_not_finite_and_wrong_signs_of_small_losses():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 2))
    net = fo.mlp(4, [6], 2, activation="tanh", dtype="float64", seed=1)

    def squared(factor, wrong=None):
        def loss(prediction, target):
            gradient = factor * 2 * (prediction - target) / prediction.size
            if wrong is not None:
                gradient[0, 0] = wrong
            return float(((prediction - target) ** 2).mean()), gradient

        return loss

    assert fo.check_gradients(net, squared(1.0), x, y)
    for wrong in (np.nan, np.inf):
        report = fo.check_gradients(net, squared(1.0, wrong), x, y)
        assert not report
        assert report.relative_error == np.inf
    net.parameters["1.weight"][...] *= 1e-5
    assert fo.check_gradients(net, squared(1.0), x, 1e-5 * y)
    assert not fo.check_gradients(net, squared(-1.0), x, 1e-5 * y)
    scaled = lambda factor: lambda p, t: (1e-12 * float(((p - t) ** 2).mean()), factor * 1e-12 * 2 * (p - t) / p.size)  # noqa: E731
    assert fo.check_gradients(net, scaled(1.0), x, y)
    assert not fo.check_gradients(net, scaled(1.05), x, y)
    refuses("a loss that is not finite", fo.check_gradients, net, lambda p, t: (np.nan, 0 * p), x, y, match="the loss is nan")
    refuses("tolerance", fo.check_gradients, net, "mse", x, y, tolerance=-1.0, match="tolerance")
    refuses("weights", fo.check_gradients, net, squared(1.0), x, y, sample_weight=np.ones(9), match="no weights")


def test_a_monitor_of_a_later_fit():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((40, 4)), np.arange(40) % 2
    trainer = fo.Trainer(fo.mlp(4, [16] * 12, 2, activation="sigmoid", seed=0), "cross_entropy")
    trainer.fit(x, y, epochs=5)
    monitor = fo.callbacks.GradientMonitor()
    trainer.fit(x, y, epochs=2, callbacks=[monitor])
    assert monitor.epochs == [5, 6]
    assert "epoch 6: vanishing gradient" in monitor.report()
    fo.Trainer(fo.mlp(4, [5], 2, seed=0), "cross_entropy").fit(x, y, callbacks=[monitor])
    assert (list(monitor.gradient_norms), monitor.epochs) == (["0.weight", "1.weight"], [0]), "of the other network nothing is left"
    assert "no vanishing" in monitor.report()
