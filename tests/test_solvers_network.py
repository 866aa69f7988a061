"""Solvers through the trainer: they reach what they promise, honour penalties and weights, end with a message, resume to the same bits."""

import warnings

import fastopt as fo
import numpy as np
import pytest
from fastopt import _objective, _snapshot
from helpers import close, refuses
from native import DTYPES
from reference import solvers as twin

ALL = ("lbfgs", "newton_cg", "newton", "levenberg_marquardt")


def data(rows=120, seed=61):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 2))
    return x, np.sin(3 * x[:, 0]) * x[:, 1], rng.random(rows) + 0.1


def small(dtype="float64", seed=3, **options):
    return fo.mlp(2, [6], 1, activation="tanh", dtype=dtype, seed=seed, **options)


def weights(net):
    return np.concatenate([view.ravel() for view in net.parameters.values()])


def objective_gradient(trainer, x, y, weight):
    """Gradient of loss and penalties by the public layers: a training forward of a network without batch statistics."""
    net, options = trainer.network, trainer.options
    outer = trainer.loss.value_and_grad(net.forward(x, training=True), y, weight)[1]
    net.backward(outer.astype(net.dtype))
    parts = []
    for name, grad in net.gradients.items():
        w = net.parameters[name]
        own = name.endswith("weight")
        parts.append((grad + own * (2 * options["l2"] * w + options["l1"] * np.sign(w))).ravel())
    return np.concatenate(parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", ALL)
def test_they_descend_to_a_minimum(solver, dtype):
    x, y, weight = data()
    trainer = fo.Trainer(small(dtype), "mse", solver, l2=1e-3)
    history = trainer.fit(x, y, epochs=600, batch_size=None, sample_weight=weight)
    total = np.add(history["loss"], history["penalty"])
    assert (np.diff(total) <= 1e-6 * total[:-1]).all(), "a step made the objective larger"
    assert np.abs(objective_gradient(trainer, x, y, weight)).max() < (1e-6 if dtype == "float64" else 2e-3)
    assert trainer.steps == len(history.rows)
    evaluated = trainer.evaluate(x, y, sample_weight=weight)["loss"]
    close(evaluated, history["loss"][-1], 1e-12 if dtype == "float64" else 1e-5, "the last loss is that of the network")


@pytest.mark.parametrize("loss", ["huber", "log_cosh"])
@pytest.mark.parametrize("solver", ALL[:3])
def test_other_losses(solver, loss):
    x, y, _ = data()
    trainer = fo.Trainer(small(), loss, solver, l2=1e-4)
    history = trainer.fit(x, y, epochs=150, batch_size=None)
    assert history["loss"][-1] < 0.1 * history["loss"][0]


@pytest.mark.parametrize("solver", ALL)
def test_l1_is_a_subgradient(solver):
    x, y, _ = data()
    trainer = fo.Trainer(small(), "mse", solver, l1=1e-4)
    with pytest.warns(UserWarning, match="may stop short of the optimum .* L1") as seen:
        history = trainer.fit(x, y, epochs=60, batch_size=None)
    assert [each.filename for each in seen] == [__file__]
    assert not history.message or history.message.endswith("perhaps at a kink of the l1 penalty, where an optimizer goes on")
    total = np.add(history["loss"], history["penalty"])
    assert total[-1] < 0.5 * total[0]


def test_levenberg_marquardt_is_its_twin():
    """The same damped steps as a plain loop over the whole Jacobian."""
    x, y, weight = data()
    net = small()
    start = weights(net)
    trainer = fo.Trainer(net, "mse", fo.solvers.LevenbergMarquardt(damping=0.1), l2=1e-3)
    history = trainer.fit(x, y, epochs=8, batch_size=None, sample_weight=weight)
    copy = small()
    decay = np.concatenate([np.full(view.size, 1e-3 * name.endswith("weight")) for name, view in copy.parameters.items()])
    root = np.sqrt(weight / weight.sum())

    def residuals(w):
        at = 0
        for view in copy.parameters.values():
            view[...] = w[at : at + view.size].reshape(view.shape)
            at += view.size
        return root * (copy(x)[:, 0] - y), root[:, None] * copy.jacobian(x)[:, 0]

    w, losses, damping = twin.levenberg_marquardt(residuals, start, decay, damping=0.1, steps=8)
    close(weights(net), w, 1e-8, "weights")
    close(history["loss"], losses, 1e-9, "losses")
    close(history["damping"], damping, 1e-7, "damping")


def test_linear_networks_need_one_newton_step():
    rng = np.random.default_rng(62)
    x = rng.standard_normal((50, 3))
    y, weight = x @ [1.0, -2.0, 0.5] + 3 + 0.1 * rng.standard_normal(50), rng.random(50)
    design = np.column_stack([x, np.ones(50)]) * np.sqrt(weight)[:, None]
    expected = np.linalg.lstsq(design, y * np.sqrt(weight), rcond=None)[0]
    for solver in (fo.solvers.Newton(), fo.solvers.NewtonCG(), fo.solvers.LevenbergMarquardt(damping=1e-10)):
        net = fo.Network(3, [fo.layers.Dense(1)], dtype="float64")
        fo.Trainer(net, "mse", solver).fit(x, y, epochs=1 if solver.name != "newton_cg" else 8, batch_size=None, sample_weight=weight)
        close(weights(net), expected, 1e-6, solver.name)


def test_geodesic_acceleration():
    x, y, _ = data()
    trainer = fo.Trainer(small(), "mse", fo.solvers.LevenbergMarquardt(geodesic=True))
    history = trainer.fit(x, y, epochs=60, batch_size=None)
    assert history["loss"][-1] < 1e-4


@pytest.mark.parametrize("solver", ALL)
def test_frozen_layers_stay(solver):
    x, y, _ = data()
    net = fo.Network(2, [fo.layers.Dense(6, activation="tanh", trainable=False), fo.layers.Dense(1)], dtype="float64")
    before = net.parameters["0.weight"].copy()
    history = fo.Trainer(net, "mse", solver).fit(x, y, epochs=40, batch_size=None)
    np.testing.assert_array_equal(net.parameters["0.weight"], before)
    assert history["loss"][-1] < history["loss"][0]


def test_classification_and_several_layers():
    rng = np.random.default_rng(63)
    x = rng.standard_normal((300, 4))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    for solver in ("lbfgs", "newton_cg"):
        net = fo.mlp(4, [16, 16], 2, activation="silu", standardize=True, batch_norm=True, dtype="float64", seed=2)
        trainer = fo.Trainer(net, "cross_entropy", solver, l2=1e-4)
        history = trainer.fit(x, y, epochs=80, batch_size=None, validation=0.2, metrics=["accuracy"], class_weight="balanced")
        assert trainer.evaluate(x, y, metrics=["accuracy"])["accuracy"] > 0.9, solver
        assert {"val_loss", "accuracy"} & set(history)


def test_the_trainer_around_it():
    """Callbacks, early stopping, validation: the loop is the trainer's own."""
    x, y, _ = data()
    seen = []
    trainer = fo.Trainer(small(), "mse", "lbfgs")
    history = trainer.fit(
        x, y, epochs=500, batch_size=None, validation=0.25,
        callbacks=[fo.callbacks.EarlyStopping(patience=3, min_delta=1e-3), lambda trainer, row: seen.append(row["loss"])],
    )  # fmt: skip
    assert len(history.rows) < 500
    assert seen == history["loss"]
    again = trainer.fit(x, y, epochs=2, batch_size=None)
    assert again["epoch"] == [len(history.rows), len(history.rows) + 1]


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_lbfgs_in_float32_never_stalls(scale):
    """At the end of what float32 can show it stops with a message, on finite weights no worse than before."""
    x, y, _ = data()
    trainer = fo.Trainer(small("float32"), "mse", "lbfgs")
    history = trainer.fit(x, scale * y, epochs=20_000, batch_size=None)
    assert np.isfinite(weights(trainer.network)).all()
    assert np.isfinite(history["loss"]).all()
    assert len(history.rows) < 20_000
    assert history.message.startswith("LBFGS: ")
    assert min(history["loss"]) >= history["loss"][-1] * (1 - 1e-5), "it ended where it was best"


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_data_after_the_end(dtype):
    """The next fit does not begin with the damping that the last one ended with, and the message is that of the last fit."""
    rng = np.random.default_rng(65)
    few, many = rng.uniform(-1, 1, (30, 2)), rng.uniform(-1, 1, (200, 2))

    def f(x):
        return np.sin(3 * x[:, 0]) * x[:, 1]

    trainer = fo.Trainer(fo.mlp(2, [10], 1, activation="tanh", seed=0, dtype=dtype), "mse", "lm")
    assert trainer.fit(few, f(few), epochs=3000, batch_size=None).message != ""
    before = trainer.evaluate(many, f(many))["loss"]
    assert trainer.fit(many, f(many), epochs=50, batch_size=None)["loss"][-1] < 0.1 * before
    trainer.fit(many + 0.3, f(many) + 1, epochs=1, batch_size=None)
    assert trainer.history.message == ""


def test_a_finished_solver_says_so_again():
    rng = np.random.default_rng(64)
    x = rng.standard_normal((30, 2))
    net = fo.Network(2, [fo.layers.Dense(1)], dtype="float64")
    trainer = fo.Trainer(net, "mse", "lm")
    first = trainer.fit(x, x @ [1.0, 2.0] + 1, epochs=100, batch_size=None)
    assert len(first.rows) < 100
    assert "LevenbergMarquardt" in first.message
    second = trainer.fit(x, x @ [1.0, 2.0] + 1, epochs=5, batch_size=None)
    assert len(second.rows) <= 1
    assert trainer.fit(x, rng.standard_normal(30), epochs=1, batch_size=None).message == ""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", ALL)
def test_resume_to_the_same_bits(solver, dtype, tmp_path):
    x, y, weight = data()

    def fit(trainer, epochs):
        trainer.fit(x, y, epochs=epochs, batch_size=None, sample_weight=weight)

    whole = fo.Trainer(small(dtype), "mse", solver, l2=1e-4)
    fit(whole, 12)
    half = fo.Trainer(small(dtype), "mse", solver, l2=1e-4)
    fit(half, 7)
    half.save(tmp_path / "half.safetensors")
    resumed = fo.Trainer.load(tmp_path / "half.safetensors")
    assert resumed.optimizer == half.optimizer
    fit(resumed, 5)
    np.testing.assert_array_equal(weights(resumed.network), weights(whole.network))


def test_threads_do_not_change_bits():
    x, y, _ = data(3000)
    results = []
    for threads in (1, 2, 4):
        fo.set_num_threads(threads)
        for solver in ("lbfgs", "lm"):
            net = fo.mlp(2, [40, 30], 1, activation="tanh", dtype="float64", seed=1)
            fo.Trainer(net, "mse", solver).fit(x, y, epochs=2, batch_size=None)
            results.append(weights(net))
    for i, result in enumerate(results[2:]):
        np.testing.assert_array_equal(result, results[i % 2])


def test_refusals():
    x, y, _ = data(20)
    solvers = fo.solvers
    big = fo.mlp(2, [100, 40], 1)
    refuses("too many parameters", fo.Trainer, big, "mse", "lm", match="LBFGS or solvers.NewtonCG")
    fo.Trainer(big, "mse", solvers.LevenbergMarquardt(max_parameters=5000))
    refuses("Newton on a large network", fo.Trainer, big, "mse", "newton", match="NewtonCG")
    refuses("not a squared error", fo.Trainer, small(), "huber", "lm", match="mse.*LBFGS")
    refuses("kinks", fo.Trainer, small(), "mae", "newton_cg", match="kinks")
    refuses("a Python loss", fo.Trainer, small(), lambda p, y: (0.0, p), "lbfgs", match="loss of fastopt")
    refuses("gradient descent", fo.Trainer, small(), "mse", "gradient_descent", match="SGD")
    refuses("dropout", fo.Trainer, small(dropout=0.5), "mse", "lbfgs", match="Dropout")
    refuses("clipping", fo.Trainer, small(), "mse", "lbfgs", clip_norm=1.0, match="clip_norm")
    for solver in ("lbfgs", "newton", "newton_cg", "lm"):
        held = fo.Network(2, [fo.layers.Dense(3, learning_rate_multiplier=0.0), fo.layers.Dense(1)])
        refuses("a rate of a layer", fo.Trainer, held, "mse", solver, match="learning_rate_multiplier of layer 0.*trainable=False")
    refuses("no statistics", small().adapt, x, match="Standardize")
    trainer = fo.Trainer(small(), "mse", "lbfgs")
    before = weights(trainer.network)
    refuses("mini-batches", trainer.fit, x, y, match="batch_size=None")
    refuses("a stream", trainer.fit, [(x, y)], batch_size=None, match="arrays")
    refuses("one step", trainer.step, x, y, match="no single steps")
    np.testing.assert_array_equal(weights(trainer.network), before)


@pytest.mark.parametrize("solver", ["lbfgs", "newton", "newton_cg", "lm"])
def test_nothing_left_to_do(solver):
    """At a minimum, to the last bit, every solver says so."""
    net = fo.mlp(3, [3], 1, dtype="float64")
    assert fo.Trainer(net, "mse", solver).fit(np.zeros((20, 3)), np.zeros(20), epochs=5, batch_size=None).message.endswith("gradient is 0")


def test_columns_of_very_different_units():
    x = np.random.default_rng(0).standard_normal((50, 2)) * [1.0, 1e8]
    trainer = fo.Trainer(fo.Network(2, [fo.layers.Dense(1)], dtype="float64"), "mse", "newton")
    assert trainer.fit(x, x[:, 0] + x[:, 1] / 1e8 + 0.5, epochs=20, batch_size=None)["loss"][-1] < 1e-20


def test_a_loss_that_is_not_finite():
    x, y, _ = data(20)
    net = small()
    net.parameters["0.weight"][0, 0] = np.nan
    for solver in ALL:
        refuses(solver, fo.Trainer(net, "mse", solver).fit, x, y, batch_size=None, errors=fo.NonFiniteLossError, match="nan")


@pytest.mark.parametrize("solver", ALL)
def test_a_fit_that_is_refused_changes_nothing(solver):
    """What a solver remembers is state as well: it goes on as if that fit had never been."""
    x, y, _ = data()
    trainer, undisturbed = fo.Trainer(small(), "mse", solver), fo.Trainer(small(), "mse", solver)
    for each in (trainer, undisturbed):
        each.fit(x, y, epochs=4, batch_size=None)
    before = trainer.state_dict()
    with pytest.raises(fo.NonFiniteLossError):
        trainer.fit(x, 1e300 * y, epochs=3, batch_size=None)
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    rows = [each.fit(x, y, epochs=3, batch_size=None).rows for each in (trainer, undisturbed)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("solver", ALL)
def test_back_to_the_step_before(solver):
    """What a fit puts back when weights turn out to be broken after a step that the solver has remembered."""
    x, y, _ = data()
    trainer = fo.Trainer(small(), "mse", solver)
    for epochs in (1, 12):  # the second time L-BFGS has used all of its slots
        trainer.fit(x, y, epochs=epochs, batch_size=None)
        before, snapshot = trainer.state_dict(), _snapshot.Snapshot(trainer)
        snapshot.take()
        trainer.fit(x, y, epochs=1, batch_size=None)
        assert any((value != before[name]).any() for name, value in trainer.state_dict().items())
        snapshot.restore()
        for name, value in trainer.state_dict().items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_quiet():
    x, y, _ = data(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for solver in ALL:
            fo.Trainer(small(), "mse", solver).fit(1e3 * x, 1e6 * y, epochs=30, batch_size=None)


@pytest.mark.parametrize("name", ALL)
def test_an_interrupt_leaves_a_step_that_ended(name, monkeypatch):
    """Wherever it falls, and what goes on from there ends where an uninterrupted run does."""
    x, y, _ = data(40)

    def trainer_of():
        return fo.Trainer(small(), "mse", fo.solvers.LBFGS(history=3) if name == "lbfgs" else fo.solvers.get(name))

    reference, steps = trainer_of(), 6
    losses = reference.fit(x, y, epochs=steps, batch_size=None)["loss"]
    interrupted = 0
    for method in ("write", "read", "settle", "value_and_grad", "gauss_newton"):
        original = getattr(_objective.Objective, method)
        for late in (False, True):
            for call in range(1, 20, 1 if method == "write" else 4):
                trainer, calls = trainer_of(), 0

                def interrupt(self, *arguments, original=original, late=late, call=call):
                    nonlocal calls
                    calls += 1
                    if calls == call and not late:
                        raise KeyboardInterrupt
                    found = original(self, *arguments)
                    if calls == call:
                        raise KeyboardInterrupt
                    return found

                with monkeypatch.context() as patch:
                    patch.setattr(_objective.Objective, method, interrupt)
                    try:
                        trainer.fit(x, y, epochs=steps, batch_size=None)
                    except KeyboardInterrupt:
                        interrupted += 1
                where = f"{name}, {method} {call} {late}"
                done = trainer.steps
                assert done == trainer.epoch == len(trainer.history.rows), where
                if done:
                    close(trainer.evaluate(x, y)["loss"], losses[done - 1], 1e-12, where)
                if done < steps:
                    trainer.fit(x, y, epochs=steps - done, batch_size=None)
                close(weights(trainer.network), weights(reference.network), 1e-9, where)
    assert interrupted > 10
