"""The raw kernels on NumPy arrays, for benchmarks and for people who want just those.

Arrays are float32 or float64, all of one dtype, C-contiguous (inputs are converted if they are not; `out` arrays never).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _specs, _validate
from fastopt._backend import core
from fastopt.layers import ACTIVATIONS

__all__ = [
    "activation_backward", "activation_forward", "batchnorm_backward", "batchnorm_forward",
    "batchnorm_inference", "dense_backward", "dense_forward", "matmul", "softmax",
]  # fmt: skip

Array = NDArray[Any]


def _inputs(**arrays: ArrayLike | None) -> list[Array]:
    """Inputs of one floating dtype, contiguous; the widest dtype of them counts."""
    given = {name: _validate.numeric(a, name) for name, a in arrays.items() if a is not None}
    kinds = {a.dtype.newbyteorder("=") for a in given.values()}
    dtype = np.dtype(np.float32) if kinds == {np.dtype(np.float32)} else np.dtype(np.float64)
    return [_validate.exactly(a, dtype) for a in given.values()]


def _shape(a: Array, shape: tuple[int, ...], name: str, of: str) -> None:
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {shape} for {of}; got {a.shape}")


def _two_d(a: Array, name: str) -> None:
    if a.ndim != 2:
        raise ValueError(f"{name} must be 2-D; got shape {a.shape}")


def _apart(written: dict[str, Array], others: Mapping[str, Array | None]) -> None:
    everything = [(name, array) for name, array in {**written, **others}.items() if array is not None]
    for name, array in written.items():
        for other_name, other in everything:
            if name != other_name and np.may_share_memory(array, other):
                raise ValueError(f"{name} shares memory with {other_name}, but it is updated in place")


def _out(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Array]) -> Array:
    if out is None:
        return np.empty(shape, dtype)
    _validate.output_array(out, shape, dtype, "out")
    if any(np.may_share_memory(out, a) for a in inputs):
        raise ValueError("out shares memory with an input, but it is written in place")
    return out


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return name


def matmul(
    a: ArrayLike,
    b: ArrayLike,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: Array | None = None,
    precision: str = "full",
) -> Array:
    """`a b`, either side transposed; every element is one chain of fused multiply-adds over k in order.

    Parameters
    ----------
    a, b : array_like
        `(m, k)` and `(k, n)`, or their transposes.
    transpose_a, transpose_b : bool
        Whether a is given as `(k, m)`, b as `(n, k)`.
    out : ndarray, optional
        `(m, n)`, written in place.
    precision : str
        "full", or "bf16" for float32 arrays: a and b rounded to bfloat16 (to nearest, ties to even, subnormal numbers to 0), products
        summed in float32 in the order of k, two at a time. See `Network`.

    Raises
    ------
    TypeError, ValueError
        When shapes do not fit, `out` cannot be written, or the precision is not available.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.kernels.matmul([[1.0, 2.0]], [[3.0], [4.0]]).tolist()
    [[11.0]]
    """
    x, y = arrays = _inputs(a=a, b=b)
    _two_d(x, "a")
    _two_d(y, "b")
    m, k = x.shape[::-1] if transpose_a else x.shape
    inner, n = y.shape[::-1] if transpose_b else y.shape
    if k != inner:
        raise ValueError(f"a and b do not fit: the inner sizes are {k} and {inner}; shapes {x.shape} and {y.shape}")
    result = _out(out, (m, n), x.dtype, arrays)
    core.matmul(x, y, result, bool(transpose_a), bool(transpose_b), precision)
    return result


def dense_forward(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, activation: str = "identity", out: Array | None = None
) -> Array:
    """`g(x W + b)`.

    Parameters
    ----------
    x : array_like
        `(n, inputs)`.
    weight : array_like
        `(inputs, units)`.
    bias : array_like, optional
        `(units,)`.
    activation : str
        Name out of `fastopt.layers.ACTIVATIONS`.
    out : ndarray, optional
        `(n, units)`, written in place.

    Raises
    ------
    TypeError, ValueError
        When shapes do not fit, the activation is unknown, or `out` cannot be written.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.kernels.dense_forward([[1.0, -1.0]], [[2.0, 0.0], [0.0, 2.0]], [0.5, 0.5], activation="relu").tolist()
    [[2.5, 0.0]]
    """
    name, arrays = _activation(activation), _dense_inputs(x, weight, bias)
    rows, w, b = arrays[0], arrays[1], arrays[2] if bias is not None else None
    result = _out(out, (len(rows), w.shape[1]), rows.dtype, arrays)
    pre = np.empty_like(result) if core.activation_needs_input(name) else None
    core.dense_forward(rows, w, b, name, result, pre)
    return result


def _dense_inputs(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> list[Array]:
    arrays = _inputs(x=x, weight=weight, bias=bias)
    rows, w = arrays[:2]
    _two_d(rows, "x")
    _two_d(w, "weight")
    if rows.shape[1] != w.shape[0]:
        raise ValueError(f"x and weight do not fit: (rows, inputs) and (inputs, units); got {rows.shape} and {w.shape}")
    if bias is not None:
        _shape(arrays[2], (w.shape[1],), "bias", f"weight {w.shape}")
    return arrays


def dense_backward(
    grad_out: ArrayLike, x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, activation: str = "identity"
) -> tuple[Array, Array, Array | None]:
    """Gradients `(grad_x, grad_weight, grad_bias)` of `dense_forward`; grad_bias is None without a bias.

    Parameters
    ----------
    grad_out : array_like
        Gradient with respect to the output, `(n, units)`.
    x, weight, bias, activation
        As for the forward pass, whose output is computed again when the activation asks for it.

    Raises
    ------
    TypeError, ValueError
        When shapes do not fit or the activation is unknown.

    Examples
    --------
    >>> import fastopt as fo
    >>> [g.tolist() for g in fo.kernels.dense_backward([[1.0]], [[1.0, 2.0]], [[3.0], [4.0]], [0.0])]
    [[[3.0, 4.0]], [[1.0], [2.0]], [1.0]]
    """
    name, arrays = _activation(activation), _dense_inputs(x, weight, bias)
    rows, w, b = arrays[0], arrays[1], arrays[2] if bias is not None else None
    g = _validate.exactly(_validate.numeric(grad_out, "grad_out"), rows.dtype)
    _shape(g, (len(rows), w.shape[1]), "grad_out", f"x {rows.shape} and weight {w.shape}")
    if name not in ("identity", "linear"):
        out, pre, grad_pre = np.empty_like(g), np.empty_like(g), np.empty_like(g)
        core.dense_forward(rows, w, b, "identity", pre, None)
        core.activation_forward(name, pre, out)
        core.activation_backward(name, pre, out, g, grad_pre)
        g = grad_pre
    grad_x, grad_weight = np.empty_like(rows), np.empty_like(w)
    grad_bias = None if b is None else np.empty_like(b)
    core.dense_backward(rows, w, g, grad_weight, grad_bias, grad_x)
    return grad_x, grad_weight, grad_bias


def activation_forward(name: str, x: ArrayLike, *, out: Array | None = None) -> Array:
    """Elementwise activation of an array of any shape.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.kernels.activation_forward("relu", [-1.0, 2.0]).tolist()
    [0.0, 2.0]
    """
    arrays = _inputs(x=x)
    result = _out(out, arrays[0].shape, arrays[0].dtype, arrays)
    core.activation_forward(_activation(name), arrays[0], result)
    return result


def activation_backward(name: str, x: ArrayLike, grad_out: ArrayLike) -> Array:
    """Gradient with respect to the input of an activation.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.kernels.activation_backward("relu", [-1.0, 2.0], [1.0, 1.0]).tolist()
    [0.0, 1.0]
    """
    a, g = _inputs(x=x, grad_out=grad_out)
    _shape(g, a.shape, "grad_out", f"x {a.shape}")
    out, grad = np.empty_like(a), np.empty_like(a)
    core.activation_forward(_activation(name), a, out)
    core.activation_backward(name, a, out, g, grad)
    return grad


def softmax(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Softmax of each row, `(n, k)`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.kernels.softmax([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    arrays = _inputs(x=x)
    _two_d(arrays[0], "x")
    result = _out(out, arrays[0].shape, arrays[0].dtype, arrays)
    core.softmax(arrays[0], result)
    return result


def batchnorm_forward(
    x: ArrayLike,
    gamma: ArrayLike,
    beta: ArrayLike,
    running_mean: Array,
    running_variance: Array,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    first: bool = False,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Training mode: `gamma (x - mu) / sqrt(var + eps) + beta` with the statistics of the batch; moves the running values in place.

    Returns `(out, mean, inverse_std)`: the batch mean and `1 / sqrt(var + eps)` are what the backward pass needs.

    Parameters
    ----------
    x : array_like
        `(n, features)`.
    gamma, beta : array_like
        `(features,)`.
    running_mean, running_variance : ndarray
        `(features,)`, of the dtype of x; updated by `(1 - momentum) running + momentum batch`, or set when `first`.
    momentum, eps : float
        See `fastopt.layers.BatchNorm`.
    first : bool
        Whether this is the first batch.
    out : ndarray, optional
        `(n, features)`, written in place.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> mean, variance = np.zeros(1), np.ones(1)
    >>> y, mu, inverse_std = fo.kernels.batchnorm_forward([[1.0], [3.0]], [1.0], [0.0], mean, variance, first=True)
    >>> y.round(3).tolist(), mean.tolist(), variance.tolist()
    ([[-1.0], [1.0]], [2.0], [1.0])
    """
    arrays = rows, g, b = _inputs(x=x, gamma=gamma, beta=beta)
    _two_d(rows, "x")
    features = (rows.shape[1],)
    _shape(g, features, "gamma", f"x {rows.shape}")
    _shape(b, features, "beta", f"x {rows.shape}")
    _validate.output_array(running_mean, features, rows.dtype, "running_mean")
    _validate.output_array(running_variance, features, rows.dtype, "running_variance")
    _apart({"running_mean": running_mean, "running_variance": running_variance}, {"x": rows, "gamma": g, "beta": b, "out": out})
    share = _specs.check_number("momentum", momentum, low=0.0, high=1.0, low_open=False, high_open=False)
    small = _specs.check_number("eps", eps, low=0.0, high=np.inf, low_open=True, high_open=True)
    if len(rows) == 0:
        raise ValueError(f"x must have at least one row; got shape {rows.shape}")
    result = _out(out, rows.shape, rows.dtype, arrays)
    mean, inverse_std = np.empty(features, rows.dtype), np.empty(features, rows.dtype)
    core.batchnorm_forward(rows, g, b, running_mean, running_variance, share, small, bool(first), result, mean, inverse_std)
    return result, mean, inverse_std


