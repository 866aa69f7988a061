"""A network of 20 sigmoid layers whose gradients vanish, and its cure by ReLU and batch normalization, with the norms drawn.

python -m fastopt.examples.vanishing
"""

from __future__ import annotations

import argparse

import fastopt as fo
from fastopt import plots
from fastopt.errors import missing_package
from fastopt.examples import _arguments, _data

RUNS = {
    "sigmoid": {"activation": "sigmoid"},
    "sigmoid + batch norm": {"activation": "sigmoid", "batch_norm": True},
    "ReLU": {"activation": "relu"},
    "ReLU + batch norm": {"activation": "relu", "batch_norm": True},
}


def main() -> None:
    """Train each network, print what the monitor says, write vanishing.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=_arguments.count, default=20)
    parser.add_argument("--epochs", type=_arguments.count, default=30)
    parser.add_argument("--seed", type=_arguments.seed, default=0)
    parser.add_argument("--picture", type=_arguments.picture, default="vanishing.png")
    args = parser.parse_args()
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plot", "Drawing") from None

    images, labels = _data.digits()
    train, validation, test = fo.data.split(images, labels, validation=0.1, test=0.2, seed=args.seed)
    figure = Figure(figsize=(11, 4.4), dpi=130, layout="constrained")
    norms_ax, loss_ax = figure.subplots(1, 2)
    marker = "o" if args.epochs == 1 else None
    for name, options in RUNS.items():
        net = fo.mlp(64, [64] * args.layers, 10, seed=args.seed, **options)  # type: ignore[arg-type]
        monitor = fo.callbacks.GradientMonitor()
        trainer = fo.Trainer(net, loss="softmax_cross_entropy", optimizer=fo.optimizers.Adam(learning_rate=3e-3))
        history = trainer.fit(*train, epochs=args.epochs, batch_size=64, validation=validation, callbacks=[monitor], progress=False)
        accuracy = trainer.evaluate(*test, metrics=["accuracy"])["accuracy"]
        first = [message for message in monitor.messages if message.startswith("epoch 0:")]
        print(f"{name}: test accuracy {accuracy:.2%}")
        print(f"  {first[0]} and {len(first) - 1} layers more" if first else "  no vanishing or exploding gradient in the first epoch")
        plots.gradient_norms(monitor, ax=norms_ax, epoch=0, title=name)
        loss_ax.plot(
            [e + 1 for e in history["epoch"]], history["val_loss"], label=f"{name}, {accuracy:.0%} right", linewidth=1.8, marker=marker
        )
    norms_ax.set_title("gradients after the first epoch")
    loss_ax.set(xlabel="epoch", ylabel="validation loss (cross-entropy)", title=f"{args.layers} hidden layers of 64 units, digits")
    loss_ax.grid(True, alpha=0.25)
    loss_ax.spines[["top", "right"]].set_visible(False)
    loss_ax.legend(frameon=False, fontsize="small")
    figure.savefig(args.picture)
    print(f"gradient norms and learning curves in {args.picture}")


if __name__ == "__main__":
    main()
