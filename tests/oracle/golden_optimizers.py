"""Trajectories of 300 steps of every optimizer with every option on one small network. Part of make_golden.py: see there."""

import numpy as np
import torch
from torch.nn import functional

INPUTS, HIDDEN, OUTPUTS, ROWS, BATCHES = 4, 6, 3, 8, 5
SHAPES = {"0.weight": (INPUTS, HIDDEN), "0.bias": (HIDDEN,), "1.weight": (HIDDEN, OUTPUTS), "1.bias": (OUTPUTS,)}

ADAM = {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6}
# (rule, learning rate, options of ours, arrays that weight decay touches: all or only weights)
CASES = [
    ("sgd", 0.05, {}, "all"),
    ("sgd", 0.05, {"momentum": 0.9}, "all"),
    ("sgd", 0.05, {"momentum": 0.9, "nesterov": True}, "all"),
    ("sgd", 0.05, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.02}, "weights"),
    ("sgd", 0.05, {"weight_decay": 0.02}, "all"),
    ("adagrad", 0.1, {}, "all"),
    ("adagrad", 0.1, {"initial_accumulator": 0.5, "eps": 1e-3}, "all"),
    ("adagrad", 0.1, {"weight_decay": 0.02}, "weights"),
    ("rmsprop", 0.01, {}, "all"),
    ("rmsprop", 0.01, {"rho": 0.8, "eps": 1e-4}, "all"),
    # At 0.01 this trajectory is chaotic: a last-bit change of the start grows to 3e-10 in 300 steps.
    ("rmsprop", 0.003, {"momentum": 0.9}, "all"),
    ("rmsprop", 0.01, {"centered": True, "eps": 1e-2}, "all"),
    ("rmsprop", 0.005, {"centered": True, "momentum": 0.5, "weight_decay": 0.02, "eps": 1e-2}, "weights"),
    ("adadelta", 1.0, {}, "all"),
    ("adadelta", 0.5, {"rho": 0.9, "eps": 1e-4}, "all"),
    ("adam", 0.01, {}, "all"),
    ("adam", 0.01, ADAM, "all"),
    ("adam", 0.01, {"amsgrad": True}, "all"),
    ("adam", 0.01, {"weight_decay": 0.02}, "weights"),
    ("adam", 0.01, {"amsgrad": True, "weight_decay": 0.02}, "all"),
    ("adamw", 0.01, {}, "all"),
    ("adamw", 0.01, {"weight_decay": 0.2}, "weights"),
    ("adamw", 0.01, {"amsgrad": True, **ADAM}, "weights"),
    ("nadam", 0.01, {}, "all"),
    ("nadam", 0.01, {"momentum_decay": 0.05, **ADAM}, "all"),
    ("radam", 0.01, {}, "all"),
    ("radam", 0.01, ADAM, "all"),
    ("adamax", 0.01, {}, "all"),
    ("adamax", 0.01, ADAM, "all"),
    ("rprop", 0.01, {}, "all"),
    ("rprop", 0.01, {"etas": [0.4, 1.1], "step_sizes": [1e-4, 0.02]}, "all"),
]
OPTAX_CASES = [
    ("lion", 1e-3, {}, "all"),
    ("lion", 1e-3, {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1}, "all"),
    ("lion", 1e-3, {"weight_decay": 0.1}, "weights"),
    ("schedule_free_adamw", 0.01, {}, "all"),
    ("schedule_free_adamw", 0.01, {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6}, "all"),
    ("schedule_free_adamw", 0.01, {"weight_decay": 0.1}, "all"),
]

TORCH_NAMES = {
    "learning_rate": "lr",
    "rho": {"rmsprop": "alpha", "adadelta": "rho"},
    "initial_accumulator": "initial_accumulator_value",
}
TORCH_RULES = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "rprop": torch.optim.Rprop,
}
# MAPPED: defaults of ours that are not torch's.
OUR_DEFAULTS = {"adadelta": {"rho": 0.95}, "rmsprop": {"rho": 0.9}}


def problem():
    """Start and batches: tanh network, softmax cross-entropy, class targets that some rows contradict so that no run converges to 0."""
    rng = np.random.default_rng(13)
    start = {name: 0.5 * rng.standard_normal(shape) for name, shape in SHAPES.items()}
    x = rng.standard_normal((BATCHES * ROWS, INPUTS)) * [0.1, 1.0, 2.0, 5.0]
    y = np.where(rng.random(BATCHES * ROWS) < 0.3, rng.integers(0, OUTPUTS, BATCHES * ROWS), (x[:, 1] > 0) + (x[:, 2] > 1))
    return start, x, y


