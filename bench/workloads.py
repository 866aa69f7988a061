"""The five training workloads, their generated data, and what one step of each costs in floating-point operations."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CACHE_LINE, HUGE_PAGE = 64, 1 << 21  # bytes


@dataclass(frozen=True)
class Workload:
    """A dense ReLU network trained with Adam on shuffled batches.

    `must_reach` is the promised advantage over JAX jit + scan.
    """

    name: str
    sizes: tuple[int, ...]  # inputs, hidden widths, outputs
    batch: int
    steps: int  # per epoch
    loss: str
    must_reach: float

    @property
    def rows(self) -> int:
        return self.batch * self.steps

    @property
    def whole(self) -> bool:
        """One step on all rows, which nobody needs to gather."""
        return self.steps == 1

    @property
    def title(self) -> str:
        return f"{self.name} {'-'.join(map(str, self.sizes))} batch {self.batch}"

    @property
    def classes(self) -> int:
        """0 for regression."""
        return self.sizes[-1] if self.loss == "softmax_cross_entropy" else 0

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one step: forward, weight gradients, input gradients but the first."""
        products = [a * b for a, b in pairwise(self.sizes)]
        return 2 * self.batch * (3 * sum(products) - products[0])

    @property
    def parameters(self) -> int:
        return sum((a + 1) * b for a, b in pairwise(self.sizes))

    @property
    def optimizer_bytes(self) -> int:
        """Read weight, gradient and two slots; write weight and two slots."""
        return 28 * self.parameters


CROSS_ENTROPY = "softmax_cross_entropy"

WORKLOADS = (
    Workload("tiny", (8, 32, 32, 1), 32, 128, "mse", 5.0),
    Workload("tabular", (30, 64, 64, 2), 32, 128, CROSS_ENTROPY, 3.0),
    Workload("digits", (64, 128, 64, 10), 64, 28, CROSS_ENTROPY, 3.0),
    Workload("mnist", (784, 512, 512, 10), 128, 63, CROSS_ENTROPY, 1.4),
    Workload("large", (784, 2048, 2048, 2048, 10), 1024, 2, CROSS_ENTROPY, 1.2),
)

QUICK_WORKLOADS = (
    Workload("tiny", (8, 32, 32, 1), 32, 32, "mse", 5.0),
    Workload("tabular", (30, 64, 64, 2), 32, 32, CROSS_ENTROPY, 3.0),
    Workload("digits", (64, 128, 64, 10), 64, 8, CROSS_ENTROPY, 3.0),
    Workload("mnist", (784, 512, 512, 10), 128, 4, CROSS_ENTROPY, 1.4),
    Workload("large", (784, 1024, 1024, 1024, 10), 256, 1, CROSS_ENTROPY, 1.2),
)

Array = NDArray[np.float32]
Weights = list[tuple[Array, Array]]  # (inputs, outputs) matrix and bias of every layer


def aligned(*shape: int) -> Array:
    """An empty array placed as the buffers of a network are: from a cache line on, a large one in huge pages of its own."""
    size = int(np.prod(shape))
    unit = CACHE_LINE if size * 4 < HUGE_PAGE else HUGE_PAGE
    raw = np.empty(-(-size * 4 // unit) * unit // 4 + unit // 4, dtype=np.float32)  # NumPy asks for huge pages from 4 MiB on
    start = (-raw.ctypes.data % unit) // 4
    return raw[start : start + size].reshape(shape)


def make_data(workload: Workload, seed: int = 0) -> tuple[Array, NDArray[np.float32] | NDArray[np.int64]]:
    """Rows of noise and a noisy rule: gradients stay alive however long the benchmark trains."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((workload.rows, workload.sizes[0]), dtype=np.float32)
    rule = generator.standard_normal((workload.sizes[0], workload.sizes[-1]), dtype=np.float32) / np.sqrt(np.float32(workload.sizes[0]))
    score = x @ rule + generator.standard_normal((workload.rows, workload.sizes[-1]), dtype=np.float32)
    return x, np.argmax(score, axis=1) if workload.classes else score


def initial_weights(sizes: tuple[int, ...], seed: int = 0) -> Weights:
    """Glorot-uniform weights and zero biases."""
    generator = np.random.default_rng(seed)
    weights = []
    for inputs, outputs in pairwise(sizes):
        bound = np.sqrt(6.0 / (inputs + outputs))
        weights.append((generator.uniform(-bound, bound, (inputs, outputs)).astype(np.float32), np.zeros(outputs, dtype=np.float32)))
    return weights
