"""What the first lectures on optimization draw, as one picture: learning rates, momentum, a saddle, Newton's method, local minima.

python -m fastopt.examples.descent [--gif descent.gif]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import plots
from fastopt.errors import missing_package
from fastopt.examples import _arguments

Runs = dict[str, fo.MinimizeResult]


def learning_rates() -> Runs:
    """Gradient descent on x^2 from 2.5: too small, good, too large."""
    rates = {"too small, 0.03": 0.03, "good, 0.35": 0.35, "too large, 1.02": 1.02}
    methods = {label: fo.solvers.GradientDescent(learning_rate=rate) for label, rate in rates.items()}
    return {
        label: fo.minimize(lambda x: x * x, 2.5, grad=lambda x: 2.0 * x, method=method, max_steps=12, record=True)
        for label, method in methods.items()
    }


def momentum(f: fo.functions.Function) -> Runs:
    """A valley: plain steps zigzag, momentum does not."""
    sgd = fo.optimizers.SGD
    methods = {
        "plain": sgd(learning_rate=0.037),
        "momentum 0.8": sgd(learning_rate=0.012, momentum=0.8),
        "Nesterov 0.8": sgd(learning_rate=0.012, momentum=0.8, nesterov=True),
    }
    return _runs(f, [-4.0, 1.2], methods, 60)


def saddle(f: fo.functions.Function) -> Runs:
    """Optimizers that leave a saddle, which the start is drawn to."""
    o = fo.optimizers
    methods = {
        "SGD": o.SGD(learning_rate=0.1),
        "momentum": o.SGD(learning_rate=0.1, momentum=0.8),
        "RMSProp": o.RMSProp(learning_rate=0.05),
        "Adam": o.Adam(learning_rate=0.1),
        "Rprop": o.Rprop(learning_rate=0.1),
    }
    return _runs(f, f.start, methods, 40)


def newton(f: fo.functions.Function) -> Runs:
    """Gradient descent on an ellipse, by the rate and with the best step along each gradient, and Newton's one step."""
    solvers = fo.solvers
    methods = {
        "gradient descent": solvers.GradientDescent(learning_rate=0.15),
        "with line search": solvers.GradientDescent(learning_rate=0.3, line_search="strong_wolfe", c2=0.1),
        "Newton": solvers.Newton(),
    }
    return _runs(f, [4.0, 1.7], methods, 60)


def minima(f: fo.functions.Function) -> Runs:
    """Plain descent stays in the first minimum that it meets; momentum rolls on to the global one."""
    sgd = fo.optimizers.SGD
    return _runs(f, [4.6], {"plain": sgd(learning_rate=0.008), "momentum 0.9": sgd(learning_rate=0.004, momentum=0.9)}, 80)


def _runs(f: fo.functions.Function, start: Any, methods: dict[str, Any], steps: int) -> Runs:
    return {name: fo.minimize(f, start, grad=f.grad, hess=f.hess, method=m, max_steps=steps, record=True) for name, m in methods.items()}


def main() -> None:
    """Draw six panels into descent.png and print where each run ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=_arguments.picture, default="descent.png")
    parser.add_argument("--gif", type=_arguments.picture, default="", help="also write the saddle as an animation")
    args = parser.parse_args()
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plot", "Drawing") from None

    valley = fo.functions.Quadratic(curvatures=(1.0, 50.0), angle=-0.1)
    ellipse, col, double = fo.functions.quadratic, fo.functions.saddle, fo.functions.styblinski_tang
    panels: list[tuple[str, Any, Runs, Any]] = [
        ("learning rate on $x^2$", lambda x: x * x, learning_rates(), (-3.6, 3.6)),
        ("momentum in a valley, condition 50", valley, momentum(valley), ((-4.6, 1.6), (-1.6, 1.9))),
        ("leaving a saddle, 40 steps", col, saddle(col), ((-1.0, 1.8), (-1.4, 1.4))),
        ("Newton against gradient descent", ellipse, newton(ellipse), ((-1.5, 4.5), (-1.9, 2.3))),
        ("local and global minimum", double, minima(double), (-4.6, 4.8)),
    ]
    figure = Figure(figsize=(15, 8.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for ax, (title, f, runs, bounds) in zip(axes, panels, strict=False):
        plots.trajectory(f, runs, bounds=bounds, optimum=0.0 if ax is axes[0] else None, ax=ax, title=title)
        print(title)
        for name, run in runs.items():
            print(f"  {name:<18} {run.n_steps:>3} steps to x = {np.round(run.x, 4)}, f = {run.fun:.3g}")
    rosenbrock = fo.functions.rosenbrock
    o, s = fo.optimizers, fo.solvers
    race = {
        "Newton": s.Newton(),
        "L-BFGS": s.LBFGS(),
        "Adam, 0.05": o.Adam(learning_rate=0.05),
        "Nesterov 0.97": o.SGD(learning_rate=3e-4, momentum=0.97, nesterov=True),
        "backtracking": s.GradientDescent(line_search="backtracking"),
    }
    runs = _runs(rosenbrock, rosenbrock.start, race, 1500)
    plots.convergence(runs, ax=axes[5], title="Rosenbrock's valley", optimum=0.0)
    axes[5].set_xscale("symlog", linthresh=10)
    axes[5].set_xlim(0, 1600)
    axes[5].set_ylim(1e-17, 100)
    figure.savefig(args.picture)
    print(f"pictures in {args.picture}")
    if args.gif:
        plots.animation(args.gif, col, saddle(col), bounds=panels[2][3], title="leaving a saddle")
        print(f"animation in {args.gif}")


if __name__ == "__main__":
    main()
