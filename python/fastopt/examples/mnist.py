"""Train a 784-512-512-10 network on MNIST images from an NPZ file (arrays images, labels) or from IDX files, plain or gzipped.

    python -m fastopt.examples.mnist --data mnist10k.npz
    python -m fastopt.examples.mnist --data train-images-idx3-ubyte.gz

The last images of the file are the test set. `--recipe plain` has no regularization; `--recipe best` adds batch normalization, dropout and
AdamW with a one-cycle schedule, chosen on the last 1000 of the 8000 training images of a 10 000-image file, never on its test images.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import fastopt as fo
from fastopt import layers
from fastopt.examples import _arguments, _data

EPOCHS = {"plain": 15, "best": 40}
BATCH = {"plain": 128, "best": 64}


def build(recipe: str, seed: int, steps: int, precision: str = "full") -> fo.Trainer:
    """The network 784-512-512-10 and its trainer, for `steps` updates."""
    if recipe == "plain":
        net = fo.mlp(784, [512, 512], 10, activation="relu", seed=seed, precision=precision)
        return fo.Trainer(net, loss="softmax_cross_entropy", optimizer=fo.optimizers.Adam(learning_rate=1e-3))
    parts: list[layers.Layer] = [layers.Dropout(0.2)]
    for _ in range(2):
        parts += [layers.Dense(512, init="he_uniform"), layers.BatchNorm(), layers.Activation("relu"), layers.Dropout(0.4)]
    net = fo.Network(784, [*parts, layers.Dense(10)], seed=seed, precision=precision)
    optimizer = fo.optimizers.AdamW(learning_rate=fo.schedules.one_cycle(1e-2, steps=steps), weight_decay=0.2)
    return fo.Trainer(net, loss=fo.losses.SoftmaxCrossEntropy(label_smoothing=0.1), optimizer=optimizer)


def main() -> None:
    """Train with each seed and print the accuracy on the held-out images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="NPZ file with arrays images and labels, or IDX file of images")
    parser.add_argument("--labels", help="IDX file of labels, when its name is unusual")
    parser.add_argument("--recipe", choices=("plain", "best"), default="plain")
    parser.add_argument("--precision", choices=("full", "bf16"), default="full", help="of the products of the dense layers")
    parser.add_argument("--epochs", type=int, help=", ".join(f"{each} for {name}" for name, each in EPOCHS.items()))
    parser.add_argument("--batch-size", type=int, help=", ".join(f"{each} for {name}" for name, each in BATCH.items()))
    parser.add_argument("--test-images", type=int, default=2000, help="so many at the end of the file are the test set")
    parser.add_argument("--seeds", type=_arguments.seed, nargs="+", default=[0])
    args = parser.parse_args()

    if any(given is not None and given < 1 for given in (args.epochs, args.batch_size)):
        parser.error("--epochs and --batch-size must be at least 1")
    images, labels = _data.load_images(args.data, args.labels)
    if not 0 < args.test_images < len(images):
        parser.error(f"--test-images must lie between 1 and {len(images) - 1}")
    pixels = images.astype(np.float32) / np.float32(255)
    train, test = slice(None, -args.test_images), slice(-args.test_images, None)
    epochs, batch_size = args.epochs or EPOCHS[args.recipe], args.batch_size or BATCH[args.recipe]
    steps = epochs * -(-len(pixels[train]) // batch_size)
    accuracies = []
    for seed in args.seeds:
        trainer = build(args.recipe, seed, steps, args.precision)
        start = time.perf_counter()
        trainer.fit(pixels[train], labels[train], epochs=epochs, batch_size=batch_size, progress=None)
        seconds = time.perf_counter() - start
        accuracies.append(trainer.evaluate(pixels[test], labels[test], metrics=["accuracy"])["accuracy"])
        print(f"seed {seed}: test accuracy {accuracies[-1]:.2%}, {epochs} epochs in {seconds:.1f} s, {steps / seconds:,.0f} steps/s")
    if len(accuracies) > 1:
        print(f"mean test accuracy {np.mean(accuracies):.2%} over {len(accuracies)} seeds")


if __name__ == "__main__":
    main()
