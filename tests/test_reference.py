"""The NumPy twins against torch's golden files and against finite differences: the reference is checked before anything else is."""

import numpy as np
import pytest
from helpers import close, close_each, golden, loss_cases, make_target, numeric_gradient
from reference import activations, layers, losses, mlp, optimizers, penalties, philox, schedules


def test_losses_equal_torch():
    cases, data = golden("losses")
    for i, case in enumerate(cases):
        p, y = data[f"{i}.prediction"], data[f"{i}.target"]
        what = f"{case['name']} {case['options']} with {case['target']} targets"
        close_each(losses.LOSSES[case["name"]](p, y, **case["options"])[0], data[f"{i}.rows"], 1e-12, what, 1e-14)
        for tag, weight in (("plain", None), ("weighted", data[f"{i}.weight"])):
            value, grad = losses.value_and_grad(case["name"], p, y, weight, **case["options"])
            close(value, data[f"{i}.{tag}.value"], 1e-12, f"{what}: {tag} value")
            close(grad, data[f"{i}.{tag}.grad"], 1e-12, f"{what}: {tag} gradient")
    assert {case["name"] for case in cases} == set(losses.LOSSES), "a loss has a twin but no golden values"


@pytest.mark.parametrize("name", losses.LOSSES)
def test_loss_gradient_is_the_derivative_of_the_value(name):
    rng = np.random.default_rng(1)
    for options, outputs, kind in loss_cases(name):
        p, y, w = rng.standard_normal((6, outputs)), make_target(kind, 6, outputs, rng), rng.random(6)
        grad = losses.value_and_grad(name, p, y, w, **options)[1]
        numeric = numeric_gradient(lambda p=p, y=y, w=w, o=options: losses.value_and_grad(name, p, y, w, **o)[0], p)
        close(grad, numeric, 1e-7, f"{name} {options}")


def test_losses_are_stable_far_out():
    for name in ("bce", "softmax_cross_entropy", "kl", "focal", "hinge", "log_cosh", "multiclass_hinge"):
        kind, k = loss_cases(name)[-1][2], 3
        p = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]])
        value, grad = losses.value_and_grad(name, p, make_target(kind, 3, k, np.random.default_rng(2)))
        assert np.isfinite([value, *grad.ravel()]).all(), f"{name} overflows at logits of 1e4"


def test_activations_equal_torch():
    names, data = golden("activations")
    x = data["x"]
    for name in names:
        f, df = activations.ACTIVATIONS[name]
        with np.errstate(under="ignore"):
            close_each(f(x), data[f"{name}.value"], 1e-11, name, 1e-15)
            # torch forms 1 + tanh(u), which loses digits for very negative u: hence the absolute part
            close_each(df(x), data[f"{name}.slope"], 1e-11, f"derivative of {name}", 1e-14)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activation_slope_is_the_derivative(name):
    f, df = activations.ACTIVATIONS[name]
    x = np.linspace(-5, 5, 41) + 0.0123
    close((f(x + 1e-6) - f(x - 1e-6)) / 2e-6, df(x), 1e-8, name)


def test_batchnorm_equals_torch():
    sizes, data = golden("batchnorm")
    gamma, beta, momentum, eps = data["gamma"], data["beta"], float(data["momentum"]), float(data["eps"])
    running = np.zeros(5), np.ones(5)
    for i, m in enumerate(sizes):
        x, grad_out, what = data[f"{i}.x"], data[f"{i}.grad_out"], f"batch {i} of {m} rows"
        out, mean, inverse_std, *running = layers.batchnorm_forward(x, gamma, beta, *running, momentum, eps, first=i == 0)
        grad_x, grad_gamma, grad_beta = layers.batchnorm_backward(x, gamma, mean, inverse_std, grad_out)
        actual = {"out": out, "grad_gamma": grad_gamma, "grad_beta": grad_beta, "running_mean": running[0], "running_variance": running[1]}
        actual["inference"] = layers.batchnorm_inference(x, gamma, beta, *running, eps)
        for name, value in actual.items():
            close(value, data[f"{i}.{name}"], 1e-11, f"{what}: {name}")
        for column in range(5):  # the columns' scales lie four decades apart
            scale = np.abs(gamma[column] * inverse_std[column] * grad_out[:, column]).max()  # what the difference is made of
            close(grad_x[:, column], data[f"{i}.grad_x"][:, column], 1e-11, f"{what}: grad_x, column {column}", floor=scale)


def test_batchnorm_backward_is_the_derivative():
    rng = np.random.default_rng(3)
    x, gamma, beta, target = rng.standard_normal((5, 3)), rng.random(3), rng.random(3), rng.standard_normal((5, 3))

    def value():
        return float((layers.batchnorm_forward(x, gamma, beta, 0, 1)[0] * target).sum())

    _, mean, inverse_std, _, _ = layers.batchnorm_forward(x, gamma, beta, 0, 1)
    grads = layers.batchnorm_backward(x, gamma, mean, inverse_std, target)
    for grad, array, name in zip(grads, (x, gamma, beta), ("x", "gamma", "beta"), strict=True):
        close(grad, numeric_gradient(value, array), 1e-7, name)


