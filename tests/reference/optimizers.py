"""Update rules on lists of float64 arrays, written as in the papers.

A rule is a class: its constructor takes the options, `start` makes the state of one array from that array, `update` changes one array in
place given its gradient. `step` walks the arrays. `decays` says which arrays weight decay touches (all by default), `multipliers` are
learning-rate multipliers per array.
"""

from typing import ClassVar

import numpy as np


class Rule:
    learning_rate = 0.01

    def __init__(self, weight_decay=0.0, **options):
        self.weight_decay = weight_decay
        for name, default in type(self).options.items():
            setattr(self, name, options.pop(name, default))
        assert not options, f"{type(self).__name__} has no option {sorted(options)}"
        self.states = None
        self.t = 0

    options: ClassVar = {}
    decoupled = False

    def start(self, w):
        return {}

    def before(self, grads, lr):
        """What a rule computes once per step, from all arrays together."""

    def update(self, w, g, s, lr, decay):
        raise NotImplementedError

    def step(self, params, grads, lr=None, decays=None, multipliers=None):
        lr = type(self).learning_rate if lr is None else lr
        if self.states is None:
            self.states = [self.start(w) for w in params]
        self.t += 1
        decays = [True] * len(params) if decays is None else decays
        multipliers = [1.0] * len(params) if multipliers is None else multipliers
        self.before(grads, lr)
        for w, g, s, touched, multiplier in zip(params, grads, self.states, decays, multipliers, strict=True):
            decay = self.weight_decay if touched else 0.0
            if not self.decoupled:
                g, decay = g + decay * w, 0.0
            self.update(w, g, s, lr * multiplier, decay)

    def evaluation_point(self, params):
        """The weights to evaluate at; the parameters themselves for all rules but the schedule-free ones."""
        return params


def zeros(w, *names):
    return {name: np.zeros_like(w) for name in names}


class SGD(Rule):
    options: ClassVar = {"momentum": 0.0, "nesterov": False}

    def start(self, w):
        return zeros(w, "v")

    def update(self, w, g, s, lr, decay):
        s["v"] = self.momentum * s["v"] + g
        w -= lr * (g + self.momentum * s["v"] if self.nesterov else s["v"])


class AdaGrad(Rule):
    options: ClassVar = {"eps": 1e-10, "initial_accumulator": 0.0}

    def start(self, w):
        return {"s": np.full_like(w, self.initial_accumulator)}

    def update(self, w, g, s, lr, decay):
        s["s"] = s["s"] + g**2
        w -= lr * g / (np.sqrt(s["s"]) + self.eps)


class AdaGradNorm(Rule):
    learning_rate = 0.1
    options: ClassVar = {"eps": 1e-8}
    total = 0.0

    def before(self, grads, lr):
        self.total += sum(float((g**2).sum()) for g in grads)

    def update(self, w, g, s, lr, decay):
        w -= lr * g / np.sqrt(self.eps + self.total)


class RMSProp(Rule):
    learning_rate = 0.001
    options: ClassVar = {"rho": 0.9, "eps": 1e-8, "momentum": 0.0, "centered": False}

    def start(self, w):
        return zeros(w, "r", "mean", "v")

    def update(self, w, g, s, lr, decay):
        s["r"] = self.rho * s["r"] + (1 - self.rho) * g**2
        s["mean"] = self.rho * s["mean"] + (1 - self.rho) * g
        root = np.sqrt(s["r"] - s["mean"] ** 2 if self.centered else s["r"])
        s["v"] = self.momentum * s["v"] + g / (root + self.eps)
        w -= lr * s["v"]


class AdaDelta(Rule):
    learning_rate = 1.0
    options: ClassVar = {"rho": 0.95, "eps": 1e-6}

    def start(self, w):
        return zeros(w, "r", "h")

    def update(self, w, g, s, lr, decay):
        s["r"] = self.rho * s["r"] + (1 - self.rho) * g**2
        delta = np.sqrt(s["h"] + self.eps) / np.sqrt(s["r"] + self.eps) * g
        s["h"] = self.rho * s["h"] + (1 - self.rho) * delta**2
        w -= lr * delta


class MomentRule(Rule):
    """The two moments that Adam and its relatives share."""

    learning_rate = 0.001
    options: ClassVar = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

    def start(self, w):
        return zeros(w, "m", "v", "v_max")

    def moments(self, g, s):
        s["m"] = self.beta1 * s["m"] + (1 - self.beta1) * g
        s["v"] = self.beta2 * s["v"] + (1 - self.beta2) * g**2


class Adam(MomentRule):
    options: ClassVar = {**MomentRule.options, "amsgrad": False}

    def update(self, w, g, s, lr, decay):
        w *= 1 - lr * decay
        self.moments(g, s)
        s["v_max"] = np.maximum(s["v_max"], s["v"])
        m_hat = s["m"] / (1 - self.beta1**self.t)
        v_hat = (s["v_max"] if self.amsgrad else s["v"]) / (1 - self.beta2**self.t)
        w -= lr * m_hat / (np.sqrt(v_hat) + self.eps)


