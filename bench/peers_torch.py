"""torch eager, as its tutorials train: resident tensors, shuffled index batches, fused Adam."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from workloads import Array, Weights, Workload

LABEL = "torch"


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def make_model(weights: Weights) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for weight, bias in weights:
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight.T)))
            linear.bias.copy_(torch.from_numpy(np.array(bias)))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class Trainer:
    def __init__(self, workload: Workload, weights: Weights, x: Array, y: NDArray[np.float32] | NDArray[np.int64]) -> None:
        self.x, self.y, self.batch = torch.from_numpy(x), torch.from_numpy(y), workload.batch
        self.whole = workload.whole
        self.model = make_model(weights)
        self.loss = functional.cross_entropy if workload.classes else functional.mse_loss
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        x, y = (self.x, self.y) if self.whole else (self.x[rows], self.y[rows])
        loss = self.loss(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def losses(self, batches: NDArray[np.int64]) -> list[float]:
        return [float(self.step(torch.from_numpy(rows))) for rows in batches]

    def epochs(self, count: int) -> None:
        for _ in range(count):
            total = torch.zeros(())
            for rows in torch.randperm(len(self.x)).split(self.batch):
                total += self.step(rows)
            total.item()


def inference(weights: Weights, x: Array) -> Callable[[], object]:
    model, rows = make_model(weights).eval(), torch.from_numpy(x)

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            return model(rows)

    return predict


# One constructor per rule that torch has, fused where it offers that on the CPU, else its multi-tensor form.
OPTIMIZERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, fused=True),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, foreach=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, foreach=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3, foreach=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3, foreach=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-3, foreach=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3, foreach=True),
}


def optimizer_step(name: str, parameters: Array, gradients: Array) -> Callable[[], object] | None:
    """One update of a copy of `parameters`; None when torch has no such rule."""
    if name not in OPTIMIZERS:
        return None
    tensor = torch.from_numpy(parameters).clone().requires_grad_()  # clone: on a cache line, as torch allocates
    tensor.grad = torch.from_numpy(gradients).clone()
    return OPTIMIZERS[name]([tensor]).step


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "softplus": functional.softplus,
    "hard_tanh": functional.hardtanh,
}


def activation(name: str, x: Array) -> Callable[[], object] | None:
    function, tensor = ACTIVATIONS.get(name), torch.from_numpy(x)
    return None if function is None else lambda: function(tensor)


def matmul(a: Array, b: Array) -> Callable[[], object]:
    """Of the arrays as they are: a transposed view stays one."""
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty(left.shape[0], right.shape[1])
    return lambda: torch.mm(left, right, out=out)


def dense_forward(x: Array, weight: Array, bias: Array) -> Callable[[], object]:
    rows, stored, shift = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(weight.T)), torch.from_numpy(bias)
    return lambda: torch.relu_(functional.linear(rows, stored, shift))


def dense_backward(x: Array, weight: Array, grad: Array) -> Callable[[], object]:
    """The three products that autograd runs for a linear layer, whose weight torch stores as (outputs, inputs)."""
    rows, stored, delta = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(weight.T)), torch.from_numpy(grad)
    return lambda: (delta.t() @ rows, delta.sum(0), delta @ stored)


def batchnorm(x: Array, gamma: Array, beta: Array, grad_out: Array) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward in training mode and backward, straight from torch's operator table."""
    tx, tg, tb, td = (torch.from_numpy(array) for array in (x, gamma, beta, grad_out))
    mean, variance = torch.zeros_like(tg), torch.ones_like(tg)
    _, saved_mean, saved_scale = torch.native_batch_norm(tx, tg, tb, mean, variance, True, 0.1, 1e-5)

    def forward() -> object:
        return torch.native_batch_norm(tx, tg, tb, mean, variance, True, 0.1, 1e-5)

    def backward() -> object:
        arguments = (td, tx, tg, mean, variance, saved_mean, saved_scale, True, 1e-5, [True, True, True])
        return torch.ops.aten.native_batch_norm_backward(*arguments)

    return forward, backward
