"""Inference of 64-128-64-10 for 1, 64 and 4096 rows that lie ready in memory."""

from collections.abc import Callable

import numpy as np
from context import Context
from harness import Contestant, repeat
from kernels import normal
from report import micros, number, peer
from workloads import initial_weights

SIZES = (64, 128, 64, 10)
MUST_REACH_MICROS = {1: 2.0, 64: 13.0, 4096: 360.0}  # measured on the machine of bench/README.md
PEERS = ("numpy", "torch", "jax", "sklearn", "onnx")


def run(context: Context) -> None:
    title = "-".join(map(str, SIZES))
    context.report.begin("inference", f"{title}, float32, microseconds per call, {context.threads} threads (x slower than fastopt)")
    peers = context.peers(*PEERS)
    labels = [module.LABEL for module in peers.values()]
    weights = initial_weights(SIZES)
    net = context.fo.mlp(SIZES[0], list(SIZES[1:-1]), SIZES[-1], activation="relu", dtype="float32", seed=0)
    names = sorted((name for name in net.parameters if name.endswith(".weight")), key=lambda name: int(name.split(".")[0]))
    for name, (weight, bias) in zip(names, weights, strict=True):
        net.parameters[name][...] = weight
        net.parameters[name.replace("weight", "bias")][...] = bias

    rows = []
    for count, goal in MUST_REACH_MICROS.items():
        x = normal(count, SIZES[0])
        functions: dict[str, Callable[[], object]] = {"fastopt": lambda x=x: net(x)}
        functions |= {module.LABEL: module.inference(weights, x) for module in peers.values()}
        check(functions)
        times = context.measure([Contestant(name, repeat(function)) for name, function in functions.items()])
        for name, summary in times.items():
            context.report.add(f"{title}, {count} rows", name, summary, "s")
        ours = times["fastopt"]
        rows.append([f"{count} rows", micros(ours), *(peer(times[label], ours) for label in labels), f"≤ {number(goal)}"])
    context.report.table(["inference", "fastopt", *labels, "must reach"], rows)


def check(functions: dict[str, Callable[[], object]]) -> None:
    """All but scikit-learn, whose weights are its own, must give the same outputs."""
    expected = functions["fastopt"]()
    for name, function in functions.items():
        if name != "scikit-learn":
            found = function()
            found = found[0] if isinstance(found, list) else found  # onnxruntime: a list of outputs
            np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-3, atol=1e-3, err_msg=f"inference of {name}")
