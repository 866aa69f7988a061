"""Kernels and whole training runs, hashed: run in a child by test_bits.py, which compares the hashes over threads and instruction sets.

Prints one JSON object, name -> hash. Everything is a function of fixed seeds. Large shapes run with the library's own choice of threads,
where several have work; the kernels and networks of odd shapes run with every piece of work cut for as many threads as it has pieces. The
hash of a training run covers weights, statistics, optimizer state, averages, counters, history and predictions.
"""

import hashlib
import json
import os

import fastopt as fo
import numpy as np
from helpers import LOSS_TARGETS, loss_cases, make_target
from native import DTYPES, core, native
from networks import batch_for, every_layer

CUT_EVERYTHING, AS_BUILT = 1, 0  # operations per thread
HASHES = {}


def record(name, *arrays):
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    assert name not in HASHES, name
    HASHES[name] = digest.hexdigest()[:16]


def draw(rng, *shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def kernels(dtype):
    rng = np.random.default_rng(1)
    for m, k, n in [
        (1, 1, 1),
        (3, 65, 17),
        (33, 200, 65),
        (128, 784, 256),
        (257, 500, 129),
        (1024, 64, 10),
        (64, 1500, 70),
        (2000, 30, 64),
        (516, 40, 300),
        (1300, 1100, 260),
        (12, 1100, 1024),
    ]:
        for transpose_a, transpose_b in ((False, False), (False, True), (True, False), (True, True)):
            a = draw(rng, *((k, m) if transpose_a else (m, k)), dtype=dtype)
            b = draw(rng, *((n, k) if transpose_b else (k, n)), dtype=dtype)
            out = np.empty((m, n), dtype)
            core.matmul(a, b, out, transpose_a, transpose_b)
            record(f"matmul {m, k, n} {transpose_a} {transpose_b}", out)
    x = 3 * draw(rng, 1000, 257, dtype=dtype)
    out, sums = np.empty_like(x), np.empty(257, dtype)
    for name in core.activation_names():
        core.activation_forward(name, x, out)
        grad = np.empty_like(x)
        core.activation_backward(name, x, out, x, grad)
        record(f"activation {name}", out, grad)
    core.softmax(x, out)
    record("softmax", out)
    core.column_sums(x, sums)
    record("column sums", sums)
    core.dropout_forward(x, 0.3, 5, 6, 7, out)
    record("dropout", out)
    gamma, beta, mean, inverse_std, *running = (draw(rng, 257, dtype=dtype) for _ in range(6))
    core.batchnorm_forward(x, gamma, beta, *running, 0.1, 1e-5, False, out, mean, inverse_std)
    grads = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    core.batchnorm_backward(x, gamma, mean, inverse_std, out, *grads)
    record("batchnorm", out, mean, inverse_std, *running, *grads)


def losses(dtype):
    rng = np.random.default_rng(2)
    for name in core.loss_names():
        kind, widths = LOSS_TARGETS[name]
        outputs = widths[-1]
        y = make_target(kind, 3001, outputs, rng)
        y = y if y.dtype == np.int32 else y.astype(dtype)
        p, w = draw(rng, 3001, outputs, dtype=dtype), rng.random(3001).astype(dtype)
        value, grad = native("Loss", dtype, name, fo.losses.get(name).config()).value_and_grad(p, y, w)
        record(f"loss {name}", np.array(value), grad)


def optimizers(dtype):
    rng = np.random.default_rng(3)
    start = draw(rng, 70_001, dtype=dtype)
    grads = [draw(rng, 70_001, dtype=dtype) for _ in range(3)]
    for name in core.optimizer_names():
        w, rule = start.copy(), fo.optimizers.get(name)
        state = rule.init(w)
        for g in grads:
            rule.step(w, g, state)
        record(f"optimizer {name}", w, *(slot[0] for slot in state.slots.values()))


def record_training(name, trainer, history, x):
    """Everything that a fit leaves behind."""
    state = trainer.state_dict()
    rows = [np.array([row[key] for key in sorted(row)], dtype=np.float64) for row in history.rows]
    with np.errstate(over="ignore"):  # the exponential of a Poisson loss
        predictions = trainer.predict(x)
    record(name, *(state[key] for key in sorted(state)), *rows, trainer.network(x), predictions)


def train(name, net, loss, optimizer, rows, outputs, batch, epochs=2, weighted=False, **options):
    rng = np.random.default_rng(4)
    x = draw(rng, rows, net.inputs, dtype="float64")
    y = x[:, :outputs] * 2 if loss == "mse" else np.abs(x[:, 0] * 10).astype(int) % outputs
    trainer = fo.Trainer(net, loss, optimizer, **options)
    history = trainer.fit(x, y, epochs=epochs, batch_size=batch, validation=0.2, sample_weight=rng.random(rows) + 0.1 if weighted else None)
    record_training(name, trainer, history, x[:50])


def odd(name, loss, optimizer, *, inputs, units, outputs, rows, batch, dtype, activation="tanh", kind=None, **options):
    """Networks with every kind of layer, and without those that mix rows, on an odd shape, with weights; the last batch is short unless
    `batch` divides `rows`."""
    x, y, weight = batch_for(loss.name, outputs, rows, inputs, np.random.default_rng(14), dtype=dtype, kind=kind)
    for batch_norm in (True, False):
        net = every_layer(inputs, units, outputs, activation=activation, dtype=dtype, seed=14, batch_norm=batch_norm)
        trainer = fo.Trainer(net, loss, optimizer, **options)
        history = trainer.fit(x, y, epochs=2, batch_size=batch, sample_weight=weight)
        record_training(name if batch_norm else f"{name}, rows alone", trainer, history, x)


def odd_networks(dtype):
    """Every loss, optimizer and activation, between them every odd size, with batches of 1, 3, 17 and 65 rows."""
    sizes, turn = (1, 3, 17, 65), 0
    entropy, names = fo.losses.get("softmax_cross_entropy"), core.activation_names()

    def shape():
        nonlocal turn
        turn += 1
        batch = sizes[turn % 4]
        return {"inputs": sizes[turn // 4 % 4], "units": sizes[(turn + 1) % 4], "rows": 2 * batch + 1, "batch": batch, "dtype": dtype}

    for name in core.loss_names():
        for options, outputs, kind in loss_cases(name):
            loss = fo.losses.table()[name](**options)
            odd(f"odd loss {name} {options} {outputs} {kind}", loss, "adam", outputs=outputs, kind=kind, **shape())
    for name in core.optimizer_names():
        odd(f"odd optimizer {name}", entropy, name, outputs=3, **shape())
        options = {"l1": 1e-3, "l2": 1e-3, "clip_norm": 0.5, "clip_value": 0.1, "ema": 0.9, "accumulate": 2}
        odd(f"odd optimizer {name}, all options", entropy, name, outputs=3, **shape(), **options)
    for name in names:
        odd(f"odd activation {name}", entropy, "sgd", outputs=17, activation=name, **shape())
    for inputs in sizes:
        for units in sizes:
            case = {"inputs": inputs, "units": units, "rows": 18, "batch": 17, "dtype": dtype}
            odd(f"odd shape {inputs}-{units}", fo.losses.get("mse"), "adam", outputs=sizes[turn % 4], **case)
            turn += 1


def networks(dtype):
    opt, entropy = fo.optimizers, "softmax_cross_entropy"
    for activation in core.activation_names():
        net = fo.mlp(20, [65, 33], 3, activation=activation, dtype=dtype, seed=5)
        train(f"train {activation}", net, entropy, opt.Adam(learning_rate=0.01), 300, 3, 32)
    for name in core.optimizer_names():
        net = fo.mlp(30, [64, 64], 2, batch_norm=True, dtype=dtype, seed=6)
        train(f"train {name}", net, entropy, opt.get(name), 300, 2, 50, weighted=True, clip_norm=0.5)
    net = fo.mlp(8, [32, 32], 1, dtype=dtype, seed=7)
    train("train tiny", net, "mse", opt.SGD(learning_rate=0.01, momentum=0.9, nesterov=True), 500, 1, 32, l1=1e-4, l2=1e-4)
    net = fo.mlp(200, [256, 256], 10, batch_norm=True, dropout=0.3, standardize=True, dtype=dtype, seed=8)
    train("train wide", net, entropy, opt.AdamW(), 700, 10, 128, ema=0.99, clip_value=0.1)
    net = fo.mlp(784, [512, 300], 10, dtype=dtype, seed=9)
    train("train large", net, entropy, opt.AdaGradNorm(), 500, 10, 399, epochs=1, clip_norm=1.0)
    net = fo.mlp(16, [48], 4, dtype=dtype, dropout=0.1, seed=10)
    train("train accumulated", net, entropy, opt.RMSProp(), 300, 4, 16, accumulate=3)
    for units, outputs in (([64, 40], 3), ([100], 1), ([17, 130], 10)):
        net = fo.mlp(30, units, outputs, activation="gelu", dropout=0.1, dtype=dtype, seed=17)
        trainer = fo.Trainer(net, "mse", "adam", l2=1e-3)
        x, y, weight = batch_for("mse", outputs, 9001, 30, np.random.default_rng(17), dtype=dtype)
        history = trainer.fit(x, y, epochs=2, batch_size=None, sample_weight=weight)
        assert trainer._native.steps_in_blocks == 2
        record_training(f"train in blocks {units} {outputs}", trainer, history, x[:50])


def shared_by_units(dtype):
    """Networks whose first two layers two threads share by units, even and uneven, with a short batch at the end."""
    for units, outputs in (([96], 3), ([64, 40], 3), ([100, 33], 3), ([128, 64], 10)):
        for activation in ("relu", "gelu"):
            for name in ("sgd", "adam", "rprop"):
                net = fo.mlp(30, units, outputs, activation=activation, dtype=dtype, seed=15)
                case = f"train by units {units} {activation} {name}"
                train(case, net, "softmax_cross_entropy", name, 200, 3, 48, weighted=name == "adam", l2=1e-3)


def one_output(dtype):
    """The same with one output, whose last two layers are one pass in steps like the one before."""
    for units, batch in ((32, 32), (64, 20), (21, 9)):
        for loss in ("mse", "bce", "huber", "log_cosh"):
            x, y, _ = batch_for(loss, 1, 12 * batch + 1, 30, np.random.default_rng(16), dtype=dtype)
            trainer = fo.Trainer(fo.mlp(30, [64, units], 1, dtype=dtype, seed=16), loss, "adam")
            history = trainer.fit(x, y, epochs=3, batch_size=batch)
            record_training(f"train by units to one output {units} {batch} {loss}", trainer, history, x[:50])


def second_order(dtype):
    rng = np.random.default_rng(11)
    net = fo.mlp(20, [65, 33], 3, activation="silu", batch_norm=True, dtype=dtype, seed=11)
    x, y = draw(rng, 2100, 20, dtype=dtype), rng.integers(0, 3, 2100)
    net.forward(x, training=True)
    record("hessian-vector product", net.hvp("cross_entropy", x, y, draw(rng, net.num_parameters, dtype=dtype)))
    record("jacobian", net.jacobian(x[:30]))
    for name in core.activation_names():
        small = fo.mlp(5, [7], 2, activation=name, dtype=dtype, seed=12)
        record(f"hessian {name}", small.hessian("log_cosh", x[:50, :5], x[:50, 5:7]))
    for name in ("lbfgs", "newton_cg", "levenberg_marquardt"):
        net = fo.mlp(20, [30, 10], 1, activation="tanh", dtype=dtype, seed=13)
        history = fo.Trainer(net, "mse", name).fit(x, x[:, 0] * x[:, 1], epochs=4, batch_size=None)
        record(f"train {name}", *net.parameters.values(), np.array(history["loss"]))


PARTS = {
    AS_BUILT: (kernels, losses, optimizers, networks, second_order),
    CUT_EVERYTHING: (kernels, losses, optimizers, odd_networks, shared_by_units, one_output),
}


def run_all():
    """Every part in both dtypes, name -> hash."""
    found = {}
    for work, parts in PARTS.items():
        core.set_work_per_thread(work)
        for dtype in DTYPES:
            for part in parts:
                HASHES.clear()
                part(dtype)
                cut = ", cut" if work == CUT_EVERYTHING else ""
                found.update({f"{dtype} {name}{cut}": value for name, value in HASHES.items()})
    return found


def threads_started():
    """How many threads this process has after a product that is cut for all of them; None where /proc does not say."""
    core.set_work_per_thread(CUT_EVERYTHING)
    a = np.ones((256, 256), np.float32)
    core.matmul(a, a, np.empty_like(a), False, False)
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None


if __name__ == "__main__":
    result = {"isa": fo.build_info()["isa"], "threads": fo.get_num_threads(), "hashes": run_all(), "started": threads_started()}
    print(json.dumps(result))
