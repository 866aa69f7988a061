"""Matrix products, dense layers and activations against NumPy and torch, as fractions of the limits measured in the same rounds."""

from collections.abc import Callable

import numpy as np
from context import Context
from harness import Contestant, Summary, repeat
from numpy.typing import NDArray
from report import micros, number, peer, percent, plus_minus
from workloads import aligned

Array = NDArray[np.float32]

# (m, k, n) of a @ b, and how the operands are stored: n as they are, t transposed.
PRODUCTS = (
    ("nn", 32, 64, 64),
    ("nn", 128, 784, 512),
    ("nn", 256, 512, 512),
    ("nt", 256, 512, 512),
    ("tn", 512, 256, 512),
    ("nn", 256, 1024, 1024),
    ("nn", 1024, 1024, 1024),
)
# Rows, inputs, outputs.
DENSE = ((32, 8, 32), (32, 64, 64), (64, 128, 64), (64, 64, 10), (128, 784, 512), (128, 512, 10), (1024, 2048, 2048))
ACTIVATION_SHAPES = ((64, 128), (1024, 1024))
QUICK_LIMIT = 5e8  # --quick leaves out what needs more floating-point operations per call

NUMPY_ACTIVATIONS: dict[str, Callable[[Array, Array], object]] = {
    "relu": lambda x, out: np.maximum(x, 0, out=out),
    "tanh": lambda x, out: np.tanh(x, out=out),
    "hard_tanh": lambda x, out: np.clip(x, -1, 1, out=out),
    "softplus": lambda x, out: np.logaddexp(x, 0, out=out),
}


def numpy_sigmoid(x: Array, out: Array) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def numpy_leaky_relu(x: Array, out: Array) -> None:
    np.multiply(x, 0.01, out=out)
    np.maximum(x, out, out=out)


def numpy_silu(x: Array, out: Array) -> None:
    numpy_sigmoid(x, out)
    out *= x


def numpy_elu(x: Array, out: Array) -> None:
    np.minimum(x, 0, out=out)
    np.expm1(out, out=out)
    np.maximum(x, out, out=out)


def numpy_gelu_tanh(x: Array, out: Array) -> None:
    np.multiply(x, x, out=out)
    out *= 0.044715
    out += 1
    out *= x
    out *= 0.7978845608
    np.tanh(out, out=out)
    out += 1
    out *= x
    out *= 0.5


NUMPY_ACTIVATIONS |= {
    "sigmoid": numpy_sigmoid,
    "leaky_relu": numpy_leaky_relu,
    "silu": numpy_silu,
    "elu": numpy_elu,
    "gelu_tanh": numpy_gelu_tanh,
}


def run(context: Context) -> None:
    products(context)
    dense(context)
    activations(context)


def normal(*shape: int, seed: int = 0) -> Array:
    out = aligned(*shape)
    out[...] = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return out


def products(context: Context) -> None:
    context.report.begin("kernels", "matrix products m, k, n (float32)")
    rows = []
    for kind, m, k, n in PRODUCTS:
        if context.quick and 2 * m * k * n > QUICK_LIMIT:
            continue
        a, b = normal(k, m).T if kind[0] == "t" else normal(m, k), normal(n, k).T if kind[1] == "t" else normal(k, n)
        rows.append(product(context, f"matmul {kind} {m}, {k}, {n}", a, b))
    context.report.table(["product", "MFLOP", "fastopt GFLOP/s", "of limit", "NumPy µs", "torch µs"], rows)


def product(context: Context, case: str, a: Array, b: Array) -> list[str]:
    """`a` and `b` may be transposed views: NumPy and torch pass that on to their BLAS, fastopt as flags."""
    out, expected = np.empty((a.shape[0], b.shape[1]), dtype=np.float32), a @ b
    transpose_a, transpose_b = not a.flags.c_contiguous, not b.flags.c_contiguous
    stored_a, stored_b = a.T if transpose_a else a, b.T if transpose_b else b

    def native() -> None:
        context.core.matmul(stored_a, stored_b, out, transpose_a, transpose_b)

    native()
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
    contestants = [
        Contestant("fastopt", repeat(native)),
        Contestant("NumPy", repeat(lambda: np.matmul(a, b, out=expected))),
        context.fma_limit(),
    ]
    if torch := context.peer("torch"):
        contestants.append(Contestant("torch", repeat(torch.matmul(a, b))))
    return flop_row(context, case, 2 * a.shape[0] * a.shape[1] * b.shape[1], context.measure(contestants))


