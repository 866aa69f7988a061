"""The training loss of a network on the full batch as a function of one flat float64 vector: its trainable parameters.

Value and gradient include the penalties; the loss is that of inference mode, so it is one and the same function in every call. The
second-order solvers compute in float64: for a float32 network on a copy, which takes the same rounded parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _second_order
from fastopt._native import FLOAT32, FLOAT64, SECOND_ORDER, native_loss

if TYPE_CHECKING:
    from fastopt._directions import Matrix, Vector
    from fastopt.losses import Loss
    from fastopt.network import Network

ROUNDING = {FLOAT32: 4.0 * float(np.finfo(np.float32).eps), FLOAT64: 4.0 * float(np.finfo(np.float64).eps)}
BEND_STEP = 0.1  # of a step, for its second derivative


class Objective:
    """Loss and derivatives of a network on fixed data; `data_loss` is the loss without penalties where it was evaluated last."""

    def __init__(
        self, network: Network, loss: Loss, x: NDArray[Any], y: NDArray[Any], weight: NDArray[Any] | None,
        *, l1: float, l2: float, double: bool,
    ) -> None:  # fmt: skip
        self._network = network
        self._twin = network.copy(dtype=FLOAT64) if double and network.dtype != FLOAT64 else network
        dtype = self._twin.dtype
        self._native = SECOND_ORDER[dtype](self._twin._native)
        self._loss = native_loss(loss, dtype)
        target = y if y.dtype.kind == "i" else np.ascontiguousarray(y, dtype=dtype)
        self._data = (x, target, None if weight is None else np.ascontiguousarray(weight, dtype=dtype))
        self.rounding = ROUNDING[dtype]
        self.data_loss = np.nan
        self._flat = np.empty(network.num_parameters, dtype)
        self._gradient = np.empty(network.num_parameters, dtype)
        self._matrix: Matrix | None = None
        self._select(l1, l2)

    def _select(self, l1: float, l2: float) -> None:
        """Which parameters are trained, and the penalty of each of them."""
        size = self._network.num_parameters
        trained, absolute, square = np.ones(size, dtype=bool), np.zeros(size), np.zeros(size)
        parts = (_second_order.split(self._network, array) for array in (trained, absolute, square))
        for (name, mask), a, s in zip(*(part.items() for part in parts), strict=True):
            layer = self._network.layers[int(name.split(".")[0])]
            mask[...] = getattr(layer, "trainable", True)
            if name.endswith(".weight"):
                a[1][...] = l1 + getattr(layer, "l1", 0.0)
                s[1][...] = l2 + getattr(layer, "l2", 0.0)
        self._chosen = None if trained.all() else np.flatnonzero(trained)
        self._l1, self._l2 = self._trained(absolute), self._trained(square)
        self.has_kinks = bool(self._l1.any())
        self._plain = not self.has_kinks and not self._l2.any()
        self.size = int(trained.sum())

    def _trained(self, full: NDArray[Any]) -> NDArray[Any]:
        return full if self._chosen is None else full[self._chosen]

    # The parameters

    def read(self) -> Vector:
        """The trainable parameters of the network."""
        flat = np.concatenate([view.ravel() for view in self._network.parameters.values()])
        return self._trained(flat).astype(np.float64)

    def settle(self, x: Vector) -> Vector:
        """x as the network holds it."""
        return x.astype(self._network.dtype).astype(np.float64)

    def write(self, x: Vector) -> None:
        """Put x into the network."""
        self._place(x.astype(self._network.dtype), {id(self._network): self._network, id(self._twin): self._twin}.values())

    def _place(self, x: NDArray[Any], networks: Iterable[Network]) -> None:
        if self._chosen is None:
            self._flat[...] = x
        else:
            self._flat[...] = np.concatenate([view.ravel() for view in self._network.parameters.values()])
            self._flat[self._chosen] = x
        for network in networks:
            for name, part in _second_order.split(network, self._flat).items():
                network.parameters[name][...] = part

    # The function

    def _penalty(self, x: Vector) -> float:
        return 0.0 if self._plain else float(self._l1 @ np.abs(x) + self._l2 @ (x * x))

    def penalty_slope(self, x: Vector) -> Vector:
        """Gradient of the penalties, `l1 sign(x) + 2 l2 x`: a subgradient where an L1 penalty has its kink."""
        return self._l1 * np.sign(x) + 2.0 * self._l2 * x

    def value(self, x: Vector) -> float:
        """Loss and penalties at x."""
        self.write(x)
        self.data_loss = self._native.gradient(self._loss, *self._data, None)
        return self.data_loss + self._penalty(self.settle(x))

    def value_and_grad(self, x: Vector) -> tuple[float, Vector]:
        """Loss and penalties at x, and their gradient."""
        self.write(x)
        self.data_loss = self._native.gradient(self._loss, *self._data, self._gradient)
        grad = self._trained(self._gradient).astype(np.float64)
        if self._plain:
            return self.data_loss, grad
        at = self.settle(x)
        return self.data_loss + self._penalty(at), grad + self.penalty_slope(at)

    def grad(self, x: Vector) -> Vector:
        """Gradient of loss and penalties at x."""
        return self.value_and_grad(x)[1]

    # Second order, at the point where the parameters were written last

    def hvp(self, v: Vector) -> Vector:
        """Hessian times v; the curvature of an L1 penalty counts as 0."""
        along, out = np.zeros(self._network.num_parameters), np.empty(self._network.num_parameters)
        along[slice(None) if self._chosen is None else self._chosen] = v
        self._native.hessian_vector(self._loss, *self._data, along, out)
        product: Vector = self._trained(out) + 2.0 * self._l2 * v
        return product

    def hessian(self, x: Vector) -> Matrix:
        """The Hessian at x, until the next matrix is asked for."""
        self.write(x)
        self._native.hessian(self._loss, *self._data, self._square())
        return self._with_diagonal(2.0 * self._l2)

    def gauss_newton(self, x: Vector) -> tuple[float, Vector, Matrix]:
        """Of the squared error: value, half of the gradient, half of the Gauss-Newton matrix at x, until the next matrix is asked for."""
        self.write(x)
        self.data_loss = self._native.gauss_newton(self._loss, *self._data, self._square(), self._gradient)
        grad, at = self._trained(self._gradient).astype(np.float64), self.settle(x)
        return self.data_loss + self._penalty(at), grad + 0.5 * self.penalty_slope(at), self._with_diagonal(self._l2)

    def _square(self) -> Matrix:
        if self._matrix is None:
            self._matrix = np.empty((self._network.num_parameters, self._network.num_parameters))
        return self._matrix

    def _with_diagonal(self, added: Vector) -> Matrix:
        matrix = self._square() if self._chosen is None else self._square()[np.ix_(self._chosen, self._chosen)]
        matrix[np.diag_indices_from(matrix)] += added
        return matrix

    def outputs(self, x: Vector) -> NDArray[Any]:
        """Raw outputs at x, which is not rounded here."""
        self._place(x, [self._twin])
        return self._twin._infer(self._data[0])

    def pull_of_bend(self, x: Vector, d: Vector, centre: NDArray[Any]) -> Vector:
        """`J'D b` at x, where b is the second derivative of the outputs along d by central differences (Transtrum and Sethna 2011).

        It is half of the gradient of the squared error to the target `centre - b`; `centre` are the outputs at x.
        """
        bend = (self.outputs(x + BEND_STEP * d) + self.outputs(x - BEND_STEP * d) - 2.0 * centre) / BEND_STEP**2
        self._place(x, [self._twin])
        rows, _, weight = self._data
        self._native.gradient(self._loss, rows, centre - bend, weight, self._gradient)
        return self._trained(0.5 * self._gradient)
