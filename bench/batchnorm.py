"""BatchNorm forward (training) and backward as a fraction of copy bandwidth, at sizes above L2."""

import numpy as np
from context import Context
from harness import Contestant, Summary, repeat
from kernels import normal
from report import micros, number, peer, percent
from workloads import aligned

SHAPES = ((4096, 256), (1024, 1024), (8192, 512), (65536, 512))  # rows, columns: 4 MiB to 128 MiB per array
QUICK_SHAPES = ((1024, 256),)
MUST_REACH = 0.80
FORWARD_PASSES = 3  # x twice (statistics, result), out once
BACKWARD_PASSES = 5  # x and the gradient twice (sums, result), the gradient with respect to x once


def run(context: Context) -> None:
    context.report.begin("batchnorm", f"bytes per second against the copy loop, must reach {percent(MUST_REACH)} (float32)")
    rows = []
    for shape in QUICK_SHAPES if context.quick else SHAPES:
        rows += one_shape(context, *shape)
    context.report.table(["batchnorm", "µs", "GB/s", "copy GB/s", "of copy", "torch µs"], rows)


def one_shape(context: Context, m: int, n: int) -> list[list[str]]:
    x, grad = normal(m, n), normal(m, n, seed=1)
    gamma, beta, running_mean, running_variance, mean, inverse_std, grad_gamma, grad_beta = (aligned(n) for _ in range(8))
    gamma[...], beta[...], running_mean[...], running_variance[...] = 1, 0, 0, 1
    out, grad_x = aligned(m, n), aligned(m, n)

    def forward() -> None:
        context.core.batchnorm_forward(x, gamma, beta, running_mean, running_variance, 0.1, 1e-5, False, out, mean, inverse_std)

    def backward() -> None:
        context.core.batchnorm_backward(x, gamma, mean, inverse_std, grad, grad_x, grad_gamma, grad_beta)

    forward()
    np.testing.assert_allclose(out, (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5), rtol=1e-3, atol=1e-3)
    contestants = [
        Contestant("fastopt forward", repeat(forward)),
        Contestant("fastopt backward", repeat(backward)),
        context.copy_limit(2 * x.nbytes, "copy forward"),
        context.copy_limit(3 * x.nbytes, "copy backward"),
    ]
    if torch := context.peer("torch"):
        torch_forward, torch_backward = torch.batchnorm(x, gamma, beta, grad)
        contestants += [Contestant("torch forward", repeat(torch_forward)), Contestant("torch backward", repeat(torch_backward))]
    times = context.measure(contestants)
    case = f"{m} x {n}"
    return [
        bandwidth_row(context, f"{case} forward", FORWARD_PASSES * x.nbytes, times, "forward"),
        bandwidth_row(context, f"{case} backward", BACKWARD_PASSES * x.nbytes, times, "backward"),
    ]


def bandwidth_row(context: Context, case: str, num_bytes: int, times: dict[str, Summary], direction: str) -> list[str]:
    ours, copy, theirs = times[f"fastopt {direction}"], times[f"copy {direction}"], times.get(f"torch {direction}")
    context.report.add(case, "copy limit", copy, "B/s", higher_is_better=True)
    context.report.add(case, "fastopt", ours, "s", bytes=num_bytes, of_limit=ours.fraction_of(copy, num_bytes))
    if theirs is not None:
        context.report.add(case, "torch", theirs, "s", bytes=num_bytes)
    return [
        case,
        micros(ours),
        number(num_bytes / ours.median * 1e-9),
        number(copy.median * 1e-9),
        percent(ours.fraction_of(copy, num_bytes)),
        peer(theirs, ours),
    ]
