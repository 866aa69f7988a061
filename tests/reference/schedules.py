"""Learning rates as closed forms of one step t = 0, 1, 2, ...; schedules inside schedules are functions of t."""

import math


def constant(t, rate):
    return rate


def step_decay(t, rate, every, factor=0.1):
    return rate * factor ** (t // every)


def exponential_decay(t, start, rate, every=1):
    return start * rate ** (t / every)


def inverse_time_decay(t, rate, delta):
    return rate / (1 + delta * t)


def power_decay(t, rate, delta):
    return rate / (t + 1) ** delta


def linear(t, rate, steps, end=0.0):
    return end if t >= steps else rate + (end - rate) * t / steps


def cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def cosine_decay(t, rate, steps, end=0.0):
    return cosine(rate, end, min(t, steps) / steps)


def cosine_restarts(t, rate, steps, factor=1.0, end=0.0):
    length = steps
    while t >= length:
        t, length = t - length, length * factor
    return cosine(rate, end, t / length)


def one_cycle(t, rate, steps, warmup_fraction=0.3, start_factor=25.0, end_factor=1e5):
    top = warmup_fraction * steps
    if t < top:
        return cosine(rate / start_factor, rate, t / top)
    return cosine(rate, rate / end_factor, min(1.0, (t - top) / (steps - top)))


def piecewise(t, boundaries, rates):
    return rates[sum(t >= b for b in boundaries)]


def warmup(t, schedule, steps):
    return schedule(0) * (t + 1) / steps if t < steps else schedule(t - steps)


def hold(t, schedule, steps):
    return schedule(0) if t < steps else schedule(t - steps)


def join(t, schedules, boundaries):
    i = sum(t >= b for b in boundaries)
    return schedules[i](t - (boundaries[i - 1] if i else 0))


SCHEDULES = {
    "constant": constant,
    "step_decay": step_decay,
    "exponential_decay": exponential_decay,
    "inverse_time_decay": inverse_time_decay,
    "power_decay": power_decay,
    "linear": linear,
    "cosine_decay": cosine_decay,
    "cosine_restarts": cosine_restarts,
    "one_cycle": one_cycle,
    "piecewise": piecewise,
    "warmup": warmup,
    "hold": hold,
    "join": join,
}
