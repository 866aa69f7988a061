"""A network of the library and its NumPy twin side by side."""

import fastopt as fo
import numpy as np
from native import core
from reference import mlp


def layer_configs(net):
    return [layer.config() for layer in net.layers]


def twin_of(net):
    """The NumPy network at the same point: copies of parameters, buffers and counters."""
    copy = mlp.MLP(layer_configs(net), net.parameters, net.buffers, seed=net.seed)
    copy.training_step = net.training_step
    return copy


def rich_network(activation="tanh", dtype="float64", inputs=7, outputs=3, seed=3):
    """One layer of each kind, odd widths."""
    layers = fo.layers
    net = fo.Network(
        inputs,
        [
            layers.Standardize(),
            layers.Dense(13, activation=activation),
            layers.BatchNorm(momentum=0.3),
            layers.Activation(activation),
            layers.Dropout(0.25),
            layers.Dense(5, bias=False),
            layers.Dense(outputs),
        ],
        dtype=dtype,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    net.adapt(3 * rng.standard_normal((50, inputs)) + 1)
    for name, view in net.parameters.items():
        if not name.endswith("weight"):
            view += 0.1 * rng.standard_normal(view.shape).astype(dtype)
    return net


def registered_layers():
    return core.layer_names()
