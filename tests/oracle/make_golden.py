"""Write the golden files beside this script by running torch (CPU, float64): python tests/oracle/make_golden.py

The tests read only the files; torch is needed here alone. Rules that torch does not have are written below with torch's own operations
and autograd where that says something (losses), or come from optax when it is installed (Lion, schedule-free AdamW), or are left
out (AdaGradNorm, Standardize: their NumPy twin is the only reference). Each place where our convention differs on purpose is marked
MAPPED, with the reason.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

HERE = Path(__file__).parent
STEPS = 300
KEPT_STEPS = (1, 2, 3, 10, 30, 100, 200, 300)


def save(name, cases, arrays):
    """One npz of arrays plus the list of cases as JSON, so that a test can walk the cases without knowing them."""
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez_compressed(HERE / f"{name}.npz", cases=json.dumps(cases), **arrays)
    print(f"{name}.npz: {len(cases)} cases, {(HERE / f'{name}.npz').stat().st_size / 1000:.0f} kB")


# --- losses --------------------------------------------------------------------------------------------------------------------------


def _mean(values):
    return values.reshape(len(values), -1).mean(1)


def _poisson(p, y, full=False):
    # MAPPED: torch's full=True adds Stirling's approximation of log(y!); ours is the exact log-gamma term.
    rows = _mean(functional.poisson_nll_loss(p, y, log_input=True, full=False, reduction="none"))
    return rows + _mean(torch.lgamma(y + 1)) if full else rows


def _gaussian(p, y, full=False):
    # MAPPED: torch takes the variance as an input of its own; ours are interleaved (mean, log variance) outputs.
    return _mean(functional.gaussian_nll_loss(p[:, 0::2], y, torch.exp(p[:, 1::2]), full=full, eps=1e-300, reduction="none"))


def _quantile(p, y, quantiles=(0.5,)):  # not in torch
    q, r = torch.tensor(quantiles, dtype=torch.float64), y - p
    return _mean(torch.maximum(q * r, (q - 1) * r))


def _bce(p, y, label_smoothing=0.0, pos_weight=1.0):
    # MAPPED: torch has no label smoothing here; ours moves the target towards 1/2, as with two classes.
    y = (1 - label_smoothing) * y + 0.5 * label_smoothing
    return _mean(functional.binary_cross_entropy_with_logits(p, y, pos_weight=torch.tensor([pos_weight] * p.shape[1]), reduction="none"))


def _multiclass_hinge(p, y, kind="weston_watkins", squared=False):
    if kind == "weston_watkins":
        # MAPPED: torch divides the sum over the classes by their number.
        return functional.multi_margin_loss(p, y, p=2 if squared else 1, reduction="none") * p.shape[1]
    picked = p.gather(1, y[:, None])[:, 0]  # the Crammer-Singer form is not in torch
    rivals = p.masked_fill(functional.one_hot(y, p.shape[1]).bool(), -math.inf)
    margin = functional.relu(1 + rivals.max(1).values - picked)
    return margin**2 if squared else margin


def _perceptron(p, y):  # not in torch
    if p.shape[1] == 1:
        return _mean(functional.relu(-y * p))
    return p.max(1).values - p.gather(1, y[:, None])[:, 0]


def _focal(p, y, gamma=2.0):  # not in torch itself
    log_pi = functional.log_softmax(p, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_pi.exp()) ** gamma) * log_pi


TORCH_LOSSES = {
    "mse": lambda p, y: _mean(functional.mse_loss(p, y, reduction="none")),
    "mae": lambda p, y: _mean(functional.l1_loss(p, y, reduction="none")),
    "huber": lambda p, y, delta=1.0: _mean(functional.huber_loss(p, y, delta=delta, reduction="none")),
    "log_cosh": lambda p, y: _mean(torch.logaddexp(p - y, y - p) - math.log(2)),  # not in torch
    "quantile": _quantile,
    "poisson": _poisson,
    "gaussian_nll": _gaussian,
    "bce": _bce,
    "softmax_cross_entropy": lambda p, y, **options: functional.cross_entropy(p, y, reduction="none", **options),
    "kl": lambda p, y: functional.kl_div(functional.log_softmax(p, 1), y, reduction="none").sum(1),
    "hinge": lambda p, y: _mean(functional.relu(1 - y * p)),  # not in torch
    "squared_hinge": lambda p, y: _mean(functional.relu(1 - y * p) ** 2),  # not in torch
    "multiclass_hinge": _multiclass_hinge,
    "perceptron": _perceptron,
    "focal": _focal,
}

# (loss, outputs, kind of target, options)
LOSS_CASES = [
    ("mse", 1, "real", {}),
    ("mse", 5, "real", {}),
    ("mae", 5, "real", {}),
    ("huber", 5, "real", {}),
    ("huber", 1, "real", {"delta": 0.3}),
    ("log_cosh", 5, "real", {}),
    ("quantile", 1, "column", {}),
    ("quantile", 3, "column", {"quantiles": [0.1, 0.5, 0.9]}),
    ("poisson", 3, "counts", {}),
    ("poisson", 3, "counts", {"full": True}),
    ("gaussian_nll", 2, "halved", {}),
    ("gaussian_nll", 6, "halved", {"full": True}),
    ("bce", 1, "unit", {}),
    ("bce", 4, "unit", {}),
    ("bce", 4, "unit", {"label_smoothing": 0.1, "pos_weight": 3.0}),
    ("softmax_cross_entropy", 5, "classes", {}),
    ("softmax_cross_entropy", 5, "classes", {"label_smoothing": 0.2}),
    ("softmax_cross_entropy", 5, "probabilities", {}),
    ("softmax_cross_entropy", 5, "probabilities", {"label_smoothing": 0.2}),
    ("kl", 5, "probabilities", {}),
    ("hinge", 1, "signs", {}),
    ("hinge", 4, "signs", {}),
    ("squared_hinge", 4, "signs", {}),
    ("multiclass_hinge", 5, "classes", {}),
    ("multiclass_hinge", 5, "classes", {"squared": True}),
    ("multiclass_hinge", 5, "classes", {"kind": "crammer_singer"}),
    ("multiclass_hinge", 5, "classes", {"kind": "crammer_singer", "squared": True}),
    ("perceptron", 1, "signs", {}),
    ("perceptron", 5, "classes", {}),
    ("focal", 5, "classes", {}),
    ("focal", 5, "classes", {"gamma": 0.5}),
]


def make_target(kind, n, outputs, rng):
    if kind == "classes":
        return rng.integers(0, outputs, n)
    if kind == "probabilities":
        y = rng.random((n, outputs)) ** 3 * (rng.random((n, outputs)) > 0.3) + 1e-3 * np.eye(outputs)[0]
        return y / y.sum(1, keepdims=True)
    return {
        "real": lambda: 2 * rng.standard_normal((n, outputs)),
        "column": lambda: 2 * rng.standard_normal((n, 1)),
        "halved": lambda: 2 * rng.standard_normal((n, outputs // 2)),
        "counts": lambda: rng.poisson(3.0, (n, outputs)).astype(float),
        "unit": lambda: rng.random((n, outputs)).round(1),
        "signs": lambda: rng.choice([-1.0, 1.0], (n, outputs)),
    }[kind]()


def golden_losses():
    rng = np.random.default_rng(11)
    cases, arrays = [], {}
    for i, (name, outputs, kind, options) in enumerate(LOSS_CASES):
        p, y, w = 2 * rng.standard_normal((9, outputs)), make_target(kind, 9, outputs, rng), rng.random(9) * 3
        w[4] = 0.0
        prediction = torch.tensor(p, requires_grad=True)
        rows = TORCH_LOSSES[name](prediction, torch.tensor(y), **options)
        for tag, weight in (("plain", np.ones(9)), ("weighted", w)):
            value = (torch.tensor(weight) * rows).sum() / weight.sum()
            (grad,) = torch.autograd.grad(value, prediction, retain_graph=True)
            arrays |= {f"{i}.{tag}.value": value.item(), f"{i}.{tag}.grad": grad}
        arrays |= {f"{i}.prediction": p, f"{i}.target": y, f"{i}.weight": w, f"{i}.rows": rows.detach()}
        cases.append({"name": name, "target": kind, "options": options})
    save("losses", cases, arrays)


# --- activations, batch normalisation, schedules -------------------------------------------------------------------------------------

TORCH_ACTIVATIONS = {
    "identity": lambda x: x * 1,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    # MAPPED: torch's softplus becomes the identity above 20, wrong by 2e-9 there; ours is exact everywhere.
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "hard_tanh": functional.hardtanh,
}


def golden_activations():
    points = np.concatenate([np.linspace(-6, 6, 121) + 0.013, [-300.0, -40.0, -25.0, 25.0, 40.0, 300.0]])
    arrays = {"x": points}
    for name, function in TORCH_ACTIVATIONS.items():
        x = torch.tensor(points, requires_grad=True)
        out = function(x)
        (slope,) = torch.autograd.grad(out.sum(), x)
        arrays |= {f"{name}.value": out.detach(), f"{name}.slope": slope}
    save("activations", list(TORCH_ACTIVATIONS), arrays)


def golden_batchnorm():
    rng = np.random.default_rng(12)
    momentum, eps, width = 0.1, 1e-5, 5
    gamma, beta = rng.standard_normal(width), rng.standard_normal(width)
    arrays, running_mean, running_variance = {"gamma": gamma, "beta": beta, "momentum": momentum, "eps": eps}, None, None
    sizes = (9, 2, 33, 4)
    for i, m in enumerate(sizes):
        x = torch.tensor(100 * rng.standard_normal(width) + rng.standard_normal((m, width)) * 10.0 ** np.arange(-2, 3), requires_grad=True)
        g, b = torch.tensor(gamma, requires_grad=True), torch.tensor(beta, requires_grad=True)
        mean, variance = torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
        out = functional.batch_norm(
            x, mean, variance, g, b, training=True, momentum=1.0, eps=eps
        )  # momentum 1: the statistics of this batch
        grad_out = rng.standard_normal((m, width))
        grads = torch.autograd.grad(out, (x, g, b), torch.tensor(grad_out))
        # MAPPED: torch keeps the unbiased variance and starts from (0, 1); ours keeps the biased one and starts from the first batch.
        variance = variance * (m - 1) / m
        running_mean = mean if running_mean is None else torch.lerp(running_mean, mean, momentum)
        running_variance = variance if running_variance is None else torch.lerp(running_variance, variance, momentum)
        inference = functional.batch_norm(x, running_mean, running_variance, g, b, training=False, eps=eps)
        names = ("x", "out", "grad_out", "grad_x", "grad_gamma", "grad_beta", "running_mean", "running_variance", "inference")
        values = (x, out, grad_out, *grads, running_mean, running_variance, inference)
        arrays |= {f"{i}.{name}": torch.as_tensor(value).detach() for name, value in zip(names, values, strict=True)}
    save("batchnorm", list(sizes), arrays)


def golden_schedules():
    schedulers, rate, steps = torch.optim.lr_scheduler, 0.5, 60
    cases = {
        "step_decay": (lambda o: schedulers.StepLR(o, 7, 0.3), [rate, 7], {"factor": 0.3}),
        "exponential_decay": (lambda o: schedulers.ExponentialLR(o, 0.9), [rate, 0.9], {}),
        "inverse_time_decay": (lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + 0.2 * t)), [rate, 0.2], {}),
        "power_decay": (lambda o: schedulers.LambdaLR(o, lambda t: (t + 1) ** -0.75), [rate, 0.75], {}),
        "linear": (lambda o: schedulers.LinearLR(o, 1.0, 0.2, 40), [rate, 40], {"end": 0.1}),
        # MAPPED: torch's cosine rises again after its end, ours stays there: the period is as long as the record.
        "cosine_decay": (lambda o: schedulers.CosineAnnealingLR(o, steps - 1, 0.01), [rate, steps - 1], {"end": 0.01}),
        "cosine_restarts": (lambda o: schedulers.CosineAnnealingWarmRestarts(o, 7, 2, 0.01), [rate, 7], {"factor": 2.0, "end": 0.01}),
        # MAPPED: torch puts peak and end one step earlier (total_steps - 1 intervals), and divides the start, not the peak, for the end.
        "one_cycle": (
            lambda o: schedulers.OneCycleLR(o, rate, total_steps=51, pct_start=11 / 51, div_factor=10.0, final_div_factor=100.0),
            [rate, 50],
            {"warmup_fraction": 0.2, "start_factor": 10.0, "end_factor": 1000.0},
        ),
        "piecewise": (lambda o: schedulers.MultiStepLR(o, [10, 25], 0.1), [[10, 25], [rate, rate * 0.1, rate * 0.01]], {}),
    }
    arrays, table = {}, []
    for name, (build, positional, options) in cases.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
        scheduler, rates = build(optimizer), []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            if name == "one_cycle" and len(rates) == 51:
                break  # torch raises beyond the end
            optimizer.step()
            scheduler.step()
        arrays[name] = rates
        table.append({"name": name, "args": positional, "options": options})
    save("schedules", table, arrays)


if __name__ == "__main__":
    from golden_optimizers import golden_optimizers, golden_optimizers_optax

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in the default dtype: float32 shows after 300 steps
    golden_losses()
    golden_activations()
    golden_batchnorm()
    golden_schedules()
    golden_optimizers(save, STEPS, KEPT_STEPS)
    golden_optimizers_optax(save, STEPS, KEPT_STEPS)
