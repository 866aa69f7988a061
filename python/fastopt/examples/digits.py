"""Train a 64-128-64-10 network on scikit-learn's 1797 handwritten digits and draw the learning curves.

python -m fastopt.examples.digits
"""

import argparse
import time

import fastopt as fo
from fastopt import plots
from fastopt.examples import _arguments, _data


def main() -> None:
    """Train, print the test accuracy, write digits.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=_arguments.count, default=40)
    parser.add_argument("--seed", type=_arguments.seed, default=0)
    parser.add_argument("--picture", type=_arguments.picture, default="digits.png", help="file of the learning curves")
    args = parser.parse_args()

    images, labels = _data.digits()
    train, validation, test = fo.data.split(images, labels, validation=0.1, test=0.2, seed=args.seed)
    net = fo.mlp(64, [128, 64], 10, activation="relu", seed=args.seed)
    print(net.summary())

    trainer = fo.Trainer(net, loss="softmax_cross_entropy", optimizer=fo.optimizers.Adam(learning_rate=1e-3), l2=1e-4)
    stopping = fo.callbacks.EarlyStopping(patience=15)
    start = time.perf_counter()
    history = trainer.fit(
        *train, epochs=args.epochs, batch_size=32, validation=validation, metrics=["accuracy"], callbacks=[stopping], progress=True
    )
    seconds = time.perf_counter() - start
    result = trainer.evaluate(*test, metrics=["accuracy"])
    print(f"{len(history.rows)} epochs in {seconds:.2f} s")
    print(f"test accuracy {result['accuracy']:.2%} on {len(test[1])} digits that the training never saw")
    plots.save(plots.learning_curves(history, title="Digits, 64-128-64-10"), args.picture)
    print(f"learning curves in {args.picture}")


if __name__ == "__main__":
    main()