def flop_row(context: Context, case: str, flops: int, times: dict[str, Summary]) -> list[str]:
    limit = times.pop("FMA limit")
    context.report.add(case, "FMA limit", limit, "FLOP/s", higher_is_better=True)
    for name, summary in times.items():
        context.report.add(case, name, summary, "s", flops=flops, of_limit=summary.fraction_of(limit, flops))
    ours = times["fastopt"]
    return [
        case,
        number(flops * 1e-6),
        f"{number(flops / ours.median * 1e-9)} {plus_minus(ours)}",
        percent(ours.fraction_of(limit, flops)),
        peer(times["NumPy"], ours),
        peer(times.get("torch"), ours),
    ]


def dense(context: Context) -> None:
    context.report.begin("kernels", "dense layer, rows x inputs → outputs (float32)")
    rows = []
    for m, k, n in DENSE:
        if not (context.quick and 2 * m * k * n > QUICK_LIMIT):
            rows += [dense_forward(context, m, k, n), dense_backward(context, m, k, n)]
    context.report.table(["layer", "MFLOP", "fastopt GFLOP/s", "of limit", "NumPy µs", "torch µs"], rows)


def dense_forward(context: Context, m: int, k: int, n: int) -> list[str]:
    x, weight, bias = normal(m, k), normal(k, n, seed=1), normal(n, seed=2)
    out, expected = np.empty((m, n), dtype=np.float32), np.empty((m, n), dtype=np.float32)

    def native() -> None:
        context.core.dense_forward(x, weight, bias, "relu", out, None)

    def numpy() -> None:
        np.matmul(x, weight, out=expected)
        np.add(expected, bias, out=expected)
        np.maximum(expected, 0, out=expected)

    native()
    numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
    contestants = [Contestant("fastopt", repeat(native)), Contestant("NumPy", repeat(numpy)), context.fma_limit()]
    if torch := context.peer("torch"):
        contestants.append(Contestant("torch", repeat(torch.dense_forward(x, weight, bias))))
    return flop_row(context, f"forward {m} x {k} → {n}, relu", 2 * m * k * n, context.measure(contestants))


def dense_backward(context: Context, m: int, k: int, n: int) -> list[str]:
    x, weight, grad = normal(m, k), normal(k, n, seed=1), normal(m, n, seed=2)
    grads = [np.empty((k, n), dtype=np.float32), np.empty(n, dtype=np.float32), np.empty((m, k), dtype=np.float32)]
    expected, ones = [np.empty_like(array) for array in grads], np.ones(m, dtype=np.float32)

    def native() -> None:
        context.core.dense_backward(x, weight, grad, *grads)

    def numpy() -> None:
        np.matmul(x.T, grad, out=expected[0])
        np.dot(ones, grad, out=expected[1])
        np.matmul(grad, weight.T, out=expected[2])

    native()
    numpy()
    for ours, theirs in zip(grads, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    contestants = [Contestant("fastopt", repeat(native)), Contestant("NumPy", repeat(numpy)), context.fma_limit()]
    if torch := context.peer("torch"):
        contestants.append(Contestant("torch", repeat(torch.dense_backward(x, weight, grad))))
    return flop_row(context, f"backward {m} x {k} → {n}", 4 * m * k * n, context.measure(contestants))


def activations(context: Context) -> None:
    context.report.begin("kernels", "activations (float32)")
    shapes = ACTIVATION_SHAPES[: 1 if context.quick else None]
    rows = [activation(context, name, shape) for shape in shapes for name in context.core.activation_names()]
    context.report.table(["activation", "forward µs", "of copy", "NumPy µs", "torch µs", "backward µs"], rows)


def activation(context: Context, name: str, shape: tuple[int, int]) -> list[str]:
    x, grad = normal(*shape), normal(*shape, seed=1)
    out, grad_x, expected = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    contestants = [
        Contestant("fastopt", repeat(lambda: context.core.activation_forward(name, x, out))),
        Contestant("fastopt backward", repeat(lambda: context.core.activation_backward(name, x, out, grad, grad_x))),
        context.copy_limit(2 * x.nbytes),
    ]
    if numpy := NUMPY_ACTIVATIONS.get(name):
        context.core.activation_forward(name, x, out)
        numpy(x, expected)
        np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
        contestants.append(Contestant("NumPy", repeat(lambda: numpy(x, expected))))
    if (torch := context.peer("torch")) and (function := torch.activation(name, x)):
        contestants.append(Contestant("torch", repeat(function)))

    case = f"{name} {shape[0]} x {shape[1]}"
    times = context.measure(contestants)
    limit = times.pop("copy limit")
    context.report.add(case, "copy limit", limit, "B/s", higher_is_better=True)
    for contestant, summary in times.items():
        context.report.add(case, contestant, summary, "s", elements=x.size)
    ours = times["fastopt"]
    return [
        case,
        micros(ours),
        percent(ours.fraction_of(limit, 2 * x.nbytes)),
        peer(times.get("NumPy"), ours),
        peer(times.get("torch"), ours),
        number(times["fastopt backward"].median * 1e6),
    ]
