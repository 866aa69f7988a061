"""Requests for memory of warm steps and of inference: run by test_allocations.py in a child that preloads counting_malloc.cpp.

Prints one JSON object, name -> requests. For `run_steps` the number is that of all steps less that of one: what the call itself needs
for its arguments is not a step's.
"""

import ctypes
import gc
import json
import sys

import fastopt as fo
import numpy as np
from helpers import loss_cases
from native import core
from networks import batch_for, every_layer

allocations = ctypes.CDLL(None).allocations
allocations.restype = ctypes.c_long

BATCH, ROWS = 33, 3 * 33 + 17  # the last of four batches is short
FOUND = {}


def requests(call, *arguments):
    """Requests of one warm call, the fewest of up to three: the interpreter may want a new arena in between."""
    call(*arguments)
    fewest = None
    for _ in range(3):
        before = allocations()
        call(*arguments)
        count = allocations() - before
        fewest = count if fewest is None else min(fewest, count)
        if fewest == 0:
            break
    return fewest


def record(name, count):
    assert name not in FOUND, name
    FOUND[name] = count


def train(name, net, loss, optimizer, outputs, *, rows=ROWS, batch=BATCH, kind=None, weighted=True, profiled=False, **options):
    rng = np.random.default_rng(1)
    x, y, weight = batch_for(loss.name, outputs, rows, net.inputs, rng, dtype=net.dtype, kind=kind)
    net.adapt(x)
    native = fo.Trainer(net, loss, optimizer, **options)._native
    if profiled:
        net._native.set_profile(core.Profile(len(net.layers)))
    order, steps = rng.permutation(rows).astype(np.int32), -(-rows // batch)  # as a fit gives it: widened batch by batch
    weight = weight if weighted else None

    def run(count):
        outputs = np.full(count, 1e-4), np.zeros(count), np.zeros(count)
        return x, y, weight, order[: count * batch], batch, *outputs

    many, one = run(steps), run(1)
    assert native.run_steps(*many) == steps, f"{name}: a loss was not finite"
    record(f"{name}: run_steps", requests(native.run_steps, *many) - requests(native.run_steps, *one))
    short = x[:17], y[:17], None if weight is None else weight[:17]
    record(f"{name}: step", requests(native.step, *short, 1e-4))
    out = np.empty((rows, net.outputs), net.dtype)
    record(f"{name}: inference", requests(lambda: net(x, out=out)))


def losses():
    for name in core.loss_names():
        for options, outputs, kind in loss_cases(name):
            for weighted in (True, False):
                case = f"{name} {options} {outputs} outputs, {kind}, {'weighted' if weighted else 'plain'}"
                loss = fo.losses.table()[name](**options)
                train(case, every_layer(5, 9, outputs, seed=1), loss, "adam", outputs, kind=kind, weighted=weighted)


def optimizers():
    everything = {"l1": 1e-4, "l2": 1e-4, "clip_norm": 0.1, "clip_value": 0.01, "ema": 0.9, "accumulate": 3}
    for name in core.optimizer_names():
        for options in ({}, everything):
            for dtype in ("float32", "float64"):
                for batch_norm in (True, False):
                    net = every_layer(5, 9, 3, dtype=dtype, seed=2, batch_norm=batch_norm)
                    case = f"{name} {options and 'all options'} {dtype}{'' if batch_norm else ', rows alone'}"
                    train(case, net, fo.losses.get("focal"), name, 3, **options)


def sizes():
    for activation in core.activation_names():
        net = every_layer(5, 9, 3, activation=activation, seed=3)
        train(f"activation {activation}", net, fo.losses.get("mse"), "sgd", 3)
    net = every_layer(300, 520, 10, seed=4)
    train("buffers above 4 MB", net, fo.losses.get("softmax_cross_entropy"), "adam", 10, rows=3001, batch=2100)
    train("profiled", every_layer(5, 9, 3, seed=6), fo.losses.get("mse"), "adam", 3, profiled=True, clip_norm=1.0, ema=0.9)
    if fo.build_info()["bf16"]:
        net = every_layer(100, 129, 10, seed=6).copy(precision="bf16")
        train("bf16 products", net, fo.losses.get("softmax_cross_entropy"), "adam", 10)
    for dtype in ("float32", "float64"):
        net = fo.mlp(30, [64, 40], 3, activation="gelu", standardize=True, dtype=dtype, seed=7)
        train(f"by units {dtype}", net, fo.losses.get("focal"), "adam", 3, l2=1e-4)
        net = every_layer(30, 65, 3, dtype=dtype, seed=8, batch_norm=False)
        train(f"in blocks {dtype}", net, fo.losses.get("focal"), "adam", 3, rows=5017, batch=2500, clip_norm=1.0)
    train("one row", every_layer(1, 1, 1, seed=5), fo.losses.get("mse"), "adam", 1, rows=3, batch=1)


if __name__ == "__main__":
    gc.disable()
    core.set_work_per_thread(float(sys.argv[1]))
    assert requests(np.empty, 1_000_000) == 1, "the counter sees NumPy's request"
    for part in (losses, optimizers, sizes):
        part()
    print(json.dumps({"threads": fo.get_num_threads(), "requests": FOUND}))