def torch_rule(name, rate, options, touched, parameters):
    """MAPPED: torch decays every array it is given; where ours touches weights only, biases go in a group of their own without decay."""
    options = {**OUR_DEFAULTS.get(name, {}), **options}
    arguments = {"lr": rate}
    if "beta1" in options:
        arguments["betas"] = (options.pop("beta1"), options.pop("beta2"))
    for key, value in options.items():
        new = TORCH_NAMES.get(key, key)
        arguments[new[name] if isinstance(new, dict) else new] = tuple(value) if isinstance(value, list) else value
    weights = [p for key, p in parameters.items() if key.endswith("weight")]
    biases = [p for key, p in parameters.items() if key.endswith("bias")]
    if touched == "all":
        return TORCH_RULES[name](weights + biases, **arguments, foreach=False)
    return TORCH_RULES[name]([{"params": weights}, {"params": biases, "weight_decay": 0.0}], **arguments, foreach=False)


def torch_loss(p, x, y):
    return functional.cross_entropy(torch.tanh(x @ p["0.weight"] + p["0.bias"]) @ p["1.weight"] + p["1.bias"], y)


def golden_optimizers(save, steps, kept):
    start, x, y = problem()
    arrays = {"x": x, "y": y, "kept": kept, **{f"start.{name}": value for name, value in start.items()}}
    table = []
    for i, (name, rate, options, touched) in enumerate(CASES):
        parameters = {key: torch.tensor(value, requires_grad=True) for key, value in start.items()}
        optimizer = torch_rule(name, rate, dict(options), touched, parameters)
        losses, points = [], []
        for k in range(steps):
            rows = slice(k % BATCHES * ROWS, k % BATCHES * ROWS + ROWS)
            optimizer.zero_grad()
            loss = torch_loss(parameters, torch.tensor(x[rows]), torch.tensor(y[rows]))
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            if k + 1 in kept:
                points.append(np.concatenate([p.detach().numpy().ravel() for p in parameters.values()]))
        arrays |= {f"{i}.losses": losses, f"{i}.points": points}
        table.append({"name": name, "learning_rate": rate, "options": options, "decay": touched})
    save("optimizers", table, arrays)


def golden_optimizers_optax(save, steps, kept):
    """Lion and schedule-free AdamW, which torch does not have; the file is left alone when optax is not installed.

    MAPPED: optax divides the schedule-free average differently during warm-up, so only constant rates are written.
    """
    try:
        import jax
        import optax
    except ImportError:
        print("optax is not installed: optimizers_optax.npz not written")
        return
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    start, x, y = problem()

    def loss(p, x, y):
        out = jnp.tanh(x @ p["0.weight"] + p["0.bias"]) @ p["1.weight"] + p["1.bias"]
        return -jnp.mean(jax.nn.log_softmax(out)[jnp.arange(len(y)), y])

    arrays = {"x": x, "y": y, "kept": kept, **{f"start.{name}": value for name, value in start.items()}}
    table = []
    for i, (name, rate, options, touched) in enumerate(OPTAX_CASES):
        renamed = {{"beta1": "b1", "beta2": "b2"}.get(key, key): value for key, value in options.items()}
        if name == "lion":
            # MAPPED: optax's default weight decay is 1e-3, ours 0.
            mask = None if touched == "all" else {key: key.endswith("weight") for key in start}
            optimizer = optax.lion(rate, mask=mask, **{"weight_decay": 0.0, **renamed})
        else:
            optimizer = optax.contrib.schedule_free_adamw(rate, **renamed)

        @jax.jit
        def step(p, state, x, y, optimizer=optimizer):
            value, grads = jax.value_and_grad(loss)(p, x, y)
            updates, state = optimizer.update(grads, state, p)
            return value, optax.apply_updates(p, updates), state

        p = {key: jnp.asarray(value) for key, value in start.items()}
        state = optimizer.init(p)
        losses, points, evaluation = [], [], []
        for k in range(steps):
            rows = slice(k % BATCHES * ROWS, k % BATCHES * ROWS + ROWS)
            value, p, state = step(p, state, x[rows], y[rows])
            losses.append(float(value))
            if k + 1 in kept:
                points.append(np.concatenate([np.asarray(p[key]).ravel() for key in SHAPES]))
                if name == "schedule_free_adamw":
                    average = optax.contrib.schedule_free_eval_params(state, p)
                    evaluation.append(np.concatenate([np.asarray(average[key]).ravel() for key in SHAPES]))
        arrays |= {f"{i}.losses": losses, f"{i}.points": points}
        if evaluation:
            arrays[f"{i}.evaluation"] = evaluation
        table.append({"name": name, "learning_rate": rate, "options": options, "decay": touched})
    save("optimizers_optax", table, arrays)
