"""JAX at its best: data resident, one compiled call per epoch that scans over the shuffled index batches, Adam of optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from workloads import Array, Weights, Workload

LABEL = "JAX"


def set_threads(_: int) -> None:
    """XLA takes as many threads as the affinity of the process allows."""


def forward(parameters: Any, x: jax.Array) -> jax.Array:
    for weight, bias in parameters[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = parameters[-1]
    return x @ weight + bias


def on_device(weights: Weights) -> list[tuple[jax.Array, jax.Array]]:
    return [(jnp.array(weight), jnp.array(bias)) for weight, bias in weights]


class Trainer:
    def __init__(self, workload: Workload, weights: Weights, x: Array, y: NDArray[np.float32] | NDArray[np.int64]) -> None:
        self.batch = workload.batch
        self.x = jnp.array(x)
        self.y = jnp.array(y.astype(np.int32) if workload.classes else y)
        self.generator = np.random.default_rng(1)
        adam = optax.adam(1e-3)
        self.parameters: Any = on_device(weights)
        self.state = adam.init(self.parameters)

        def loss(parameters: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            prediction = forward(parameters, x)
            if workload.classes:
                return optax.softmax_cross_entropy_with_integer_labels(prediction, y).mean()
            return jnp.mean((prediction - y) ** 2)

        def epoch(parameters: Any, state: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> tuple[Any, Any, jax.Array]:
            def step(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
                parameters, state = carry
                batch = (x, y) if workload.whole else (x[rows], y[rows])
                value, gradients = jax.value_and_grad(loss)(parameters, *batch)
                updates, state = adam.update(gradients, state)
                return (optax.apply_updates(parameters, updates), state), value

            (parameters, state), values = jax.lax.scan(step, (parameters, state), order)
            return parameters, state, values

        self.epoch = jax.jit(epoch, donate_argnums=(0, 1))

    def run(self, order: NDArray[np.int64]) -> jax.Array:
        batches = jnp.asarray(order.astype(np.int32).reshape(-1, self.batch))
        self.parameters, self.state, values = self.epoch(self.parameters, self.state, self.x, self.y, batches)
        return values

    def losses(self, batches: NDArray[np.int64]) -> list[float]:
        steps = len(self.x) // self.batch  # a whole epoch, so that the function compiles once
        return [float(value) for value in self.run(np.resize(batches, (steps, self.batch)))[: len(batches)]]

    def epochs(self, count: int) -> None:
        for _ in range(count):
            values = self.run(self.generator.permutation(len(self.x)))
        values.block_until_ready()


def inference(weights: Weights, x: Array) -> Callable[[], object]:
    parameters, rows, predict = on_device(weights), jnp.array(x), jax.jit(forward)
    return lambda: predict(parameters, rows).block_until_ready()
