"""A dense network in NumPy as a careful person writes it: buffers allocated once, `out=` everywhere, Adam in place, float32."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from workloads import Array, Weights, Workload

LABEL = "NumPy"
LEARNING_RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
CHUNK = 1 << 15  # Adam works in pieces that stay in L2: 12 passes over them cost one trip to memory


def set_threads(_: int) -> None:
    """OpenBLAS reads OPENBLAS_NUM_THREADS when it is loaded."""


class AdamInPlace:
    def __init__(self, size: int) -> None:
        self.m = np.zeros(size, dtype=np.float32)
        self.v = np.zeros(size, dtype=np.float32)
        self.scratch = np.empty(min(size, CHUNK), dtype=np.float32)
        self.t = 0

    def step(self, parameters: Array, gradients: Array) -> None:
        self.t += 1
        root = (1 - BETA2**self.t) ** 0.5
        rate = LEARNING_RATE * root / (1 - BETA1**self.t)
        for start in range(0, parameters.size, CHUNK):
            piece = slice(start, start + CHUNK)
            w, g, m, v = parameters[piece], gradients[piece], self.m[piece], self.v[piece]
            s = self.scratch[: w.size]
            np.multiply(g, 1 - BETA1, out=s)
            m *= BETA1
            m += s
            np.multiply(g, g, out=s)
            s *= 1 - BETA2
            v *= BETA2
            v += s
            np.sqrt(v, out=s)
            s += EPS * root
            np.divide(m, s, out=s)
            s *= rate
            w -= s


class Trainer:
    def __init__(self, workload: Workload, weights: Weights, x: Array, y: NDArray[np.float32] | NDArray[np.int64]) -> None:
        self.x, self.y, self.batch, self.classes = x, y, workload.batch, workload.classes
        self.generator = np.random.default_rng(1)
        self.parameters = np.concatenate([part.ravel() for layer in weights for part in layer])
        self.gradients = np.empty_like(self.parameters)
        self.adam = AdamInPlace(self.parameters.size)
        self.layers = views(self.parameters, workload.sizes)
        self.layer_gradients = views(self.gradients, workload.sizes)

        rows = workload.batch
        self.h = [np.empty((rows, width), dtype=np.float32) for width in workload.sizes]
        self.delta = [np.empty_like(h) for h in self.h]
        self.sign = [np.empty_like(h) for h in self.h]
        self.target = np.empty((rows, *y.shape[1:]), dtype=y.dtype)
        self.row_value = np.empty((rows, 1), dtype=np.float32)
        self.row_numbers = np.arange(rows)
        self.ones = np.ones(rows, dtype=np.float32)
        self.whole = workload.whole
        if self.whole:
            self.h[0], self.target = x, y

    def gather(self, rows: NDArray[np.int64]) -> None:
        # mode="clip" writes into `out` directly; the default goes through a buffer.
        np.take(self.x, rows, axis=0, out=self.h[0], mode="clip")
        np.take(self.y, rows, axis=0, out=self.target, mode="clip")

    def forward(self) -> None:
        for index, (weight, bias) in enumerate(self.layers):
            a = self.h[index + 1]
            np.matmul(self.h[index], weight, out=a)
            a += bias
            if index + 1 < len(self.layers):
                np.maximum(a, 0, out=a)

    def loss(self) -> float:
        """The mean loss; leaves its gradient in the last `delta`."""
        prediction, d = self.h[-1], self.delta[-1]
        if not self.classes:
            np.subtract(prediction, self.target, out=d)
            value = float(np.dot(d.ravel(), d.ravel())) / d.size
            d *= 2 / d.size
            return value
        np.max(prediction, axis=1, keepdims=True, out=self.row_value)
        prediction -= self.row_value
        np.exp(prediction, out=d)
        np.sum(d, axis=1, keepdims=True, out=self.row_value)
        d /= self.row_value
        np.log(self.row_value, out=self.row_value)
        value = (float(self.row_value.sum()) - float(prediction[self.row_numbers, self.target].sum())) / self.batch
        d[self.row_numbers, self.target] -= 1
        d *= 1 / self.batch
        return value

    def backward(self) -> None:
        for index in reversed(range(len(self.layers))):
            d, (grad_weight, grad_bias) = self.delta[index + 1], self.layer_gradients[index]
            np.matmul(self.h[index].T, d, out=grad_weight)
            np.dot(self.ones, d, out=grad_bias)
            if index > 0:
                np.matmul(d, self.layers[index][0].T, out=self.delta[index])
                np.sign(self.h[index], out=self.sign[index])  # 0 or 1: the derivative of ReLU
                self.delta[index] *= self.sign[index]

    def step(self, rows: NDArray[np.int64]) -> float:
        if not self.whole:
            self.gather(rows)
        self.forward()
        value = self.loss()
        self.backward()
        self.adam.step(self.parameters, self.gradients)
        return value

    def losses(self, batches: NDArray[np.int64]) -> list[float]:
        return [self.step(rows) for rows in batches]

    def epochs(self, count: int) -> None:
        for _ in range(count):
            order = self.generator.permutation(len(self.x)).reshape(-1, self.batch)
            sum(self.step(rows) for rows in order)


def views(flat: Array, sizes: tuple[int, ...]) -> Weights:
    """Weight matrices and biases inside one flat array."""
    layers, start = [], 0
    for inputs, outputs in pairwise(sizes):
        middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
        layers.append((flat[start:middle].reshape(inputs, outputs), flat[middle:end]))
        start = end
    return layers


def inference(weights: Weights, x: Array) -> Callable[[], Array]:
    outputs = [np.empty((len(x), weight.shape[1]), dtype=np.float32) for weight, _ in weights]

    def predict() -> Array:
        h = x
        for index, ((weight, bias), a) in enumerate(zip(weights, outputs, strict=True)):
            np.matmul(h, weight, out=a)
            np.add(a, bias, out=a)
            h = np.maximum(a, 0, out=a) if index + 1 < len(weights) else a
        return h

    return predict
