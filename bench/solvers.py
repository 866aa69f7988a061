"""Levenberg-Marquardt: wall time to Adam's loss, and against SciPy's."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from context import Context
from harness import summarize
from report import number

ADAM_EPOCHS, BATCH = 5000, 32
MUST_REACH_ADAM, MUST_REACH_SCIPY = 20.0, 5.0
SAME_LOSS = 1e-6
TOLERANCE = 1e-10  # relative decrease of the loss at which both Levenberg-Marquardts end


@dataclass(frozen=True)
class Problem:
    title: str
    x: np.ndarray
    y: np.ndarray
    hidden: tuple[int, ...]

    def network(self, fo: Any, dtype: str) -> Any:
        return fo.mlp(self.x.shape[1], self.hidden, 1, activation="tanh", dtype=dtype, seed=1)


def standardized(a: np.ndarray) -> np.ndarray:
    return (a - a.mean(axis=0)) / a.std(axis=0)


def problems(context: Context) -> list[Problem]:
    rng = np.random.default_rng(0)
    plane, space = rng.uniform(-1, 1, (2000, 2)), rng.uniform(-1, 1, (2000, 4))
    wave = np.sin(3 * plane[:, 0]) * np.cos(2 * plane[:, 1]) + plane[:, 0] * plane[:, 1]
    smooth = np.sin(2 * space[:, 0]) * space[:, 1] + np.exp(-(space[:, 2] ** 2)) * space[:, 3]
    found = [
        Problem("surrogate 2-12-12-1", plane, standardized(wave), (12, 12)),
        Problem("surrogate 4-12-12-1", space, standardized(smooth), (12, 12)),
    ]
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        context.report.line(f"diabetes: skipped ({error})")
        return found
    table = load_diabetes()
    return [Problem("diabetes 10-8-1", standardized(table.data), standardized(table.target), (8,)), *found]


def run(context: Context) -> None:
    context.report.begin("solvers", f"Levenberg-Marquardt to the loss of {ADAM_EPOCHS} epochs of Adam in batches of {BATCH}, seconds")
    headers = ["problem", "dtype", "Adam", "loss", "LM", "steps", "loss", "ratio", "must reach"]
    context.report.table(headers, [to_the_loss_of_adam(context, p, dtype) for p in problems(context) for dtype in ("float64", "float32")])
    scipy = context.peer("scipy")
    if scipy is not None:
        against_scipy(context, scipy)


def to_the_loss_of_adam(context: Context, problem: Problem, dtype: str) -> list[str]:
    fo = context.fo
    epochs = 100 if context.quick else ADAM_EPOCHS
    adam = fo.Trainer(problem.network(fo, dtype), "mse", fo.optimizers.Adam(learning_rate=1e-3))
    start = time.perf_counter()
    adam.fit(problem.x, problem.y, epochs=epochs, batch_size=BATCH, progress=False)
    slow = time.perf_counter() - start
    goal = adam.evaluate(problem.x, problem.y)["loss"]
    fast, history = [], None
    for _ in range(context.plan.repeats):
        trainer = fo.Trainer(problem.network(fo, dtype), "mse", fo.solvers.LevenbergMarquardt())
        start = time.perf_counter()
        history = trainer.fit(
            problem.x, problem.y, epochs=500, batch_size=None, callbacks=[lambda _, row: row["loss"] <= goal], progress=False
        )  # fmt: skip
        fast.append(time.perf_counter() - start)
    summary = summarize(fast)
    loss = history["loss"][-1]
    ratio = slow / summary.median
    reached = f"x{number(ratio)}" if loss <= goal else "not reached"
    context.report.add(f"{problem.title} {dtype}", "Adam", summarize([slow]), "s", loss=goal, epochs=epochs)
    context.report.add(f"{problem.title} {dtype}", "Levenberg-Marquardt", summary, "s", loss=loss, epochs=len(history.rows), ratio=ratio)
    goals = f"≥ {number(MUST_REACH_ADAM)}" if dtype == "float64" else "-"
    return [
        problem.title, dtype, number(slow), f"{goal:.3g}", f"{summary.median:.4f}", str(len(history.rows)), f"{loss:.3g}", reached, goals
    ]  # fmt: skip


def against_scipy(context: Context, scipy: Any) -> None:
    fo = context.fo
    units, rows = (5, 200) if context.quick else (42, 2000)
    # A network fitted to the outputs of another one with a little noise, from weights nearby: both methods must end in the same minimum.
    rng = np.random.default_rng(1)
    teacher = fo.mlp(10, [units], 1, activation="tanh", dtype="float64", seed=2)
    for view in teacher.parameters.values():
        view *= 3
    x = rng.standard_normal((rows, 10))
    y = teacher(x) + 1e-4 * rng.standard_normal((rows, 1))
    begin = [view + 0.02 * rng.standard_normal(view.shape) for view in teacher.parameters.values()]

    def student() -> Any:
        net = teacher.copy()
        for view, value in zip(net.parameters.values(), begin, strict=True):
            view[...] = value
        return net

    title = f"{teacher.num_parameters} parameters x {rows} rows"
    context.report.begin("solvers", f"Levenberg-Marquardt on {title}, the same start, to a relative decrease of {TOLERANCE:g}, seconds")
    start = time.perf_counter()
    theirs = scipy.levenberg_marquardt(student(), x, y, TOLERANCE)
    slow = time.perf_counter() - start
    fast, history = [], None
    for _ in range(3):
        last = [np.inf]

        def ended(_: Any, row: dict[str, Any], last: list[float] = last) -> bool:
            before, last[0] = last[0], row["loss"]
            return before - row["loss"] <= TOLERANCE * row["loss"]

        trainer = fo.Trainer(student(), "mse", fo.solvers.LevenbergMarquardt())
        start = time.perf_counter()
        history = trainer.fit(x, y, epochs=500, batch_size=None, callbacks=[ended], progress=False)
        fast.append(time.perf_counter() - start)
    ours, summary = history["loss"][-1], summarize(fast)
    gap = abs(ours - theirs) / theirs
    context.report.add(title, "SciPy", summarize([slow]), "s", loss=theirs)
    context.report.add(title, "fastopt", summary, "s", loss=ours, epochs=len(history.rows), ratio=slow / summary.median, gap=gap)
    times = [f"{slow:.3f}", f"{summary.median:.3f}", str(len(history.rows))]
    row = [title, *times, f"{ours:.9g}", f"{gap:.1e}", f"x{number(slow / summary.median)}"]
    context.report.table(
        ["network", "SciPy", "fastopt", "steps", "loss", "gap", "ratio", "must reach"],
        [[*row, f"≥ {number(MUST_REACH_SCIPY)}, gap ≤ {SAME_LOSS:g}"]],
    )
