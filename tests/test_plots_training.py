"""Pictures of training runs: what can be seen of short and of continued runs."""

import fastopt as fo
import numpy as np
import pytest
from helpers import refuses

pytest.importorskip("matplotlib")
from fastopt import plots


def history(epochs, first=0):
    return fo.History([{"epoch": e, "loss": 2.0 / (e + 1), "val_loss": 3.0 / (e + 1)} for e in range(first, first + epochs)])


@pytest.mark.parametrize("draw", [plots.learning_curves, lambda run: plots.optimizer_comparison({"adam": run, "sgd": run})])
def test_one_epoch_is_seen(draw):
    axes = draw(history(1, first=8))
    assert all(line.get_marker() == "o" for line in axes.get_lines() if len(line.get_xdata()) == 1)
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [9.0]


def test_lines_of_several_epochs_have_no_dots():
    axes = plots.learning_curves(history(4))
    assert [line.get_marker() for line in axes.get_lines() if len(line.get_xdata()) == 4] == ["None", "None"]


@pytest.mark.parametrize("layers", [2, 12])
def test_gradient_norms(layers, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)), np.arange(40) % 2
    trainer = fo.Trainer(fo.mlp(4, [8] * layers, 2, activation="tanh", seed=0), "cross_entropy")
    trainer.fit(x, y, epochs=3)
    monitor = fo.callbacks.GradientMonitor()
    trainer.fit(x, y, epochs=2, callbacks=[monitor])
    axes = plots.gradient_norms(monitor)
    assert len(axes.get_lines()) == layers + 1
    assert axes.get_lines()[0].get_xdata().tolist() == [4, 5], "epochs of the trainer, as in its history"
    plots.save(axes, str(tmp_path / "norms.png"))
    beside = axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert beside == (layers > 6), "a long legend hides no line"


def test_many_runs_have_their_legend_beside_the_picture(tmp_path):
    """In columns that fit, whatever their names begin with."""
    runs = {f"_run {i}": history(3 + i % 2) for i in range(40)}
    axes = plots.optimizer_comparison(runs)
    plots.save(axes, str(tmp_path / "runs.png"))
    legend, figure = axes.get_legend(), axes.get_figure()
    assert len(legend.get_texts()) == len(runs)
    box = legend.get_window_extent()
    assert box.x0 >= axes.get_window_extent().x1
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height
    assert axes.get_window_extent().width > 0.4 * figure.bbox.width


def test_layers_are_counted_with_those_that_are_frozen():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 4))
    dense = fo.layers.Dense
    for trained, places in (((False, True, True), [2, 3]), ((True, False, True), [1, 3])):
        net = fo.Network(4, [dense(3 if i < 2 else 1, trainable=each) for i, each in enumerate(trained)], seed=0)
        monitor = fo.callbacks.GradientMonitor()
        fo.Trainer(net, "mse").fit(x, x[:, 0], epochs=2, callbacks=[monitor])
        assert plots.gradient_norms(monitor, epoch=-1).get_lines()[0].get_xdata().tolist() == places


def test_figures_that_a_logarithm_or_an_axis_cannot_show():
    lost = fo.History([{"epoch": e, "loss": float("nan")} for e in range(5)])
    assert plots.learning_curves(lost).get_xlim() == (0.5, 5.5)
    net = fo.Network(2, [fo.layers.Dense(1, init="zeros")])
    monitor = fo.callbacks.GradientMonitor()
    fo.Trainer(net, "mse").fit(np.ones((8, 2)), np.zeros(8), epochs=2, callbacks=[monitor])
    assert plots.gradient_norms(monitor).get_yscale() == "linear"
    found = fo.callbacks.LearningRateFinder(low=1e15, high=1e30).run(
        fo.Trainer(fo.mlp(2, [3], 1, seed=0), "mse"), np.ones((8, 2)), np.ones(8)
    )
    assert len(found.losses) == 1
    assert all(line.get_marker() == "o" for line in plots.learning_rate_range(found).get_lines())


def test_refusals():
    trainer = fo.Trainer(fo.mlp(2, [2], 1, seed=0), "mse")
    refuses("a trainer", plots.learning_curves, trainer, errors=TypeError, match="got Trainer; give its history")
    refuses("nothing", plots.learning_curves, fo.History(), match="no epochs")
    refuses("another column", plots.learning_curves, history(2), columns="f1", match="no column 'f1'")
    refuses("no epoch seen", plots.gradient_norms, fo.callbacks.GradientMonitor(), match="seen no epoch")
