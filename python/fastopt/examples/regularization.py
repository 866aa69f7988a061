"""Over-fitting on 200 handwritten digits, and what L1, L2, dropout, batch normalization and early stopping do to it.

A fifth of the training labels are replaced by random ones, so that a network that learns them by heart pays for it; validation and test
labels are clean.

python -m fastopt.examples.regularization
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import plots
from fastopt.errors import missing_package
from fastopt.examples import _arguments, _data

# name: options of the network, of the trainer, and whether the fit stops early
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "none": ({}, {}, False),
    "L1": ({}, {"l1": 1e-3}, False),
    "L2": ({}, {"l2": 1e-2}, False),
    "dropout 0.5": ({"dropout": 0.5}, {}, False),
    "batch norm": ({"batch_norm": True}, {}, False),
    "early stopping": ({}, {}, True),
    "dropout, L2, early stopping": ({"dropout": 0.5}, {"l2": 1e-3}, True),
}


def main() -> None:
    """Train each variant with several seeds, print held-out figures, write regularization.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200, help="digits to train on")
    parser.add_argument("--noise", type=float, default=0.2, help="share of training labels that are random")
    parser.add_argument("--epochs", type=_arguments.count, default=100)
    parser.add_argument("--seeds", type=_arguments.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=_arguments.picture, default="regularization.png")
    args = parser.parse_args()

    images, labels = _data.digits()
    most = len(images) - 301
    if not 1 <= args.rows <= most:
        parser.error(f"--rows must be 1 to {most}: of {len(images)} digits 300 are for validation, and one at least for the test")
    if not 0.0 <= args.noise <= 1.0:
        parser.error(f"--noise is a share, from 0 to 1; got {args.noise:g}")
    print(f"{'':<27}{'train loss':>11}{'test loss':>11}{'test accuracy':>15}")
    curves: dict[str, fo.History] = {}
    for name, (net_options, options, early) in RUNS.items():
        figures = []
        for seed in args.seeds:
            rest = len(images) - args.rows - 300
            (x, y), validation, test = fo.data.split(images, labels, validation=300 / len(images), test=rest / len(images), seed=seed)
            rng = np.random.default_rng(seed)
            y = np.where(rng.random(len(y)) < args.noise, rng.integers(0, 10, len(y)), y)
            net = fo.mlp(64, [256, 256], 10, seed=seed, **net_options)
            trainer = fo.Trainer(net, loss="softmax_cross_entropy", optimizer="adam", **options)
            callbacks = [fo.callbacks.EarlyStopping(patience=10)] if early else []
            history = trainer.fit(x, y, epochs=args.epochs, batch_size=32, validation=validation, callbacks=callbacks, progress=False)
            result = trainer.evaluate(*test, metrics=["accuracy"])
            figures.append((trainer.evaluate(x, y)["loss"], result["loss"], result["accuracy"]))
            curves.setdefault(name, history)
        train_loss, test_loss, accuracy = np.mean(figures, axis=0)
        print(f"{name:<27}{train_loss:>11.4f}{test_loss:>11.4f}{accuracy:>15.2%}")
    _draw(curves, args.picture, f"{args.rows} digits, {args.noise:.0%} of their labels random")


def _draw(curves: dict[str, fo.History], path: str, data: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plot", "Drawing") from None
    figure = Figure(figsize=(11, 6), dpi=130, layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for ax, (name, history) in zip(axes.flat, curves.items(), strict=False):
        best = history.best("val_loss")
        plots.learning_curves(history, ax=ax, title=f"{name}\nbest validation loss {best['val_loss']:.3f}")
        ax.get_legend().remove()
        ax.set_yscale("log")
        ax.label_outer()
    rest = axes.flat[len(curves) :]
    for ax in rest:
        ax.set_axis_off()
    handles = axes.flat[0].get_legend_handles_labels()[0]
    rest[0].legend(handles, ["training", "validation", "best epoch"], loc="center", frameon=False)
    axes[0, -1].tick_params(labelbottom=True)
    figure.suptitle(f"A 64-256-256-10 network on {data}: loss in training and validation")
    figure.savefig(path)
    print(f"learning curves in {path}")


if __name__ == "__main__":
    main()
