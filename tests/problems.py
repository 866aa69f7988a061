"""Three small problems that every optimizer must solve, and the rate and number of steps that each rule gets for them."""

import numpy as np

SCALES = np.logspace(-1, 1, 8)  # condition number 100


def quadratic(w):
    return 0.5 * float((SCALES * w**2).sum()), SCALES * w


def rosenbrock(w):
    a, b = w
    return float((1 - a) ** 2 + 100 * (b - a**2) ** 2), np.array([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)])


_rng = np.random.default_rng(81)
_FEATURES = np.column_stack([np.ones(60), _rng.standard_normal((60, 4)) * [0.3, 1.0, 3.0, 1.0]])
_LABELS = (_FEATURES @ [0.3, 2.0, -1.0, 0.5, 0.0] + _rng.logistic(size=60) > 0) * 1.0


def logistic(w):
    """Mean logistic loss plus a small ridge, which makes the minimum unique."""
    score = _FEATURES @ w
    value = np.logaddexp(0, score).mean() - (_LABELS * score).mean() + 0.005 * (w**2).sum()
    return float(value), _FEATURES.T @ (1 / (1 + np.exp(-score)) - _LABELS) / len(score) + 0.01 * w


def logistic_minimum():
    """By Newton's method, to the last digit."""
    w = np.zeros(5)
    for _ in range(30):
        q = 1 / (1 + np.exp(-_FEATURES @ w))
        hessian = (_FEATURES.T * (q * (1 - q))) @ _FEATURES / len(q) + 0.01 * np.eye(5)
        w = w - np.linalg.solve(hessian, logistic(w)[1])
    return logistic(w)[0]


# problem: (function, start, minimum, how far above the minimum a rule may end)
PROBLEMS = {
    "quadratic": (quadratic, np.ones(8), 0.0, 1e-6),
    "rosenbrock": (rosenbrock, np.array([-1.2, 1.0]), 0.0, 1e-3),
    "logistic": (logistic, np.zeros(5), logistic_minimum(), 1e-6),
}

# rule: options, then (first learning rate, steps) for each problem; the rate falls to 0 on a straight line.
SETTINGS = {
    "sgd": ({"momentum": 0.9}, {"quadratic": (0.1, 500), "rosenbrock": (0.003, 1000), "logistic": (1.0, 500)}),
    "adagrad": ({}, {"quadratic": (0.3, 500), "rosenbrock": (1.0, 8000), "logistic": (1.0, 500)}),
    "adagrad_norm": ({}, {"quadratic": (3.0, 2000), "rosenbrock": (1.0, 8000), "logistic": (3.0, 500)}),
    "rmsprop": ({}, {"quadratic": (0.03, 500), "rosenbrock": (0.01, 4000), "logistic": (0.03, 500)}),
    "adadelta": ({}, {"quadratic": (10.0, 500), "rosenbrock": (0.3, 8000), "logistic": (10.0, 500)}),
    "adam": ({}, {"quadratic": (0.1, 500), "rosenbrock": (0.3, 2000), "logistic": (0.1, 500)}),
    "adamw": ({"weight_decay": 1e-4}, {"quadratic": (0.1, 500), "rosenbrock": (0.3, 2000), "logistic": (0.1, 500)}),
    "nadam": ({}, {"quadratic": (0.1, 500), "rosenbrock": (0.03, 4000), "logistic": (0.1, 500)}),
    "radam": ({}, {"quadratic": (0.1, 500), "rosenbrock": (0.003, 16000), "logistic": (0.1, 500)}),
    "adamax": ({}, {"quadratic": (0.1, 500), "rosenbrock": (0.3, 4000), "logistic": (0.3, 500)}),
    "lion": ({}, {"quadratic": (0.03, 1000), "rosenbrock": (0.03, 2000), "logistic": (0.03, 1000)}),
    "rprop": ({}, {"quadratic": (0.01, 500), "rosenbrock": (0.01, 2000), "logistic": (0.01, 500)}),
    "schedule_free_adamw": ({}, {"quadratic": (0.3, 500), "rosenbrock": (0.1, 8000), "logistic": (0.3, 500)}),
}
