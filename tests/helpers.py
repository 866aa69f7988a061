"""What several test modules share: comparison with a message, golden files, finite differences, targets that suit a loss."""

import json
import re
from pathlib import Path

import numpy as np

ORACLE = Path(__file__).parent / "oracle"
REPOSITORY = Path(__file__).parent.parent


def close(actual, expected, tolerance, what, floor=0.0):
    """Assert that the largest error is at most `tolerance` times the largest expected magnitude (at least `floor`)."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if expected.size == 0:
        return
    assert np.array_equal(np.isnan(actual), np.isnan(expected)), f"{what}: NaN in different places"
    scale = max(float(np.nanmax(np.abs(expected))), floor)
    error = float(np.nanmax(np.abs(actual - expected)))
    allowed = tolerance * scale
    assert error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g} ({tolerance:g} of {scale:.3g})"


def close_each(actual, expected, relative, what, absolute=0.0):
    """Assert elementwise: |actual - expected| <= relative |expected| + absolute."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    bad = ~(np.abs(actual - expected) <= relative * np.abs(expected) + absolute)
    if bad.any():
        i = np.unravel_index(np.argmax(bad), bad.shape)
        raise AssertionError(f"{what}: {bad.sum()} of {bad.size} elements off, the first at {i}: {actual[i]!r}, expected {expected[i]!r}")


def golden(name):
    """(cases, arrays) of a golden file."""
    with np.load(ORACLE / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("cases"))), arrays


def numeric_gradient(function, x, step=1e-6):
    """Central differences of a scalar function of one float64 array, which is changed in place and put back."""
    gradient = np.zeros_like(x)
    flat, out = x.reshape(-1), gradient.reshape(-1)
    assert np.shares_memory(flat, x), "numeric_gradient needs a contiguous array"
    for i in range(flat.size):
        kept, h = flat[i], step * max(1.0, abs(flat[i]))
        flat[i] = kept + h
        above = function()
        flat[i] = kept - h
        below = function()
        flat[i] = kept
        out[i] = (above - below) / (2 * h)
    return gradient


# What each loss reads: (kind of target, outputs to try). Kinds: see `make_target`.
LOSS_TARGETS = {
    "mse": ("real", (1, 5)),
    "mae": ("real", (1, 5)),
    "huber": ("real", (1, 5)),
    "log_cosh": ("real", (1, 5)),
    "quantile": ("column", (1,)),
    "poisson": ("counts", (1, 3)),
    "gaussian_nll": ("halved", (2, 6)),
    "bce": ("unit", (1, 4)),
    "softmax_cross_entropy": ("classes", (2, 7)),
    "kl": ("probabilities", (2, 7)),
    "hinge": ("signs", (1, 3)),
    "squared_hinge": ("signs", (1, 3)),
    "multiclass_hinge": ("classes", (2, 7)),
    "perceptron": ("classes", (3, 7)),
    "focal": ("classes", (2, 7)),
}

# Options to try besides the defaults: (options, outputs, kind of target or None for the usual one).
LOSS_OPTIONS = {
    "huber": [({"delta": 0.3}, 3, None)],
    "quantile": [({"quantiles": [0.1, 0.5, 0.9]}, 3, None)],
    "poisson": [({"full": True}, 2, None)],
    "gaussian_nll": [({"full": True}, 4, None)],
    "bce": [({"label_smoothing": 0.1}, 3, None), ({"pos_weight": 3.0}, 3, None), ({"label_smoothing": 0.2, "pos_weight": 0.5}, 1, None)],
    "softmax_cross_entropy": [
        ({"label_smoothing": 0.1}, 5, None),
        ({}, 5, "probabilities"),
        ({"label_smoothing": 0.3}, 5, "probabilities"),
    ],
    "multiclass_hinge": [
        ({"squared": True}, 5, None),
        ({"kind": "crammer_singer"}, 5, None),
        ({"kind": "crammer_singer", "squared": True}, 5, None),
    ],
    "perceptron": [({}, 1, "signs")],
    "focal": [({"gamma": 0.0}, 4, None), ({"gamma": 0.5}, 4, None), ({"gamma": 5.0}, 4, None)],
}


def loss_cases(name):
    """(options, outputs, kind of target) to try for a loss; a registered loss without an entry above is an error."""
    assert name in LOSS_TARGETS, f"tests/helpers.py does not say what targets the loss {name!r} reads: add it to LOSS_TARGETS"
    kind, widths = LOSS_TARGETS[name]
    return [({}, k, kind) for k in widths] + [(options, k, other or kind) for options, k, other in LOSS_OPTIONS.get(name, [])]


def make_target(kind, n, outputs, rng):
    """A float64 target (n, columns), or int32 class indices (n,) for "classes"."""
    if kind == "classes":
        return rng.integers(0, outputs, n).astype(np.int32)
    if kind == "probabilities":
        y = rng.random((n, outputs)) * (rng.random((n, outputs)) > 0.3) + 1e-3
        y[:, -1] *= rng.random(n) > 0.5  # some exact zeros
        return y / y.sum(axis=1, keepdims=True)
    return {
        "real": lambda: 2 * rng.standard_normal((n, outputs)),
        "column": lambda: 2 * rng.standard_normal((n, 1)),
        "halved": lambda: 2 * rng.standard_normal((n, outputs // 2)),
        "counts": lambda: rng.poisson(3.0, (n, outputs)).astype(np.float64),
        "unit": lambda: rng.random((n, outputs)).round(1),
        "signs": lambda: rng.choice([-1.0, 1.0], (n, outputs)),
    }[kind]()


def cast_target(y, dtype):
    return y if y.dtype == np.int32 else np.ascontiguousarray(y, dtype=dtype)


def refuses(what, function, *arguments, errors=(TypeError, ValueError), match="", **options):
    """Assert that a call raises one of `errors` with `match` (a regular expression) in its text; the text comes back."""
    try:
        function(*arguments, **options)
    except errors as error:
        text = str(error)
        assert text, f"{what}: the error says nothing"
        assert re.search(match, text), f"{what}: the error does not say {match!r} but: {text}"
        return text
    raise AssertionError(f"{what}: accepted, but it should raise {errors}")
