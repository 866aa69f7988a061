"""Everything that training changes, as named arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt.history import History

if TYPE_CHECKING:
    from fastopt.training import Trainer

Arrays = dict[str, NDArray[Any]]
WAITING = "waiting/"  # micro-batches of `accumulate`; a file of an earlier version has none

Segments = list[tuple[str, int, tuple[int, ...]]]


def _named(prefix: str, flat: NDArray[Any], segments: Segments) -> Arrays:
    return {f"{prefix}{name}": flat[at : at + math.prod(shape)].reshape(shape) for name, at, shape in segments}


def check_in_place(trainer: Trainer) -> None:
    """Raise when the network holds the weights to evaluate at."""
    if trainer._native.swapped:
        raise ValueError("within evaluation_weights average and weights have changed places; save, copy, restore or reset after it ends")


def arrays(trainer: Trainer) -> Arrays:
    """Zero-copy views of weights, statistics, slots, scalars, averages and micro-batches that wait for their update."""
    check_in_place(trainer)
    net, native = trainer.network, trainer._native
    segments = net._native.parameter_segments()
    named = {f"parameters/{name}": view for name, view in net.parameters.items()}
    named.update({f"buffers/{name}": view for name, view in net.buffers.items()})
    for slot, flat in zip(native.slot_names, native.slots(), strict=True):
        named.update(_named(f"slots/{slot}/", flat, segments))
    named["scalars"] = native.scalars
    if trainer._memory is not None:
        named.update({f"solver/{name}": array for name, array in trainer._memory.arrays.items()})
    averages = native.averages()
    if averages is not None:
        named.update(_named("average/parameters/", averages[0], segments))
        named.update(_named("average/buffers/", averages[1], net._native.buffer_segments()))
    waiting = native.waiting()
    if waiting is not None:
        named.update(_named(f"{WAITING}gradients/", waiting[0], segments))
        named[f"{WAITING}weights"] = waiting[1]
    return named


def counters(trainer: Trainer) -> Arrays:
    """The numbers that go with the arrays."""
    return {
        "counters": np.array([trainer.steps, trainer.network.training_step], dtype=np.int64),
        "rate_scale": np.array(trainer.rate_scale, dtype=np.float64),
    }


def copies(trainer: Trainer) -> Arrays:
    """Copies of all of it, between two native runs of steps."""
    with trainer._turn, trainer.network._native:
        return {**{name: np.array(view) for name, view in arrays(trainer).items()}, **counters(trainer)}


def record(trainer: Trainer) -> tuple[int, History]:
    """Epoch counter and history, copied while the caller keeps steps from going on, with what a native run of epochs has yet to record."""
    known = trainer.history
    history = History([dict(row) for row in known.rows], list(known.seconds))
    history.message = known.message
    under_way = trainer._under_way
    ended, seconds = ([], 0.0) if under_way is None else under_way()
    for row in ended:
        history.append(row, seconds / len(ended))
    return trainer.epoch + len(ended), history


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as `Trainer` takes them: no clipping is 0 inside and None outside."""
    return {key: value for key, value in options.items() if not (key.startswith("clip") and not value)}


def whole(trainer: Trainer) -> dict[str, Any]:
    """What makes another trainer like this one, for pickle and copy; the network is copied too."""
    with trainer._turn, trainer.network._native:
        epoch, history = record(trainer)
        return {
            "network": trainer.network._spec, "loss": trainer.loss, "optimizer": trainer.optimizer,
            "options": given_options(trainer.options), "seed": trainer.seed,
            "state": copies(trainer), "epoch": epoch, "history": history, "columns": trainer.columns,
        }  # fmt: skip


def copy_into(trainer: Trainer, state: Arrays) -> None:
    """As `copies`, into arrays that `copies` made before."""
    with trainer._turn, trainer.network._native:
        for name, value in {**arrays(trainer), **counters(trainer)}.items():
            np.copyto(state[name], value)


def restore(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> None:
    """Put copies back, after a check that changes nothing when it fails."""
    with trainer._turn, trainer.network._native:
        _restore(trainer, state)


def _restore(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> None:
    own = arrays(trainer)
    expected = {**own, **counters(trainer)}
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if not any(name.startswith(WAITING) for name in state):
        missing = [name for name in missing if not name.startswith(WAITING)]
    if missing or unknown:
        raise ValueError(f"state does not fit this trainer; missing: {missing or 'none'}, unknown: {unknown or 'none'}")
    for name, view in expected.items():
        if name not in state:
            continue
        value = state[name]
        if getattr(value, "shape", None) != view.shape or value.dtype != view.dtype:
            got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ValueError(f"state[{name!r}] must be {view.dtype} {view.shape}; got {got}")
    counts, scale = state["counters"], float(state["rate_scale"])
    if (counts < 0).any():
        raise ValueError(f"state['counters'] must not be negative; got {counts.tolist()}")
    if not 0.0 <= scale < math.inf:
        raise ValueError(f"state['rate_scale'] must be a finite number of at least 0; got {scale}")

    def put() -> None:
        trainer._set_counters(int(counts[0]), int(counts[1]))
        trainer.rate_scale = scale
        for name, view in own.items():
            if name in state:
                view[...] = state[name]

    try:
        put()
    except BaseException:  # Ctrl-C: half of a state is none
        put()
        raise
