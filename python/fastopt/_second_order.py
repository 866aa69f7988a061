"""Hessian-vector products, Hessians and Jacobians of a network: arguments checked, vectors flat or named, computed natively."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _validate, losses
from fastopt._native import SECOND_ORDER, native_loss, prepare_target
from fastopt.losses import Loss

if TYPE_CHECKING:
    from fastopt.network import Network

Array = NDArray[Any]


def flatten(network: Network, arrays: Mapping[str, Any], name: str = "v") -> Array:
    """Named arrays in the order of the parameters, raveled side by side; what is not named is 0."""
    unknown = sorted(set(arrays) - set(network.parameters))
    if unknown:
        raise ValueError(f"{name} has the name {unknown[0]!r}; the parameters are: {', '.join(network.parameters)}")
    flat = np.zeros(network.num_parameters, network.dtype)
    for key, part in split(network, flat).items():
        if key in arrays:
            given = _validate.numeric(arrays[key], f"{name}[{key!r}]")
            if given.shape != part.shape:
                raise ValueError(f"{name}[{key!r}] must have shape {part.shape}; got {given.shape}")
            part[...] = given
    return flat


def split(network: Network, flat: Array) -> dict[str, Array]:
    """Views of a flat vector by the names of the parameters."""
    views, at = {}, 0
    for key, parameter in network.parameters.items():
        views[key] = flat[at : at + parameter.size].reshape(parameter.shape)
        at += parameter.size
    return views


def _vector(network: Network, v: Any) -> Array:
    array = _validate.numeric(v, "v")
    if array.shape != (network.num_parameters,):
        raise ValueError(f"v must have shape ({network.num_parameters},), or be a mapping named as network.parameters; got {array.shape}")
    return _validate.exactly(array, network.dtype)


def _data(network: Network, loss: Any, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Array, Array, Array | None]:
    if not isinstance(loss, str | Loss | type) and callable(loss):
        raise TypeError("second derivatives need a loss of fastopt; a Python function gives first derivatives only")
    spec = losses.get(loss)
    rows = _validate.features(x, network.inputs, network.dtype, "x")
    target = prepare_target(spec, network.outputs, y, network.dtype, "y")
    _validate.same_rows(rows, target, "x", "y")
    weight = None if sample_weight is None else _validate.sample_weight(sample_weight, len(rows), network.dtype)
    network._check_adapted()
    return native_loss(spec, network.dtype), rows, target, weight


def hvp(network: Network, loss: Any, x: Any, y: Any, v: Any, sample_weight: Any) -> Any:
    """See `Network.hvp`."""
    named = isinstance(v, Mapping)
    along = flatten(network, v) if named else _vector(network, v)
    out = np.empty_like(along)
    native, rows, target, weight = _data(network, loss, x, y, sample_weight)
    SECOND_ORDER[network.dtype](network._native).hessian_vector(native, rows, target, weight, along, out)
    return split(network, out) if named else out


def hessian(network: Network, loss: Any, x: Any, y: Any, sample_weight: Any) -> Array:
    """See `Network.hessian`."""
    native, rows, target, weight = _data(network, loss, x, y, sample_weight)
    out = np.empty((network.num_parameters, network.num_parameters), network.dtype)
    SECOND_ORDER[network.dtype](network._native).hessian(native, rows, target, weight, out)
    return out


def jacobian(network: Network, x: Any) -> Array:
    """See `Network.jacobian`."""
    rows = _validate.features(x, network.inputs, network.dtype, "x")
    network._check_adapted()
    out = np.empty((len(rows) * network.outputs, network.num_parameters), network.dtype)
    SECOND_ORDER[network.dtype](network._native).jacobian(rows, out)
    return out.reshape(len(rows), network.outputs, -1)
