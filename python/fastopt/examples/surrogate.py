"""A smooth function of four variables, fitted by a 4-20-20-1 tanh network with Adam, L-BFGS and Levenberg-Marquardt for the same time.

The function is the water flow through a borehole in its four most important variables, scaled to [-1, 1] (Morris, Mitchell and Ylvisaker
1993).

python -m fastopt.examples.surrogate
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastopt as fo
from fastopt import plots
from fastopt.examples import _arguments

Array = NDArray[np.float64]

METHODS: dict[str, tuple[Any, int | None]] = {  # and the size of a batch
    "Adam, batches of 32": (fo.optimizers.Adam(learning_rate=fo.schedules.exponential_decay(3e-3, 0.5, every=40_000)), 32),
    "L-BFGS": (fo.solvers.LBFGS(history=20), None),
    "Levenberg-Marquardt": (fo.solvers.LevenbergMarquardt(geodesic=True), None),
}


def borehole(x: Array) -> Array:
    """Flow for radius of the hole, two heads and length in [-1, 1], the rest at the middle of its range; mean 0 and variance near 1."""
    low, high = np.array([0.05, 990.0, 700.0, 1120.0]), np.array([0.15, 1110.0, 820.0, 1680.0])
    radius, upper, lower, length = (low + 0.5 * (x + 1.0) * (high - low)).T
    transmissivity, influence, conductivity = 89_335.0, 25_050.0, 10_950.0
    log_ratio = np.log(influence / radius)
    leak = 2.0 * length * transmissivity / (log_ratio * radius**2 * conductivity)
    flow: Array = 2.0 * np.pi * transmissivity * (upper - lower) / (log_ratio * (1.0 + leak + transmissivity / 89.55))
    scaled: Array = (flow - flow.mean()) / flow.std()
    return scaled


class Clock(fo.callbacks.Callback):
    """Ends a fit after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_fit_begin(self, trainer: fo.Trainer) -> None:
        self.end = time.perf_counter() + self.seconds

    def on_epoch_end(self, trainer: fo.Trainer, row: dict[str, Any]) -> bool:
        return time.perf_counter() >= self.end


def main() -> None:
    """Train by each method, print the errors, write surrogate.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="points to train on; a fifth of them more to test")
    parser.add_argument("--seconds", type=_arguments.seconds, default=4.0, help="for each method")
    parser.add_argument("--picture", type=_arguments.picture, default="surrogate.png")
    args = parser.parse_args()
    if args.rows < 5:
        parser.error(f"--rows must be at least 5, so that there is one to test; got {args.rows}")

    points = np.random.default_rng(0).uniform(-1.0, 1.0, (args.rows * 6 // 5, 4))
    target = borehole(points)
    (x, y), test = (points[: args.rows], target[: args.rows]), (points[args.rows :], target[args.rows :])

    print(f"{'':<22}{'epochs':>8}{'training rmse':>15}{'test rmse':>12}{'seconds to 1e-2':>17}")
    runs: dict[str, fo.History] = {}
    for name, (method, batch) in METHODS.items():
        net = fo.mlp(4, [20, 20], 1, activation="tanh", dtype="float64", seed=0)
        trainer = fo.Trainer(net, "mse", method)
        history = trainer.fit(x, y, epochs=10**7, batch_size=batch, callbacks=[Clock(args.seconds)], progress=False)
        reached = np.flatnonzero(np.array(history["loss"]) <= 1e-4)
        when = f"{sum(history.seconds[: reached[0] + 1]):.2f}" if len(reached) else "-"
        errors = [trainer.evaluate(*data)["loss"] ** 0.5 for data in ((x, y), test)]
        print(f"{name:<22}{len(history.rows):>8}{errors[0]:>15.2e}{errors[1]:>12.2e}{when:>17}  {history.message}".rstrip())
        runs[name] = history
    axes = plots.convergence(runs, against="seconds", title=f"A 4-20-20-1 tanh network on {args.rows} points of a smooth function")
    axes.set(xscale="log", ylabel="mean squared error in training")
    plots.save(axes, args.picture)
    print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
