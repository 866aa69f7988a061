"""bfloat16 products beside float32, each as a fraction of its own limit: products of a dense layer, whole training epochs.

Float32 runs in the same race. Before the clock runs on a training race, both take the same steps from the same weights, and the losses
must agree as far as bfloat16 lets them.
"""

import numpy as np
from context import Context
from harness import Contestant, Summary, repeat
from kernels import Array, normal
from report import micros, number, percent, plus_minus, ratio
from training import FastoptTrainer, check_losses
from workloads import QUICK_WORKLOADS, WORKLOADS, Workload, make_data

# Rows, inputs, units of a dense layer.
LAYERS = ((128, 784, 512), (128, 512, 512), (1024, 784, 2048), (1024, 2048, 2048))
QUICK_LAYERS = LAYERS[:2]
TRAINED = {"mnist": None, "large": 1.6}  # with bfloat16 products: must be so many times faster than float32
LOSS_TOLERANCE = 3e-2


def run(context: Context) -> None:
    context.report.begin("bf16", f"bfloat16 products and float32, {context.threads} threads")
    if not context.build["bf16"]:
        context.report.line("skipped (this processor, or the core in use, has no bfloat16 products)")
        return
    rows = [row for layer in (QUICK_LAYERS if context.quick else LAYERS) for row in layer_products(context, *layer)]
    context.report.table(["product m, k, n", "bf16 GFLOP/s", "of limit", "float32 GFLOP/s", "of limit", "faster"], rows)
    workloads = [workload for workload in (QUICK_WORKLOADS if context.quick else WORKLOADS) if workload.name in TRAINED]
    rows = [training(context, workload) for workload in workloads]
    context.report.table(["µs per step, Adam", "limit", "bf16", "of limit", "float32", "of limit", "faster", "must reach"], rows)


def layer_products(context: Context, rows: int, inputs: int, units: int) -> list[list[str]]:
    """The three products of a dense layer: forward, weight gradient, input gradient."""
    x, weight, grad = normal(rows, inputs), normal(inputs, units), normal(rows, units)
    return [
        product(context, "forward", x, weight, False, False),
        product(context, "weight gradient", x, grad, True, False),
        product(context, "input gradient", grad, weight, False, True),
    ]


def product(context: Context, name: str, a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> list[str]:
    """`a` and `b` as they are stored, and whether they are multiplied transposed."""
    (m, k), n = a.shape[::-1] if transpose_a else a.shape, b.shape[not transpose_b]
    out, flops = np.empty((m, n), dtype=np.float32), 2 * m * k * n

    def run_in(precision: str) -> Contestant:
        return Contestant(precision, repeat(lambda: context.core.matmul(a, b, out, transpose_a, transpose_b, precision)))

    cells = race(context, f"{name} {m}, {k}, {n}", flops, [run_in("bf16"), run_in("full")])
    half, full = cells["bf16"], cells["full"]
    return [
        f"{name} {m}, {k}, {n}",
        rate(half[0], flops),
        percent(half[1]),
        rate(full[0], flops),
        percent(full[1]),
        ratio(full[0], half[0]),
    ]


def training(context: Context, workload: Workload) -> list[str]:
    x, y = make_data(workload)
    trainers = {precision: FastoptTrainer(context.fo, workload, x, y, precision) for precision in ("full", "bf16")}
    check_losses(workload, {"fastopt": trainers["full"], "bf16": trainers["bf16"]}, LOSS_TOLERANCE)
    contestants = [Contestant(name, trainer.epochs, units=workload.steps) for name, trainer in trainers.items()]
    cells = race(context, workload.title, workload.flops, contestants)
    half, full = cells["bf16"], cells["full"]
    must_reach = TRAINED[workload.name]
    return [
        workload.title,
        number(workload.flops / half[2].median * 1e6),
        micros(half[0]),
        percent(half[1]),
        micros(full[0]),
        percent(full[1]),
        ratio(full[0], half[0]),
        "-" if must_reach is None else f"x{must_reach:g}",
    ]


def race(context: Context, case: str, flops: int, contestants: list[Contestant]) -> dict[str, tuple[Summary, float, Summary]]:
    """By precision: time, part of the limit, the limit of that precision measured in the same rounds."""
    limits = {"bf16": context.bf16_limit(), "full": context.fma_limit()}
    times = context.measure([*contestants, *limits.values()])
    found = {}
    for precision, contestant in limits.items():
        limit = times[contestant.name]
        of_limit = times[precision].fraction_of(limit, flops)
        context.report.add(case, contestant.name, limit, "FLOP/s", higher_is_better=True)
        context.report.add(case, precision, times[precision], "s", flops=flops, of_limit=of_limit)
        found[precision] = (times[precision], of_limit, limit)
    return found


def rate(summary: Summary, flops: int) -> str:
    return f"{number(flops / summary.median * 1e-9)} {plus_minus(summary)}"
