"""scikit-learn's MLP: one `partial_fit` is one shuffled epoch.

Two classes make it use one logistic output instead of two; its Adam puts eps before the bias correction. Neither changes the time.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor
from workloads import Array, Weights, Workload

LABEL = "scikit-learn"


def set_threads(_: int) -> None:
    """Its products are NumPy's."""


class Trainer:
    losses = None  # starts from weights of its own

    def __init__(self, workload: Workload, _: Weights, x: Array, y: NDArray[np.float32] | NDArray[np.int64]) -> None:
        options: dict[str, Any] = {
            "hidden_layer_sizes": workload.sizes[1:-1],
            "solver": "adam",
            "alpha": 0.0,
            "batch_size": workload.batch,
            "learning_rate_init": 1e-3,
            "random_state": 0,
        }
        if workload.classes:
            model, classes = MLPClassifier(**options), np.arange(workload.classes)
            self.epoch: Callable[[], object] = lambda: model.partial_fit(x, y, classes=classes)
        else:
            model, target = MLPRegressor(**options), y.ravel()
            self.epoch = lambda: model.partial_fit(x, target)

    def epochs(self, count: int) -> None:
        for _ in range(count):
            self.epoch()


def inference(weights: Weights, x: Array) -> Callable[[], object]:
    hidden = [weight.shape[1] for weight, _ in weights[:-1]]
    classes = weights[-1][0].shape[1]
    model = MLPClassifier(hidden_layer_sizes=hidden, max_iter=1)
    rows = np.resize(x, (2 * classes, x.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one iteration does not converge: only the shapes matter
        model.fit(rows, np.arange(len(rows)) % classes)
    return lambda: model.predict_proba(x)
