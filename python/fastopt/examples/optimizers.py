"""Train one network on the handwritten digits with every optimizer of the library and draw the comparison.

python -m fastopt.examples.optimizers
"""

from __future__ import annotations

import argparse
import time

import fastopt as fo
from fastopt import plots
from fastopt.examples import _arguments, _data

# Learning rates: those of 1e-4, 3e-4, ..., 3 with the lowest validation loss after 30 epochs, mean of three seeds.
RUNS: dict[str, fo.optimizers.Optimizer] = {
    "sgd": fo.optimizers.SGD(learning_rate=0.3),
    "sgd, momentum": fo.optimizers.SGD(learning_rate=0.03, momentum=0.9),
    "sgd, nesterov": fo.optimizers.SGD(learning_rate=0.1, momentum=0.9, nesterov=True),
    "adagrad": fo.optimizers.AdaGrad(learning_rate=0.03),
    "adagrad_norm": fo.optimizers.AdaGradNorm(learning_rate=1.0),
    "rmsprop": fo.optimizers.RMSProp(learning_rate=0.001),
    "adadelta": fo.optimizers.AdaDelta(learning_rate=3.0),
    "adam": fo.optimizers.Adam(learning_rate=0.001),
    "adam, amsgrad": fo.optimizers.Adam(learning_rate=0.001, amsgrad=True),
    "adamw": fo.optimizers.AdamW(learning_rate=0.003),
    "nadam": fo.optimizers.NAdam(learning_rate=0.003),
    "radam": fo.optimizers.RAdam(learning_rate=0.003),
    "adamax": fo.optimizers.AdaMax(learning_rate=0.003),
    "lion": fo.optimizers.Lion(learning_rate=0.0001),
    "rprop, full batch": fo.optimizers.Rprop(learning_rate=0.003),
    "schedule_free_adamw": fo.optimizers.ScheduleFreeAdamW(learning_rate=0.003, warmup_steps=50),
}


def main() -> None:
    """Train with each, print a table, write optimizers.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=_arguments.count, default=30)
    parser.add_argument("--seed", type=_arguments.seed, default=0)
    parser.add_argument("--picture", type=_arguments.picture, default="optimizers.png")
    args = parser.parse_args()

    images, labels = _data.digits()
    train, validation, test = fo.data.split(images, labels, validation=0.15, test=0.15, seed=args.seed)
    histories = {}
    print(f"{'optimizer':<22}{'loss':>10}{'val loss':>10}{'test accuracy':>15}{'seconds':>9}")
    for name, optimizer in RUNS.items():
        trainer = fo.Trainer(fo.mlp(64, [64, 64], 10, seed=args.seed), loss="softmax_cross_entropy", optimizer=optimizer)
        batch_size = None if isinstance(optimizer, fo.optimizers.Rprop) else 32
        start = time.perf_counter()
        history = trainer.fit(*train, epochs=args.epochs, batch_size=batch_size, validation=validation, progress=False)
        seconds = time.perf_counter() - start
        histories[name] = history
        accuracy = trainer.evaluate(*test, metrics=["accuracy"])["accuracy"]
        print(f"{name:<22}{history['loss'][-1]:>10.4f}{history['val_loss'][-1]:>10.4f}{accuracy:>15.2%}{seconds:>9.2f}")
    ax = plots.optimizer_comparison(histories, column="val_loss", title="Digits, 64-64-64-10: one network, every optimizer")
    ax.set_ylabel("validation loss (cross-entropy)")
    plots.save(ax, args.picture)
    print(f"comparison in {args.picture}")


if __name__ == "__main__":
    main()
