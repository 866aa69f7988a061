"""Hessian-vector products, Hessians, Jacobians and Gauss-Newton matrices against differences of the gradient and against each other."""

import fastopt as fo
import numpy as np
import pytest
from fastopt._native import FLOAT64, SECOND_ORDER, native_loss, prepare_target
from helpers import close, loss_cases, make_target, refuses
from native import DTYPES, core

SMOOTH = [name for name in core.loss_names() if native_loss(fo.losses.get(name), FLOAT64).smooth]
KINKED = ("mae", "quantile", "hinge", "multiclass_hinge", "perceptron")


def flat(net):
    return np.concatenate([view.ravel() for view in net.parameters.values()])


def put(net, values):
    at = 0
    for view in net.parameters.values():
        view[...] = values[at : at + view.size].reshape(view.shape)
        at += view.size


def gradient(net, loss, x, y, weight):
    """Value and gradient in inference mode."""
    out = np.empty(net.num_parameters, net.dtype)
    target = prepare_target(loss, net.outputs, y, net.dtype, "y")
    value = SECOND_ORDER[net.dtype](net._native).gradient(native_loss(loss, net.dtype), x, target, weight, out)
    return value, out


def differences(net, loss, x, y, weight, v, h=1e-4):
    """The gradient's derivative along v, by differences of fourth order."""
    start = flat(net)

    def at(t):
        put(net, start + t * v)
        return gradient(net, loss, x, y, weight)[1]

    out = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    put(net, start)
    return out


def check(net, loss, x, y, weight, what, rng):
    v = rng.standard_normal(net.num_parameters)
    v /= np.linalg.norm(v)
    expected = differences(net, loss, x, y, weight, v)
    close(net.hvp(loss, x, y, v, weight), expected, 1e-6, what, floor=1e-3)


def rich(activation, rng, dtype="float64", outputs=3):
    """Every kind of layer, moved off the start."""
    parts = [fo.layers.Standardize(), fo.layers.Dense(7, activation=activation), fo.layers.BatchNorm(), fo.layers.Activation(activation),
             fo.layers.Dropout(0.3), fo.layers.Dense(6), fo.layers.Activation(activation), fo.layers.Activation("tanh"),
             fo.layers.Dense(outputs)]  # fmt: skip
    net = fo.Network(5, parts, dtype=dtype, seed=1)
    x = rng.standard_normal((40, 5))
    net.adapt(x)
    net.forward(x, training=True)
    for view in net.parameters.values():
        view += 0.3 * rng.standard_normal(view.shape)
    return net


@pytest.mark.parametrize("activation", core.activation_names())
def test_every_activation(activation):
    rng = np.random.default_rng(41)
    net = rich(activation, rng)
    x, y, weight = rng.standard_normal((6, 5)), rng.standard_normal((6, 3)), rng.random(6)
    check(net, fo.losses.LogCosh(), x, y, weight, activation, rng)


@pytest.mark.parametrize("name", SMOOTH)
def test_every_smooth_loss(name):
    for options, outputs, kind in loss_cases(name):
        rng = np.random.default_rng(43)
        loss = type(fo.losses.get(name))(**options)
        net = fo.mlp(4, [9], outputs, activation="silu", dtype="float64", seed=2)
        x, y = rng.standard_normal((7, 4)), make_target(kind, 7, outputs, rng)
        for weight in (None, rng.random(7)):
            check(net, loss, x, y, weight, f"{name} {options} {outputs} outputs", rng)


def test_losses_with_kinks_say_so():
    assert sorted(KINKED) == sorted(set(core.loss_names()) - set(SMOOTH))
    rng = np.random.default_rng(44)
    for name in KINKED:
        options, outputs, kind = loss_cases(name)[-1 if name == "quantile" else 0]
        net = fo.mlp(4, [3], outputs, dtype="float64")
        y = make_target(kind, 5, outputs, rng)
        loss = type(fo.losses.get(name))(**options)
        refuses(name, net.hvp, loss, rng.random((5, 4)), y, np.zeros(net.num_parameters), match=f"{name}.*kinks")
        refuses(name, net.hessian, loss, rng.random((5, 4)), y, match=f"{name}.*kinks")


def test_gradient_is_that_of_inference():
    """Without batch statistics and masks it is the gradient of training."""
    rng = np.random.default_rng(45)
    net = fo.mlp(5, [8, 6], 3, activation="gelu", standardize=True, dtype="float64", seed=3)
    x, y, weight = rng.standard_normal((2500, 5)), rng.integers(0, 3, 2500).astype(np.int32), rng.random(2500)
    net.adapt(x)
    loss = fo.losses.SoftmaxCrossEntropy()
    value, grad = gradient(net, loss, x, y, weight)
    expected, outer = loss.value_and_grad(net.forward(x, training=True), y, weight)
    net.backward(outer)
    close(value, expected, 1e-13, "value")
    close(grad, np.concatenate([g.ravel() for g in net.gradients.values()]), 1e-12, "gradient over several blocks of rows")


