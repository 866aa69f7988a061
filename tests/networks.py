"""Networks and batches for tests that go over everything that is registered."""

import fastopt as fo
from helpers import LOSS_TARGETS, cast_target, make_target
from native import core


def every_layer(inputs, units, outputs, *, activation="gelu", dtype="float32", seed=0, batch_norm=True):
    """A network in which each registered kind of layer occurs; a new kind must find its place here.

    Without `batch_norm` no row of a batch sees another, and threads take rows of their own through all layers.
    """
    layers = [
        fo.layers.Standardize(),
        fo.layers.Dense(units, activation=activation, l1=1e-4),
        fo.layers.BatchNorm(),
        fo.layers.Activation(activation),
        fo.layers.Dropout(0.3),
        fo.layers.Activation(activation),  # one that its predecessor cannot absorb
        fo.layers.Dense(units + 1, bias=False, learning_rate_multiplier=0.5),
        fo.layers.BatchNorm(trainable=False),
        fo.layers.Dense(outputs, l2=1e-4),
    ]
    missing = set(core.layer_names()) - {layer.kind for layer in layers}
    assert not missing, f"tests/networks.py has no place for {missing}"
    if not batch_norm:
        layers = [layer for layer in layers if layer.kind != "batchnorm"]
    return fo.Network(inputs, layers, dtype=dtype, seed=seed)


def batch_for(loss, outputs, rows, inputs, rng, *, dtype="float32", kind=None):
    """(x, y, weight) that suit a loss by name, as the native step reads them."""
    kind = kind or LOSS_TARGETS[loss][0]
    x = rng.standard_normal((rows, inputs)).astype(dtype)
    weight = (rng.random(rows) + 0.1).astype(dtype)
    return x, cast_target(make_target(kind, rows, outputs, rng), dtype), weight