def batchnorm_inference(
    x: ArrayLike, gamma: ArrayLike, beta: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, eps: float = 1e-5, out: Array | None = None
) -> Array:
    """`gamma (x - mean) / sqrt(variance + eps) + beta` with given statistics.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.kernels.batchnorm_inference([[3.0]], [2.0], [1.0], [1.0], [4.0], eps=1e-12).round(6).tolist()
    [[3.0]]
    """
    arrays = rows, g, b, mu, var = _inputs(x=x, gamma=gamma, beta=beta, mean=mean, variance=variance)
    _two_d(rows, "x")
    for name, a in (("gamma", g), ("beta", b), ("mean", mu), ("variance", var)):
        _shape(a, (rows.shape[1],), name, f"x {rows.shape}")
    small = _specs.check_number("eps", eps, low=0.0, high=np.inf, low_open=True, high_open=True)
    result = _out(out, rows.shape, rows.dtype, arrays)
    core.batchnorm_inference(rows, g, b, mu, var, small, result)
    return result


def batchnorm_backward(
    grad_out: ArrayLike, x: ArrayLike, gamma: ArrayLike, mean: ArrayLike, inverse_std: ArrayLike
) -> tuple[Array, Array, Array]:
    """Gradients `(grad_x, grad_gamma, grad_beta)` through the statistics of the batch.

    Parameters
    ----------
    grad_out : array_like
        Gradient with respect to the output, `(n, features)`.
    x, gamma : array_like
        As for the forward pass.
    mean, inverse_std : array_like
        What the forward pass returned, `(features,)`.

    Raises
    ------
    TypeError, ValueError
        When shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> y, mu, inverse_std = fo.kernels.batchnorm_forward([[1.0], [3.0]], [1.0], [0.0], np.zeros(1), np.ones(1))
    >>> [g.round(3).tolist() for g in fo.kernels.batchnorm_backward([[1.0], [1.0]], [[1.0], [3.0]], [1.0], mu, inverse_std)]
    [[[0.0], [0.0]], [0.0], [2.0]]
    """
    g, rows, scale, mu, inverse = _inputs(grad_out=grad_out, x=x, gamma=gamma, mean=mean, inverse_std=inverse_std)
    _two_d(rows, "x")
    _shape(g, rows.shape, "grad_out", f"x {rows.shape}")
    for name, a in (("gamma", scale), ("mean", mu), ("inverse_std", inverse)):
        _shape(a, (rows.shape[1],), name, f"x {rows.shape}")
    grad_x, grad_gamma, grad_beta = np.empty_like(rows), np.empty_like(scale), np.empty_like(scale)
    core.batchnorm_backward(rows, scale, mu, inverse, g, grad_x, grad_gamma, grad_beta)
    return grad_x, grad_gamma, grad_beta
