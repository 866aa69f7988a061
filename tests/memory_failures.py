"""Steps in which memory runs out: run by test_out_of_memory.py in a child that preloads failing_new.cpp.

Every request of a run of steps fails once. What the run leaves behind must be the state between two steps, and training on from it must
give the bits of a trainer to which nothing has happened. Prints one JSON object, kind -> failed requests and steps in halves.
"""

import ctypes
import faulthandler
import json

import fastopt as fo
import numpy as np
from native import core

STEPS = 6
BATCHES = {"apart": 32, "halves": 32, "shared": 32, "blocks": 2500}
MOST = 1000  # requests of one run
HANG = 60  # seconds

ours = ctypes.CDLL(None)
ours.fail_after.argtypes = [ctypes.c_long]
ours.failures.restype = ctypes.c_long


def layers_of(kind):
    """Networks whose steps two threads share in different ways."""
    dense = fo.layers.Dense
    return {
        "apart": [dense(24, activation="gelu"), dense(24, activation="relu"), dense(24), dense(1)],
        "halves": [dense(64, activation="relu"), dense(40, activation="relu"), dense(1)],
        "shared": [dense(64, activation="relu"), fo.layers.BatchNorm(), dense(1)],
        "blocks": [dense(64, activation="gelu"), fo.layers.Dropout(0.1), dense(40, activation="relu"), dense(1)],
    }[kind]


def made(kind, options):
    return fo.Trainer(fo.Network(20, layers_of(kind), seed=0), "mse", "adam", **options)


def run(trainer, x, y):
    """Some steps; the losses of those that ended."""
    rates, order = np.full(STEPS, 0.01), np.arange(len(x))
    losses, weights = np.full(STEPS, np.nan), np.zeros(STEPS)
    try:
        trainer._native.run_steps(x, y, None, order, len(x) // STEPS, rates, losses, weights)
    except MemoryError:
        return losses, True
    return losses, False


def failures(kind, options):
    """How many requests there were to fail, and how many steps two threads shared by units in the run in which none did."""
    rng, rows = np.random.default_rng(0), STEPS * BATCHES[kind]
    x, y = rng.standard_normal((rows, 20)).astype(np.float32), rng.standard_normal((rows, 1)).astype(np.float32)
    for request in range(MOST):
        trainer, twin = made(kind, options), made(kind, options)
        faulthandler.dump_traceback_later(HANG, exit=True)
        ours.fail_after(request)
        losses, raised = run(trainer, x, y)
        failed = ours.failures()
        if failed == 0:
            faulthandler.cancel_dump_traceback_later()
            assert trainer._native.steps_in_blocks == (STEPS if kind == "blocks" else 0)
            return request, trainer._native.steps_in_halves
        where = f"{kind}, {options}, request {request}"
        ended = int(np.isfinite(losses).sum())
        assert raised, where
        assert trainer.steps == trainer.network.training_step == ended, where
        twin.load_state_dict(trainer.state_dict())
        after, _ = run(trainer, x, y)
        expected, _ = run(twin, x, y)
        faulthandler.cancel_dump_traceback_later()
        np.testing.assert_array_equal(after, expected, err_msg=where)
        state = twin.state_dict()
        for name, value in trainer.state_dict().items():
            np.testing.assert_array_equal(value, state[name], err_msg=f"{where}: {name}")
    raise AssertionError(f"{kind}: more than {MOST} requests")


def main():
    core.set_work_per_thread(1)
    cases = {"plain": {}, "clipped": {"clip_norm": 0.1}}
    print(json.dumps({f"{kind}, {name}": failures(kind, cases[name]) for kind in BATCHES for name in cases}))


if __name__ == "__main__":
    main()