def _twin_trajectory(data, case, steps):
    """Parameters after each of `kept` steps and the losses of all of them, by the twin."""
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    net = mlp.MLP(
        [{"kind": "dense", "activation": "tanh"}, {"kind": "dense"}],
        {name: data[f"start.{name}"] for name in names},
    )
    trainer = mlp.Trainer(net, "softmax_cross_entropy", case["name"], optimizer_options=case["options"])
    values, points, averages = [], [], []
    for k in range(steps):
        rows = slice(k % 5 * 8, k % 5 * 8 + 8)
        values.append(trainer.step(data["x"][rows], data["y"][rows], lr=case["learning_rate"], decay_all=case["decay"] == "all"))
        if k + 1 in data["kept"]:
            points.append(np.concatenate([net.parameters[name].ravel() for name in names]))
            averages.append(np.concatenate([a.ravel() for a in trainer.rule.evaluation_point(list(net.parameters.values()))]))
    return np.array(values), np.array(points), np.array(averages)


@pytest.mark.parametrize("source", ["optimizers", "optimizers_optax"])
def test_optimizer_trajectories_equal_the_oracle(source):
    cases, data = golden(source)
    for i, case in enumerate(cases):
        what = f"{case['name']} {case['options']}, decay on {case['decay']}"
        values, points, averages = _twin_trajectory(data, case, len(data[f"{i}.losses"]))
        close(values, data[f"{i}.losses"], 1e-9, f"{what}: losses")
        for step, point, expected in zip(data["kept"], points, data[f"{i}.points"], strict=True):
            close(point, expected, 1e-9, f"{what}: parameters after {step} steps")
        if f"{i}.evaluation" in data:
            close(averages, data[f"{i}.evaluation"], 1e-9, f"{what}: evaluation point")


def test_every_optimizer_but_one_has_a_golden_trajectory():
    covered = {case["name"] for source in ("optimizers", "optimizers_optax") for case in golden(source)[0]}
    assert set(optimizers.OPTIMIZERS) - covered == {"adagrad_norm"}, "torch and optax lack AdaGradNorm only"


def test_schedules_equal_torch():
    cases, data = golden("schedules")
    for case in cases:
        function = schedules.SCHEDULES[case["name"]]
        rates = [function(t, *case["args"], **case["options"]) for t in range(len(data[case["name"]]))]
        close_each(rates, data[case["name"]], 1e-12, case["name"], 1e-16)


def test_adagrad_norm_by_hand():
    w = [np.array([1.0, 2.0]), np.array([3.0])]
    rule = optimizers.AdaGradNorm(eps=0.0)
    rule.step(w, [np.array([3.0, 0.0]), np.array([4.0])], lr=1.0)  # norm 5
    np.testing.assert_allclose(np.concatenate(w), [0.4, 2.0, 2.2], rtol=1e-15)
    rule.step(w, [np.array([0.0, 12.0]), np.array([0.0])], lr=1.0)  # norm 13
    np.testing.assert_allclose(np.concatenate(w), [0.4, 2.0 - 12 / 13, 2.2], rtol=1e-15)


def test_philox_known_answers():
    """Published with Random123 (kat_vectors)."""
    ones = 0xFFFFFFFF
    table = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones, ones), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in table:
        assert philox.philox4x32(counter, key) == expected, f"counter {counter}, key {key}"


def test_clipping_and_penalties():
    grads = [np.array([3.0]), np.array([0.0, -4.0])]
    clipped = penalties.clip_by_norm(grads, 1.0)
    close(np.sqrt(sum((g**2).sum() for g in clipped)), 1.0, 1e-6, "norm after clipping")
    assert all((a == b).all() for a, b in zip(penalties.clip_by_norm(grads, 50.0), grads, strict=True)), "a small gradient is left alone"
    np.testing.assert_array_equal(np.concatenate(penalties.clip_by_value(grads, 3.5)), [3.0, 0.0, -3.5])
    w = np.array([0.7, -2.0, 1.5])
    numeric = numeric_gradient(lambda: penalties.penalty([w], 0.3, 0.2), w)
    close(penalties.penalty_gradient(w, 0.3, 0.2), numeric, 1e-8, "gradient of the penalty")
    assert penalties.penalty_gradient(np.zeros(1), l1=1.0)[0] == 0, "the subgradient of |w| at 0 is 0"


def test_twin_network_gradients_are_derivatives():
    rng = np.random.default_rng(4)
    specs = [{"kind": "dense", "activation": "gelu"}, {"kind": "batchnorm"}, {"kind": "dropout", "rate": 0.3}, {"kind": "dense"}]
    shapes = {"0.weight": (3, 5), "0.bias": (5,), "1.gamma": (5,), "1.beta": (5,), "3.weight": (5, 2), "3.bias": (2,)}
    buffers = {"1.mean": np.zeros(5), "1.variance": np.ones(5), "1.count": np.zeros(1)}
    net = mlp.MLP(specs, {name: rng.standard_normal(shape) for name, shape in shapes.items()}, buffers, seed=7)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))

    def value():
        net.training_step = 0  # the same dropout mask each time
        return losses.value_and_grad("mse", net.forward(x), y)[0]

    grad_x = net.backward(losses.value_and_grad("mse", net.forward(x), y)[1])
    analytic = {name: g.copy() for name, g in net.gradients.items()}
    for name, array in net.parameters.items():
        close(analytic[name], numeric_gradient(value, array), 1e-6, name, floor=1e-3)
    close(grad_x, numeric_gradient(value, x), 1e-6, "input")
