"""Train a 784-512-512-10 network on MNIST images from an NPZ file (arrays images, labels) or from IDX files, plain or gzipped.

    python -m fastopt.examples.mnist --data mnist10k.npz
    python -m fastopt.examples.mnist --data train-images-idx3-ubyte.gz

The last images of the file are the test set. `--recipe plain` has no regularization; `--recipe best` adds batch normalization, dropout and
AdamW with a one-cycle schedule.
"""

import argparse
import time

import numpy as np

import fastopt as fo
from fastopt.examples import _data


def build(recipe: str, seed: int, steps: int) -> fo.Trainer:
    """The network and its trainer; pixels 0..255 are standardized inside the network, so images stay bytes."""
    if recipe == "plain":
        net = fo.mlp(784, [512, 512], 10, standardize=True, seed=seed)
        return fo.Trainer(net, loss="softmax_cross_entropy", optimizer=fo.optimizers.Adam(learning_rate=1e-3))
    net = fo.mlp(784, [512, 512], 10, standardize=True, batch_norm=True, dropout=0.4, seed=seed)
    rate = fo.schedules.one_cycle(4e-3, steps=steps)
    optimizer = fo.optimizers.AdamW(learning_rate=rate, weight_decay=0.02)
    return fo.Trainer(net, loss=fo.losses.SoftmaxCrossEntropy(label_smoothing=0.1), optimizer=optimizer)


def main() -> None:
    """Train with each seed and print the accuracy on the held-out images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="NPZ file with arrays images and labels, or IDX file of images")
    parser.add_argument("--labels", help="IDX file of labels, when its name is unusual")
    parser.add_argument("--recipe", choices=("plain", "best"), default="plain")
    parser.add_argument("--epochs", type=int, help="default: 15 plain, 40 best")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--test-images", type=int, default=2000, help="so many at the end of the file are the test set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()

    images, labels = _data.load_images(args.data, args.labels)
    if not 0 < args.test_images < len(images):
        parser.error(f"--test-images must lie between 1 and {len(images) - 1}")
    train, test = slice(None, -args.test_images), slice(-args.test_images, None)
    epochs = args.epochs or (15 if args.recipe == "plain" else 40)
    steps = epochs * -(-len(images[train]) // args.batch_size)
    accuracies = []
    for seed in args.seeds:
        trainer = build(args.recipe, seed, steps)
        start = time.perf_counter()
        trainer.fit(images[train], labels[train], epochs=epochs, batch_size=args.batch_size, progress=True)
        seconds = time.perf_counter() - start
        accuracies.append(trainer.evaluate(images[test], labels[test], metrics=["accuracy"])["accuracy"])
        print(f"seed {seed}: test accuracy {accuracies[-1]:.2%}, {epochs} epochs in {seconds:.1f} s, {steps / seconds:,.0f} steps/s")
    if len(accuracies) > 1:
        print(f"mean test accuracy {np.mean(accuracies):.2%} over {len(accuracies)} seeds")


if __name__ == "__main__":
    main()
