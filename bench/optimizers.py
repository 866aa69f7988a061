"""Every registered optimizer: bytes per second of its fused update against the copy loop on a working set of the same size.

The bytes are those the rule cannot avoid: read weight, gradient and its slots, write weight and slots; a rule that needs the norm of the
whole gradient first (adagrad_norm) reads the gradient twice. A rule that takes a square root and a quotient from the divider of the cores
for every parameter is bound by it too: the rate of such pairs in registers, measured in the same rounds, times the bytes of a parameter.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from context import Context
from harness import Contestant, Summary, repeat
from report import micros, number, peer, percent
from workloads import Array, aligned

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK_SIZES = (10_000,)
MUST_REACH = 0.90
# Options that change what a rule reads and writes: label -> (registered name, options). The label is torch's key too.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd_nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adam_amsgrad": ("adam", {"amsgrad": True}),
    "rmsprop_centered": ("rmsprop", {"momentum": 0.9, "centered": True}),
}
# Rules that do not take both from the divider for every parameter.
WITHOUT_DIVIDER = ("adagrad_norm", "adamax", "lion", "rprop", "sgd", "sgd_nesterov")


@dataclass
class Subject:
    """One rule on one flat array: the fused native update and the same through the public `step`."""

    native: Callable[[], None]
    public: Callable[[], object]
    slots: int
    norm_passes: int
    parameters: Array
    gradients: Array

    @property
    def traffic(self) -> int:
        return self.parameters.nbytes * (3 + 2 * self.slots + self.norm_passes)

    @property
    def working_set(self) -> int:
        return self.parameters.nbytes * (2 + self.slots)


def filled(size: int, value: float = 0.0) -> Array:
    out = aligned(size)
    out[...] = value
    return out


def make_subject(context: Context, spec: Any, size: int) -> Subject:
    rule = context.core.Optimizer_float32(spec.name, spec.config())
    parameters, gradients = filled(size), filled(size)
    generator = np.random.default_rng(0)
    parameters[...] = generator.standard_normal(size, dtype=np.float32)
    gradients[...] = generator.standard_normal(size, dtype=np.float32)
    slots = [[filled(size, rule.initial_slot(index))] for index in range(len(rule.slot_names))]
    scalars = rule.initial_scalars()
    steps = 0

    def native() -> None:
        nonlocal steps
        steps += 1
        rule.step([parameters], [gradients], slots, scalars, steps, 1e-3)

    own = parameters.copy()
    state = spec.init(own)
    return Subject(native, lambda: spec.step(own, gradients, state), len(slots), int(spec.name == "adagrad_norm"), parameters, gradients)


def run(context: Context) -> None:
    title = f"fused updates, must reach {percent(MUST_REACH)} of the copy loop (float32, {context.threads} threads)"
    context.report.begin("optimizers", title)
    rows = []
    for label, spec in specs(context).items():
        for size in QUICK_SIZES if context.quick else SIZES:
            rows.append(one(context, label, spec, size))
            gc.collect()
    headers = ["update", "bytes", "native µs", "GB/s", "copy GB/s", "of copy", "divider GB/s", "through Python µs", "torch µs", "NumPy µs"]
    context.report.table(headers, rows)


def specs(context: Context) -> dict[str, Any]:
    names = context.core.optimizer_names()
    found = {name: context.fo.optimizers.get(name) for name in names}
    for label, (name, options) in VARIANTS.items():
        if name in names:
            found[label] = type(found[name])(**options)
    return dict(sorted(found.items()))


def one(context: Context, label: str, spec: Any, size: int) -> list[str]:
    subject = make_subject(context, spec, size)
    contestants = [
        Contestant("fastopt", repeat(subject.native)),
        Contestant("fastopt public step", repeat(subject.public)),
        context.copy_limit(subject.working_set),
    ]
    if label not in WITHOUT_DIVIDER:
        contestants.append(context.divider_limit())
    if (torch := context.peer("torch")) and (function := torch.optimizer_step(label, subject.parameters, subject.gradients)):
        contestants.append(Contestant("torch", repeat(function)))
    if label == "adam" and (numpy := context.peer("numpy")):
        adam, own = numpy.AdamInPlace(size), subject.parameters.copy()
        contestants.append(Contestant("NumPy", repeat(lambda: adam.step(own, subject.gradients))))
    times = context.measure(contestants)
    return row(context, f"{label} {size:,}".replace(",", " "), subject, times)


def row(context: Context, case: str, subject: Subject, times: dict[str, Summary]) -> list[str]:
    limit = times.pop("copy limit")
    divider = times.pop("divider limit", None)
    context.report.add(case, "copy limit", limit, "B/s", higher_is_better=True)
    for name, summary in times.items():
        context.report.add(case, name, summary, "s", bytes=subject.traffic, of_limit=summary.fraction_of(limit, subject.traffic))
    ours = times["fastopt"]
    bound = "-"
    if divider is not None:
        rate = divider.median * subject.traffic / subject.parameters.size
        bound = f"{number(rate * 1e-9)} ({percent(subject.traffic / ours.median / rate)})"
    return [
        case,
        str(subject.traffic // subject.parameters.size),
        micros(ours),
        number(subject.traffic / ours.median * 1e-9),
        number(limit.median * 1e-9),
        percent(ours.fraction_of(limit, subject.traffic)),
        bound,
        number(times["fastopt public step"].median * 1e6),
        peer(times.get("torch"), ours),
        peer(times.get("NumPy"), ours),
    ]
