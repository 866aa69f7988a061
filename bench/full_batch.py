"""Gradient descent on all rows at once, in nanoseconds a row, beside NumPy, torch and JAX, which read the rows where they are.

What a row costs should not rise with their number, though activations of a million rows fit into no cache.
"""

from context import Context
from harness import Contestant
from report import number, ratio
from training import FastoptTrainer, check_losses
from workloads import CROSS_ENTROPY, Workload, make_data

PEERS = ("numpy", "torch", "jax")
ROWS = (1_000, 10_000, 100_000, 1_000_000)
QUICK_ROWS = (30_000,)
MOST_ELEMENTS = 1 << 25  # of all activations; more take the peers seconds a step
NETWORKS = (
    ("line", (8, 1), "mse"),
    ("small", (8, 16, 1), "mse"),
    ("table", (30, 64, 64, 2), CROSS_ENTROPY),
    ("digits", (64, 128, 64, 10), CROSS_ENTROPY),
    ("softmax", (784, 10), CROSS_ENTROPY),
)
QUICK_NETWORKS = NETWORKS[1:3]


def run(context: Context) -> None:
    title = f"nanoseconds a row of a step on all rows, Adam, ReLU, float32, {context.threads} threads (x slower than fastopt)"
    context.report.begin("full_batch", title)
    peers = context.peers(*PEERS)
    labels = [module.LABEL for module in peers.values()]
    rows = []
    for name, sizes, loss in QUICK_NETWORKS if context.quick else NETWORKS:
        for count in QUICK_ROWS if context.quick else ROWS:
            if count * sum(sizes) > MOST_ELEMENTS:
                continue
            workload = Workload(name, sizes, batch=count, steps=1, loss=loss, must_reach=0.0)
            x, y = make_data(workload)
            ours = FastoptTrainer(context.fo, workload, x, y)
            weights = ours.weights()
            trainers = {"fastopt": ours} | {module.LABEL: module.Trainer(workload, weights, x, y) for module in peers.values()}
            check_losses(workload, trainers)
            times = context.measure([Contestant(name, trainer.epochs, units=count) for name, trainer in trainers.items()])
            for contestant, summary in times.items():
                context.report.add(workload.title, contestant, summary, "s/row", flops=workload.flops)
            mine = times["fastopt"]
            others = [f"{number(times[label].median * 1e9)} ({ratio(times[label], mine)})" for label in labels]
            rate = workload.flops / count / mine.median * 1e-9
            rows.append(["-".join(map(str, sizes)), str(count), number(mine.median * 1e9), number(rate), *others])
    context.report.table(["network", "rows", "fastopt", "GFLOP/s", *labels], rows)
