"""Pictures of minimization: what is in them, and that files are written."""

import fastopt as fo
import numpy as np
import pytest
from helpers import refuses

pytest.importorskip("matplotlib")
from fastopt import plots

f = fo.functions.himmelblau


def run(method="lbfgs", **options):
    return fo.minimize(f, f.start, grad=f.grad, hess=f.hess, method=method, record=True, **options)


def test_trajectory(tmp_path):
    runs = {"L-BFGS": run(), "Newton": run("newton")}
    ax = plots.trajectory(f, runs, title="two ways")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["L-BFGS", "Newton"]
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert np.array_equal(lines["Newton"], runs["Newton"].trajectory)
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    assert len(stars) == 4
    assert ax.get_xlim() == f.bounds[0]
    plots.save(ax, str(tmp_path / "path.png"))
    assert (tmp_path / "path.png").stat().st_size > 10_000


def test_contours_are_spaced_by_logarithms():
    ax = plots.trajectory(f, run(), levels=9)
    levels = ax.collections[-1].levels
    assert len(levels) == 9
    assert np.allclose(np.diff(np.log(levels)), np.log(levels[1] / levels[0]))


def test_other_functions():
    """One without bounds or minima: the picture holds the paths; of one variable: points lie on the curve."""
    two = fo.minimize(lambda x: float(((x - 3) ** 2).sum()), [0.0, 1.0], record=True)
    ax = plots.trajectory(lambda x: float(((x - 3) ** 2).sum()), two, optimum=[3.0, 3.0])
    assert ax.get_xlim()[0] < 0 < 3 < ax.get_xlim()[1]
    for x0 in (2.0, [2.0]):
        one = fo.minimize(lambda x: float(np.sum(x**2)), x0, record=True)
        ax = plots.trajectory(lambda x: float(np.sum(x**2)), {"a": one}, bounds=(-3, 3), optimum=0.0)
        (path,) = [line.get_xydata() for line in ax.lines if line.get_label() == "a"]
        assert np.allclose(path[:, 1], path[:, 0] ** 2)


def test_convergence():
    runs = {"L-BFGS": run(), "Newton": run("newton")}
    steps = plots.convergence(runs, optimum=0.0)
    assert steps.get_yscale() == "log"
    assert steps.get_xlabel() == "steps"
    seconds = plots.convergence(runs, against="seconds", optimum=0.0, ax=plots.trajectory(f, runs).figure.add_subplot())
    assert seconds.get_xlabel() == "seconds"
    history = fo.History([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}], [0.5, 0.25])
    ax = plots.convergence({"adam": history}, against="seconds")
    assert np.array_equal(ax.lines[0].get_xydata(), [[0.5, 2.0], [0.75, 1.0]])
    assert plots.convergence(history).get_xlabel() == "epochs"


def test_animation(tmp_path):
    path = tmp_path / "run.gif"
    plots.animation(str(path), f, {"L-BFGS": run()}, frames=8, fps=2)
    with pytest.importorskip("PIL.Image").open(path) as image:
        assert image.format == "GIF"
        assert image.n_frames >= 4


def test_refusals():
    unrecorded = fo.minimize(f, f.start, grad=f.grad)
    refuses("no record", plots.trajectory, f, unrecorded, match="record=True")
    refuses("no record", plots.convergence, unrecorded, match="record=True")
    refuses("nothing", plots.trajectory, f, {}, match="empty")
    refuses("nothing", plots.convergence, {}, match="empty")
    refuses("against", plots.convergence, run(), against="epochs", match="'steps' or 'seconds'")
    refuses("bounds", plots.trajectory, f, run(), bounds=(0, 1), match="bounds")
    refuses("negative", plots.convergence, run(), optimum=1e9, match="optimum")
    three = fo.minimize(fo.functions.rosenbrock, np.zeros(3), record=True)
    refuses("three variables", plots.trajectory, f, three, match="3")


def test_a_function_that_is_finite_nowhere():
    refuses(
        "two variables", plots.trajectory, lambda x: np.nan, run(), bounds=((0, 1), (0, 1)), match="fun is finite nowhere in the bounds"
    )


def test_many_paths_have_their_legend_beside_the_picture():
    axes = plots.trajectory(f, {f"run {i}": run() for i in range(15)})
    axes.get_figure().draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