def test_hessian_is_made_of_products():
    rng = np.random.default_rng(46)
    net = rich("softplus", rng)
    x, y = rng.standard_normal((9, 5)), rng.standard_normal((9, 3))
    matrix = net.hessian("mse", x, y)
    np.testing.assert_array_equal(matrix, matrix.T)
    v = rng.standard_normal(net.num_parameters)
    close(matrix @ v, net.hvp("mse", x, y, v), 1e-12, "H v")


def test_jacobian():
    rng = np.random.default_rng(47)
    net = rich("tanh", rng, outputs=2)
    x, start = rng.standard_normal((1100, 5)), flat(net)
    jacobian = net.jacobian(x)
    assert jacobian.shape == (1100, 2, net.num_parameters)
    for j in range(0, net.num_parameters, 7):
        unit = np.zeros_like(start)
        unit[j] = 1e-5
        put(net, start + unit)
        above = net(x)
        put(net, start - unit)
        close(jacobian[:, :, j], (above - net(x)) / 2e-5, 1e-7, f"column {j}", floor=0.1)
    put(net, start)


@pytest.mark.parametrize("outputs", [1, 3])
def test_gauss_newton(outputs):
    """The sums over blocks are those of the whole Jacobian."""
    rng = np.random.default_rng(48)
    net = fo.mlp(4, [13, 9], outputs, activation="tanh", dtype="float64", seed=4)
    x, y, weight = rng.standard_normal((900, 4)), rng.standard_normal((900, outputs)), rng.random(900)
    matrix, grad = np.empty((net.num_parameters,) * 2), np.empty(net.num_parameters)
    value = SECOND_ORDER[FLOAT64](net._native).gauss_newton(native_loss(fo.losses.get("mse"), FLOAT64), x, y, weight, matrix, grad)
    root = np.repeat(np.sqrt(weight / weight.sum() / outputs), outputs)
    j, r = net.jacobian(x).reshape(-1, net.num_parameters) * root[:, None], (net(x) - y).ravel() * root
    close(matrix, j.T @ j, 1e-12, "J'J")
    close(grad, j.T @ r, 1e-12, "J'r")
    close(value, r @ r, 1e-13, "r'r")
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_named_vectors(dtype):
    rng = np.random.default_rng(49)
    net = rich("elu", rng, dtype)
    x, y = rng.standard_normal((5, 5)), rng.standard_normal((5, 3))
    named = {name: rng.standard_normal(view.shape) for name, view in net.parameters.items() if "bias" not in name}
    whole = np.concatenate([np.asarray(named.get(name, np.zeros(view.shape))).ravel() for name, view in net.parameters.items()])
    product, expected = net.hvp("huber", x, y, named), net.hvp("huber", x, y, whole)
    assert list(product) == list(net.parameters)
    assert expected.dtype == net.dtype
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in product.values()]), expected)


def test_bad_vectors():
    net, x, y = fo.mlp(2, [3], 1), [[1.0, 2.0]], [1.0]
    refuses("a short v", net.hvp, "mse", x, y, np.zeros(3), match=r"\(13,\).*\(3,\)")
    refuses("an unknown name", net.hvp, "mse", x, y, {"weight": np.zeros(3)}, match=r"0\.weight")
    refuses("a wrong shape", net.hvp, "mse", x, y, {"0.weight": np.zeros(3)}, match=r"\(2, 3\)")
    refuses("a Python loss", net.hvp, lambda p, y: (0.0, p), x, y, np.zeros(13), match="Python")
    refuses("no data for Standardize", fo.mlp(2, [3], 1, standardize=True).jacobian, x, match="Standardize")
    refuses("wrong columns", net.jacobian, [[1.0]], match="columns|shape")


def test_frozen_layers_are_part_of_it():
    rng = np.random.default_rng(50)
    parts = [fo.layers.Dense(4, activation="tanh", trainable=False), fo.layers.Dense(1)]
    frozen, free = fo.Network(2, parts, dtype="float64"), fo.mlp(2, [4], 1, activation="tanh", dtype="float64")
    for name, view in free.parameters.items():
        view[...] = frozen.parameters[name]
    x = rng.standard_normal((8, 2))
    np.testing.assert_array_equal(frozen.jacobian(x), free.jacobian(x))


