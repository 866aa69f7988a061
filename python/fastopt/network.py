"""Dense networks: a list of layers, its native storage, and zero-copy views of it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastopt import _second_order, _specs, _validate, layers
from fastopt._backend import core
from fastopt._inference import outputs_of
from fastopt._native import NETWORK
from fastopt.layers import Layer
from fastopt.losses import Loss

__all__ = ["Network", "mlp"]

SMALL = 10.0  # a variance of so many eps comes out 5 % too small
COARSE = 0.1  # of a standard deviation, between two numbers of the dtype near the mean: what is lost is felt
Views = Mapping[str, NDArray[Any]]


class Network:
    """A dense network: layers in order, weights `(inputs, outputs)`, `y = x W + b`.

    Parameters
    ----------
    inputs : int
        Features of one row.
    layers : sequence of Layer
        From `fastopt.layers`.
    dtype : str or dtype
        "float32" or "float64".
    seed : int or None
        Of the initial weights, the dropout masks and (by default) the shuffling. None draws one from the operating system, which
        `Network.seed` tells.
    precision : str
        Of the products of the dense layers, in training and inference. "full": in the dtype. "bf16": float32 weights and activations are
        rounded to bfloat16 (8 bits of significand, to nearest, ties to even) on their way into each product and summed in float32, about
        twice as fast on large layers; everything else (weights, statistics, loss, optimizer state, layers of up to 4 units) stays float32.
        Needs dtype "float32" and a processor with AVX512_BF16, see `build_info()["bf16"]`. `hvp`, `hessian`, `jacobian` and the solvers of
        second order always compute in full; `check_gradients` checks a float64 copy.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument, and for precision "bf16" with dtype float64 or where the processor or the core in use has no bfloat16
        products: there is no silent fall-back.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> net = fo.Network(4, [fo.layers.Dense(8, activation="relu"), fo.layers.Dense(3)], seed=0)
    >>> net(np.zeros((2, 4), np.float32)).shape
    (2, 3)
    >>> sorted(net.parameters)
    ['0.bias', '0.weight', '1.bias', '1.weight']
    >>> net.parameters["0.weight"].shape
    (4, 8)
    """

    def __init__(
        self, inputs: int, layers: Sequence[Layer], *, dtype: DTypeLike = "float32", seed: int | None = 0, precision: str = "full"
    ) -> None:
        self._inputs = _validate.positive_int(inputs, "inputs")
        self._layers = _check_layers(layers)
        self._dtype = _validate.dtype_of(dtype)
        for layer in self._layers:
            _validate.check_not_zero_in(self._dtype, layer, "eps")
        self._seed = int.from_bytes(os.urandom(8), "little") >> 1 if seed is None else _specs.check_seed(seed)
        if not isinstance(precision, str):
            raise TypeError(f"precision must be one of {', '.join(core.precision_names())}; got {precision!r}")
        self._precision = precision
        self._bind()

    def _bind(self) -> None:
        native = NETWORK[self._dtype](self._inputs, [layer.config() for layer in self._layers], self._seed, self._precision)
        self._native = native
        self._infer = native.infer
        segments, buffers = native.parameter_segments(), native.buffer_segments()
        self._parameters = _views(native.parameters, segments)
        self._gradients = _views(native.gradients, segments)
        self._buffers = _views(native.buffers, buffers)

    @property
    def inputs(self) -> int:
        """Features of one row."""
        return self._inputs

    @property
    def outputs(self) -> int:
        """Outputs for one row."""
        return self._native.outputs

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers as they were given."""
        return self._layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    @property
    def precision(self) -> str:
        """Of the products of the dense layers: "full" or "bf16"."""
        return self._precision

    @property
    def seed(self) -> int:
        """Seed of weights and masks."""
        return self._seed

    @property
    def parameters(self) -> Views:
        """Writable zero-copy views by name: "0.weight", "0.bias", "1.gamma", "1.beta", ..."""
        return self._parameters

    @property
    def gradients(self) -> Views:
        """Zero-copy views of the gradients of the last `backward`, named as the parameters."""
        return self._gradients

    @property
    def buffers(self) -> Views:
        """Zero-copy views of running statistics: "1.mean", "1.variance", "1.count"."""
        return self._buffers

    @property
    def num_parameters(self) -> int:
        """Number of trainable and frozen parameters."""
        return self._native.num_parameters

    @property
    def training_step(self) -> int:
        """Training forwards done so far; dropout masks are a function of it."""
        return self._native.training_step

    @training_step.setter
    def training_step(self, value: int) -> None:
        self._native.training_step = _specs.check_integer("training_step", value, low=0)

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Inference forward: `(n, inputs)` to raw outputs `(n, outputs)`.

        Parameters
        ----------
        x : array_like
            Rows; float32, float64, uint8 or int16 with contiguous rows, memory maps too, are read without a copy, others converted first.
        out : ndarray, optional
            `(n, outputs)` of the network's dtype, C-contiguous; written and returned.
        """
        if type(x) is np.memmap:
            x = x.view(np.ndarray)
        if type(x) is np.ndarray:
            try:
                return self._infer(x, out)
            except (TypeError, ValueError):
                pass
        rows = _validate.rows_to_infer(x, self._inputs, "x")
        if out is not None:
            _validate.output_array(out, (len(rows), self.outputs), self._dtype, "out")
            if np.may_share_memory(rows, out):
                raise ValueError("out shares memory with x, but it is written in place")
            if any(np.may_share_memory(own, out) for own in (self._native.parameters, self._native.buffers)):
                raise ValueError("out shares memory with the network's parameters, but it is written in place")
        self._check_adapted()
        return outputs_of(self, rows, out=out)

    def _trains(self, name: str) -> bool:
        """Whether a parameter is of a layer that is trained."""
        return bool(getattr(self._layers[int(name.split(".")[0])], "trainable", True))

    def _check_adapted(self) -> None:
        if not self._native.adapted():
            raise ValueError("the Standardize layer has not seen data yet; call network.adapt(x) or Trainer.fit first")

    def forward(self, x: ArrayLike, training: bool = False) -> NDArray[Any]:
        """Forward pass that keeps the activations for `backward`.

        Parameters
        ----------
        x : array_like
            `(n, inputs)`, n >= 1.
        training : bool
            With dropout and batch statistics; running statistics move.
        """
        exact = _validate.matrix(x, self._inputs, self._dtype, "x")
        if len(exact) == 0:
            raise ValueError(f"x must have at least one row; got shape {exact.shape}")
        self._check_adapted()
        return self._native.forward(exact, bool(training))

    def backward(self, grad_output: ArrayLike) -> NDArray[Any]:
        """Gradient with respect to the input of the last training forward; fills `gradients`.

        Parameters
        ----------
        grad_output : array_like
            Gradient with respect to the outputs, `(n, outputs)`.
        """
        return self._native.backward(_validate.matrix(grad_output, self.outputs, self._dtype, "grad_output"))

    def hvp(
        self, loss: str | Loss, x: ArrayLike, y: ArrayLike, v: ArrayLike | Mapping[str, ArrayLike], sample_weight: ArrayLike | None = None
    ) -> Any:
        """Hessian-vector product `H v`, H the second derivatives of the mean loss with respect to the parameters, in inference mode.

        Forward over reverse: with R = d/dt at `w + t v`, one forward pass of `R a = x V + (R x) W`, `R h = g'(a) R a`, and one backward
        pass of the gradients and their R; exact to rounding, for the price of a few gradients. Batch normalization uses its running
        statistics, dropout is the identity, kinks of activations count as straight. Penalties are not part of it.

        Parameters
        ----------
        loss : str or Loss
            A smooth one; huber and squared_hinge count as such (their second derivative exists almost everywhere).
        x, y, sample_weight : array_like
            As for `Trainer.evaluate`.
        v : array_like `(num_parameters,)`, or mapping
            In the order of `parameters`, each raveled; or arrays named and shaped as `parameters` (names left out count as 0).

        Returns
        -------
        ndarray, or dict of ndarray
            In the form of v, of the network's dtype.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument, or a loss with kinks (mae, quantile, hinge, multiclass_hinge, perceptron).

        Examples
        --------
        >>> import numpy as np
        >>> import fastopt as fo
        >>> net = fo.Network(1, [fo.layers.Dense(1)], dtype="float64")
        >>> net.hvp("mse", [[1.0], [3.0]], [0.0, 0.0], [1.0, 0.0]).tolist()
        [10.0, 4.0]

        References
        ----------
        Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).
        """
        return _second_order.hvp(self, loss, x, y, v, sample_weight)

    def hessian(self, loss: str | Loss, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> NDArray[Any]:
        """The matrix of second derivatives `(num_parameters, num_parameters)` of the mean loss: one `hvp` per column, for small networks.

        Parameters and errors as for `hvp`; parameters in their order, each raveled.

        Examples
        --------
        >>> import fastopt as fo
        >>> net = fo.Network(1, [fo.layers.Dense(1)], dtype="float64")
        >>> net.hessian("mse", [[1.0], [3.0]], [0.0, 0.0]).tolist()
        [[10.0, 4.0], [4.0, 2.0]]
        """
        return _second_order.hessian(self, loss, x, y, sample_weight)

    def jacobian(self, x: ArrayLike) -> NDArray[Any]:
        """Derivatives `(n, outputs, num_parameters)` of the raw outputs with respect to the parameters, in inference mode.

        Parameters
        ----------
        x : array_like
            `(n, inputs)`.

        Examples
        --------
        >>> import fastopt as fo
        >>> net = fo.Network(2, [fo.layers.Dense(1)], dtype="float64")
        >>> net.jacobian([[3.0, 4.0]]).tolist()
        [[[3.0, 4.0, 1.0]]]
        """
        return _second_order.jacobian(self, x)

    def adapt(self, x: ArrayLike) -> None:
        """Take mean and variance of a Standardize layer from data `(n, inputs)`.

        Raises
        ------
        ValueError
            When the network does not begin with such a layer, and for wrong data.
        """
        if not isinstance(self._layers[0], layers.Standardize):
            raise ValueError("adapt fills a Standardize layer, and the network does not begin with one; add layers.Standardize()")
        rows = _validate.features(x, self._inputs, self._dtype, "x")
        self._take_statistics(lambda: self._native.adapt(rows), stacklevel=3)

    def _take_statistics(self, take: Callable[[], None], stacklevel: int) -> None:
        """Let `take` fill the statistics of a Standardize layer; a warning about them that is an error leaves those from before."""
        before = {name: np.array(view) for name, view in self.buffers.items() if name.startswith("0.")}
        take()
        if doubt := self._small_units() or self._large_offsets():
            try:
                warnings.warn(doubt, UserWarning, stacklevel=stacklevel)
            except UserWarning:
                for name, value in before.items():
                    self.buffers[name][...] = value
                raise

    def _small_units(self) -> str:
        """What to say when the eps of a Standardize layer is not small beside the variance of a column."""
        eps = getattr(self._layers[0], "eps", 0.0)
        variance = self.buffers["0.variance"]
        small = np.flatnonzero((variance > 0.0) & (variance < SMALL * eps))
        if len(small) == 0:
            return ""
        first, which = _named(small)
        deviation = math.sqrt(float(variance[first]))
        left = deviation / math.sqrt(deviation**2 + eps)
        return (
            f"Standardize: {which} has a standard deviation of {deviation:.2g}, not large beside sqrt(eps) = {math.sqrt(eps):.2g}, "
            f"and comes out with {left:.2g} instead of 1; give it in other units, or the layer a smaller eps"
        )

    def _large_offsets(self) -> str:
        """What to say when the dtype of the network does not tell the values of a column apart: rows are rounded before the mean is
        subtracted."""
        mean, variance = self.buffers["0.mean"], self.buffers["0.variance"]
        grain, deviation = np.spacing(np.abs(mean)), np.sqrt(variance)
        coarse = np.flatnonzero((variance > 0.0) & (grain > COARSE * deviation))
        if len(coarse) == 0:
            return ""
        first, which = _named(coarse)
        return (
            f"Standardize: {which} has mean {mean[first]:.3g} and standard deviation {deviation[first]:.2g}, which {self.dtype} at that "
            f"mean keeps only to {grain[first]:.2g}; subtract an offset before, or use dtype='float64'"
        )

    def initialize(self, seed: int) -> None:
        """Draw new weights and set statistics and the training step back to the start; a seed from 0 to 2**63 - 1."""
        number = _specs.check_seed(seed)
        self._native.initialize(number)
        self._seed = number

    def summary(self) -> str:
        """Table of the layers with their outputs and numbers of parameters."""
        header = ("layer", "kind", "description", "outputs", "parameters", "")
        rows = [header, ("", "input", "", str(self._inputs), "", "")]
        for i, row in enumerate(self._native.layer_table()):
            description = str(row.get("description", ""))
            parameters = int(row.get("parameters", 0))
            frozen = "frozen" if parameters and not row.get("trainable", True) else ""
            rows.append((str(row.get("name", i)), str(row["kind"]), description, str(row["outputs"]), f"{parameters:,}", frozen))
        widths = [max(len(row[c]) for row in rows) for c in range(len(header))]
        template = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<<<>><", widths, strict=True))
        lines = [template.format(*row).rstrip() for row in rows]
        rule = "-" * max(map(len, lines))
        size = self.num_parameters * self._dtype.itemsize
        products = "" if self._precision == "full" else f" with {self._precision} products"
        total = f"{self.num_parameters:,} parameters, {self._dtype}{products}, {size / 1024:,.1f} KiB"
        return "\n".join([lines[0], rule, *lines[1:], rule, total])

    def __repr__(self) -> str:
        precision = "" if self._precision == "full" else f", precision={self._precision!r}"
        return f"Network({self._inputs}, {list(self._layers)!r}, dtype={self._dtype.name!r}, seed={self._seed}{precision})"

    def copy(self, *, dtype: DTypeLike | None = None, precision: str | None = None) -> Network:
        """An independent network with the same weights and statistics, in another dtype or precision if one is given.

        Without `precision` a float64 copy computes in full, any other like this network.
        """
        new = self._dtype if dtype is None else _validate.dtype_of(dtype)
        if precision is None:
            precision = self._precision if new == self._dtype else "full"
        other = Network(self._inputs, self._layers, dtype=new, seed=self._seed, precision=precision)
        for name, value in self._parameters.items():
            other._parameters[name][...] = value
        for name, value in self._buffers.items():
            other._buffers[name][...] = value
        other._native.training_step = self._native.training_step
        return other

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of parameters and buffers by name, and "training_step"; while another thread trains, those between two of its steps."""
        parameters, buffers, step = self._native.copy_state()
        state = {**_views(parameters, self._native.parameter_segments()), **_views(buffers, self._native.buffer_segments())}
        state["training_step"] = np.array(step, dtype=np.int64)
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` gave.

        Raises
        ------
        TypeError, ValueError
            When names, shapes or dtypes differ; nothing is changed then.
        """
        own = {**self._parameters, **self._buffers}
        expected = {*own, "training_step"}
        missing, unknown = sorted(expected - set(state)), sorted(set(state) - expected)
        if missing or unknown:
            raise ValueError(f"state does not fit this network; missing: {missing or 'none'}, unknown: {unknown or 'none'}")
        for name, view in own.items():
            value = state[name]
            if not isinstance(value, np.ndarray):
                raise TypeError(f"state[{name!r}] must be a NumPy array; got {type(value).__name__}")
            if value.shape != view.shape or value.dtype != view.dtype:
                raise ValueError(f"state[{name!r}] must be {view.dtype} {view.shape}; got {value.dtype} {value.shape}")
        if np.shape(state["training_step"]) != ():
            raise ValueError(f"state['training_step'] must be one number; got shape {np.shape(state['training_step'])}")
        step = int(state["training_step"])
        if step < 0:
            raise ValueError(f"state['training_step'] must not be negative; got {step}")
        parameters, buffers = np.zeros_like(self._native.parameters), np.zeros_like(self._native.buffers)
        for flat, segments in ((parameters, self._native.parameter_segments()), (buffers, self._native.buffer_segments())):
            for name, view in _views(flat, segments).items():
                view[...] = state[name]
        self._native.set_state(parameters, buffers, step)

    def __copy__(self) -> Network:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self.copy()

    @property
    def _spec(self) -> dict[str, Any]:
        """What makes a network of the same shape."""
        return {"inputs": self._inputs, "layers": self._layers, "dtype": self._dtype.name, "seed": self._seed, "precision": self._precision}

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self._spec, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["spec"])  # type: ignore[misc]
        self.load_state_dict(state["state"])


def _views(flat: NDArray[Any], segments: Sequence[tuple[str, int, tuple[int, ...]]]) -> Views:
    views = {name: flat[offset : offset + int(np.prod(shape, dtype=np.int64))].reshape(shape) for name, offset, shape in segments}
    return MappingProxyType(views)


def _check_layers(given: Sequence[Layer]) -> tuple[Layer, ...]:
    if isinstance(given, Layer) or not isinstance(given, Sequence):
        raise TypeError(f"layers must be a list of layers; got {type(given).__name__}")
    if not given:
        raise ValueError("layers must not be empty")
    for i, layer in enumerate(given):
        if isinstance(layer, type):
            raise TypeError(f"layers[{i}] must be an instance; got the class {layer.__name__}: write {layer.__name__}(...)")
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{i}] must come from fastopt.layers; got {type(layer).__name__}")
        if isinstance(layer, layers.Standardize) and i > 0:
            raise ValueError(f"layers[{i}]: Standardize must be the first layer")
    return tuple(given)


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: str = "auto",
    standardize: bool = False,
    dtype: DTypeLike = "float32",
    seed: int | None = 0,
    precision: str = "full",
) -> Network:
    """A multi-layer perceptron; each hidden layer is Dense, BatchNorm, Activation, Dropout (those asked for), the last one Dense.

    Parameters
    ----------
    inputs, outputs : int
        Features and raw outputs (logits) of a row.
    hidden : sequence of int
        Units of the hidden layers; empty for a linear model.
    activation : str
        Of the hidden layers.
    batch_norm : bool
        Normalize each hidden layer before its activation.
    dropout : float
        Rate after each hidden layer, in [0, 1).
    init : str
        Initializer of the dense layers.
    standardize : bool
        Begin with a Standardize layer.
    dtype, seed, precision
        See `Network`.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.mlp(64, [128, 64], 10, seed=0).num_parameters
    17226
    """
    if isinstance(hidden, int | str) or not hasattr(hidden, "__iter__"):
        raise TypeError(f"hidden must be a list of layer widths, such as [128, 64]; got {hidden!r}")
    rate = layers.Dropout(dropout).rate
    name = layers.Activation(activation).name
    parts: list[Layer] = [layers.Standardize()] if standardize else []
    for i, units in enumerate(hidden):
        width = _validate.positive_int(units, f"hidden[{i}]")
        if batch_norm:
            parts += [layers.Dense(width, init=_resolve(init, name)), layers.BatchNorm(), layers.Activation(name)]
        else:
            parts.append(layers.Dense(width, activation=name, init=init))
        if rate:
            parts.append(layers.Dropout(rate))
    last = "glorot_uniform" if init == "auto" else init
    parts.append(layers.Dense(_validate.positive_int(outputs, "outputs"), init=last))
    return Network(inputs, parts, dtype=dtype, seed=seed, precision=precision)


def _resolve(init: str, activation: str) -> str:
    """The initializer that "auto" means before this activation, for layers with a normalization in between."""
    if init != "auto":
        return init
    if activation == "selu":
        return "lecun_normal"
    return "he_uniform" if activation in ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu") else "glorot_uniform"


def _named(columns: NDArray[np.intp]) -> tuple[int, str]:
    """The first of some columns, and how a message calls all of them."""
    first = int(columns[0])
    return first, f"column {first}" + (f" and {len(columns) - 1} more" if len(columns) > 1 else "")