class AdamW(Adam):
    decoupled = True

    def __init__(self, weight_decay=0.01, **options):
        super().__init__(weight_decay, **options)


class NAdam(MomentRule):
    learning_rate = 0.002
    options: ClassVar = {**MomentRule.options, "momentum_decay": 0.004}
    mu_product = 1.0

    def mu(self, t):
        return self.beta1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def before(self, grads, lr):
        self.mu_product *= self.mu(self.t)

    def update(self, w, g, s, lr, decay):
        self.moments(g, s)
        mu, mu_next = self.mu(self.t), self.mu(self.t + 1)
        m_bar = (1 - mu) * g / (1 - self.mu_product) + mu_next * s["m"] / (1 - self.mu_product * mu_next)
        w -= lr * m_bar / (np.sqrt(s["v"] / (1 - self.beta2**self.t)) + self.eps)


class RAdam(MomentRule):
    def update(self, w, g, s, lr, decay):
        self.moments(g, s)
        m_hat = s["m"] / (1 - self.beta1**self.t)
        correction = 1 - self.beta2**self.t
        longest = 2 / (1 - self.beta2) - 1
        length = longest - 2 * self.t * self.beta2**self.t / correction
        if length > 5:
            rect = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            w -= lr * rect * m_hat * np.sqrt(correction) / (np.sqrt(s["v"]) + self.eps)
        else:
            w -= lr * m_hat


class AdaMax(MomentRule):
    learning_rate = 0.002

    def update(self, w, g, s, lr, decay):
        s["m"] = self.beta1 * s["m"] + (1 - self.beta1) * g
        s["v"] = np.maximum(self.beta2 * s["v"], np.abs(g) + self.eps)
        w -= lr / (1 - self.beta1**self.t) * s["m"] / s["v"]


class Lion(Rule):
    learning_rate = 1e-4
    options: ClassVar = {"beta1": 0.9, "beta2": 0.99}
    decoupled = True

    def start(self, w):
        return zeros(w, "m")

    def update(self, w, g, s, lr, decay):
        w *= 1 - lr * decay
        w -= lr * np.sign(self.beta1 * s["m"] + (1 - self.beta1) * g)
        s["m"] = self.beta2 * s["m"] + (1 - self.beta2) * g


class Rprop(Rule):
    options: ClassVar = {"etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)}

    def start(self, w):
        return {"previous": np.zeros_like(w), "size": None}

    def update(self, w, g, s, lr, decay):
        if s["size"] is None:
            s["size"] = np.full_like(w, lr)
        product = g * s["previous"]
        factor = np.where(product > 0, self.etas[1], np.where(product < 0, self.etas[0], 1.0))
        s["size"] = np.clip(s["size"] * factor, *self.step_sizes)
        g = np.where(product < 0, 0.0, g)
        w -= np.sign(g) * s["size"] * (lr != 0)
        s["previous"] = g


class ScheduleFreeAdamW(Rule):
    """Defazio et al. 2024 as their own code has it: v bias-corrected, step k weighted with the largest rate so far, squared.

    The parameters held are y, where gradients are taken; z is the plain iterate and x, the average, is where one evaluates.
    """

    learning_rate = 0.0025
    options: ClassVar = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "warmup_steps": 0}
    decoupled = True
    weight_sum = 0.0
    largest = 0.0

    def start(self, w):
        return {"x": w.copy(), "z": w.copy(), "v": np.zeros_like(w)}

    def before(self, grads, lr):
        self.warm = min(1.0, self.t / self.warmup_steps) if self.warmup_steps else 1.0
        self.largest = max(self.largest, lr * self.warm)
        self.weight_sum += self.largest**2
        self.share = self.largest**2 / self.weight_sum if self.weight_sum > 0 else 0.0

    def update(self, y, g, s, lr, decay):
        s["v"] = self.beta2 * s["v"] + (1 - self.beta2) * g**2
        direction = g / (np.sqrt(s["v"] / (1 - self.beta2**self.t)) + self.eps) + decay * y
        s["z"] = s["z"] - lr * self.warm * direction
        s["x"] = (1 - self.share) * s["x"] + self.share * s["z"]
        y[...] = self.beta1 * s["x"] + (1 - self.beta1) * s["z"]

    def evaluation_point(self, params):
        return [s["x"].copy() for s in self.states]


OPTIMIZERS = {
    "sgd": SGD,
    "adagrad": AdaGrad,
    "adagrad_norm": AdaGradNorm,
    "rmsprop": RMSProp,
    "adadelta": AdaDelta,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "radam": RAdam,
    "adamax": AdaMax,
    "lion": Lion,
    "rprop": Rprop,
    "schedule_free_adamw": ScheduleFreeAdamW,
}