def test_threads_do_not_change_bits():
    rng = np.random.default_rng(51)
    net = fo.mlp(20, [130, 70], 5, activation="silu", batch_norm=True, dtype="float64", seed=5)
    x, y, v = rng.standard_normal((3000, 20)), rng.integers(0, 5, 3000), rng.standard_normal(net.num_parameters)
    net.forward(x, training=True)
    results = []
    for threads in (1, 2, 3, 4):
        fo.set_num_threads(threads)
        results.append((net.hvp("cross_entropy", x, y, v), net.jacobian(x[:20])))
    for product, jacobian in results[1:]:
        np.testing.assert_array_equal(product, results[0][0])
        np.testing.assert_array_equal(jacobian, results[0][1])


def test_rows_without_weight_that_overflow():
    """Their losses and second derivatives are infinite, and have no part in products or in training by a solver."""
    rng = np.random.default_rng(16)
    x, y, weight = rng.standard_normal((12, 3)), rng.integers(0, 4, (12, 1)), np.ones(12)
    x[4], weight[4] = 1e5, 0.0
    others = weight > 0
    net = fo.mlp(3, [6], 1, activation="softplus", dtype="float64", seed=2)
    net.parameters["1.weight"][:] = 1.0
    v = rng.standard_normal(net.num_parameters)
    assert np.isinf(fo.losses.Poisson()(net(x), y)), "no row overflows"
    close(net.hvp("poisson", x, y, v, weight), net.hvp("poisson", x[others], y[others], v), 1e-12, "product")
    losses = []
    for rows in (slice(None), others):
        trainer = fo.Trainer(net.copy(), "poisson", "lbfgs")
        losses.append(trainer.fit(x[rows], y[rows], epochs=5, batch_size=None, sample_weight=weight[rows])["loss"])
    close(losses[0], losses[1], 1e-9, "losses")


def test_rows_without_weight_in_whole_blocks():
    """The first blocks of rows may have no weight at all."""
    rng = np.random.default_rng(45)
    x, y, weight = rng.standard_normal((2000, 4)), rng.standard_normal((2000, 1)), rng.random(2000) + 0.1
    weight[:700] = 0
    net = fo.Network(4, [fo.layers.Dense(5, activation="tanh"), fo.layers.Dense(1)], dtype="float64", seed=0)
    v = rng.standard_normal(net.num_parameters)
    close(net.hvp("mse", x, y, v, weight), net.hvp("mse", x[700:], y[700:], v, weight[700:]), 1e-12, "product")


def test_targets_of_either_coding():
    """0 and 1 mean -1 and 1 to losses of signs, in second derivatives too."""
    rng = np.random.default_rng(46)
    x, y, v = rng.standard_normal((40, 4)), rng.integers(0, 2, (40, 1)), rng.standard_normal(5)
    net = fo.Network(4, [fo.layers.Dense(1)], dtype="float64", seed=0)
    np.testing.assert_array_equal(net.hvp("squared_hinge", x, y, v), net.hvp("squared_hinge", x, 2 * y - 1, v))


@pytest.mark.parametrize(
    ("name", "options"), [("softmax_cross_entropy", {"label_smoothing": 0.1}), ("softmax_cross_entropy", {}), ("kl", {})]
)
def test_probabilities_that_do_not_sum_to_one(name, options):
    """The core takes any non-negative row; value, gradient and curvature agree about its sum."""
    rng = np.random.default_rng(47)
    prediction, target = rng.standard_normal((6, 5)), rng.random((6, 5)) * 2
    loss = native_loss(type(fo.losses.get(name))(**options), FLOAT64)
    grad = loss.value_and_grad(prediction, target, None)[1]
    h = 1e-6
    for i in np.ndindex(prediction.shape):
        moved = [prediction.copy() for _ in range(2)]
        moved[0][i] += h
        moved[1][i] -= h
        slope = (loss.value(moved[0], target, None) - loss.value(moved[1], target, None)) / (2 * h)
        assert abs(slope - grad[i]) < 1e-8, (name, options, i)
    net = fo.Network(4, [fo.layers.Dense(5)], dtype="float64", seed=0)
    second, x, v = SECOND_ORDER[FLOAT64](net._native), rng.standard_normal((6, 4)), rng.standard_normal(25)
    product, start, ends = np.empty(25), flat(net), [np.empty(25), np.empty(25)]
    second.hessian_vector(loss, x, target, None, v, product)
    for end, step in zip(ends, (h, -h), strict=True):
        put(net, start + step * v)
        second.gradient(loss, x, target, None, end)
    close(product, (ends[0] - ends[1]) / (2 * h), 1e-6, f"{name} {options}", floor=1e-3)
