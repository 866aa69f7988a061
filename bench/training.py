"""Whole training epochs with shuffling, in microseconds per step, beside careful NumPy, torch, JAX and scikit-learn.

Before any clock runs, every contestant that can takes the same steps on the same batches from the same weights, and the losses must agree.
"""

from typing import Any

import numpy as np
from context import Context
from harness import Contestant, Summary
from numpy.typing import NDArray
from report import micros, number, peer, percent, ratio
from workloads import QUICK_WORKLOADS, WORKLOADS, Array, Weights, Workload, make_data

CHECKED_STEPS = 3
LOSS_TOLERANCE = 1e-3  # relative, float32, after up to three Adam steps
PEERS = ("numpy", "torch", "jax", "sklearn")
LARGE_OF_LIMIT = 0.85  # `large` must also reach this part of the FMA rate


class FastoptTrainer:
    def __init__(self, fo: Any, workload: Workload, x: Array, y: NDArray[np.float32] | NDArray[np.int64], precision: str = "full") -> None:
        self.x, self.y, self.batch = x, y, workload.batch
        inputs, *hidden, outputs = workload.sizes
        self.net = fo.mlp(inputs, hidden, outputs, activation="relu", dtype="float32", seed=0, precision=precision)
        self.trainer = fo.Trainer(self.net, loss=workload.loss, optimizer=fo.optimizers.Adam(learning_rate=1e-3))

    def weights(self) -> Weights:
        """Copies, in the order of the layers."""
        parameters = self.net.parameters
        numbers = sorted(int(name.removesuffix(".weight")) for name in parameters if name.endswith(".weight"))
        return [(parameters[f"{index}.weight"].copy(), parameters[f"{index}.bias"].copy()) for index in numbers]

    def losses(self, batches: NDArray[np.int64]) -> list[float]:
        return [self.trainer.step(self.x[rows], self.y[rows]) for rows in batches]

    def epochs(self, count: int) -> None:
        self.trainer.fit(self.x, self.y, epochs=count, batch_size=self.batch, shuffle=True, progress=False)


def run(context: Context) -> None:
    title = f"microseconds per step, shuffled epochs, Adam, ReLU, float32, {context.threads} threads (x slower than fastopt)"
    context.report.begin("training", title)
    peers = context.peers(*PEERS)
    labels = [module.LABEL for module in peers.values()]
    workloads = QUICK_WORKLOADS if context.quick else WORKLOADS
    rows = [one_workload(context, workload, peers, labels) for workload in workloads]
    context.report.table(["workload", "MFLOP", "limit", "meeting", "fastopt", "of limit", *labels, "must reach", "reached"], rows)
    context.report.line(
        '"meeting": nanoseconds until all threads have met, the middle half of the rounds; the cores are not always equally far apart.'
    )


def one_workload(context: Context, workload: Workload, peers: dict[str, Any], labels: list[str]) -> list[str]:
    x, y = make_data(workload)
    ours = FastoptTrainer(context.fo, workload, x, y)
    weights = ours.weights()
    trainers = {module.LABEL: module.Trainer(workload, weights, x, y) for module in peers.values()}
    check_losses(workload, {"fastopt": ours, **trainers})

    contestants = [Contestant(name, trainer.epochs, units=workload.steps) for name, trainer in {"fastopt": ours, **trainers}.items()]
    several = [context.meeting_cost()] if context.threads > 1 else []
    times = context.measure([*contestants, context.fma_limit(), *several])
    limit, meeting = times.pop("FMA limit"), times.pop("meeting", None)
    record(context, workload, times, limit)

    mine, jax = times["fastopt"], times.get("JAX")
    of_limit = mine.fraction_of(limit, workload.flops)
    return [
        workload.title,
        number(workload.flops * 1e-6),
        number(workload.flops / limit.median * 1e6),
        f"{number(meeting.q1 * 1e9)}-{number(meeting.q3 * 1e9)}" if meeting else "-",
        micros(mine),
        percent(of_limit),
        *(peer(times[label], mine) for label in labels),
        f"JAX x{workload.must_reach:g}" + (f", {percent(LARGE_OF_LIMIT)}" if workload.name == "large" else ""),
        ratio(jax, mine) + (f", {percent(of_limit)}" if workload.name == "large" else ""),
    ]


def check_losses(workload: Workload, trainers: dict[str, Any], tolerance: float = LOSS_TOLERANCE) -> None:
    """Equal weights and equal batches must give equal losses, step by step."""
    count = min(CHECKED_STEPS, workload.steps)
    batches = np.arange(count * workload.batch).reshape(count, workload.batch)
    expected = trainers["fastopt"].losses(batches)
    for name, trainer in trainers.items():
        if name == "fastopt" or trainer.losses is None:
            continue
        found = trainer.losses(batches)
        if not np.allclose(found, expected, rtol=tolerance, atol=1e-6):
            raise SystemExit(f"{workload.name}: {name} and fastopt do not train the same network: losses {found} and {expected}")


def record(context: Context, workload: Workload, times: dict[str, Summary], limit: Summary) -> None:
    context.report.add(workload.title, "FMA limit", limit, "FLOP/s", higher_is_better=True)
    for name, summary in times.items():
        context.report.add(
            workload.title,
            name,
            summary,
            "s/step",
            flops=workload.flops,
            optimizer_bytes=workload.optimizer_bytes,
            parameters=workload.parameters,
            of_limit=summary.fraction_of(limit, workload.flops),
        )
