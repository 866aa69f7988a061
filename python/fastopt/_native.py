"""The bridge from specs to the native core: losses on anybody's predictions, optimizers on anybody's arrays, prepared targets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _validate, losses, optimizers
from fastopt._backend import core
from fastopt.losses import Loss
from fastopt.optimizers import Array, Arrays, Optimizer, OptimizerState

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
NETWORK = {FLOAT32: core.Network_float32, FLOAT64: core.Network_float64}
LOSS = {FLOAT32: core.Loss_float32, FLOAT64: core.Loss_float64}
OPTIMIZER = {FLOAT32: core.Optimizer_float32, FLOAT64: core.Optimizer_float64}
SECOND_ORDER = {FLOAT32: core.SecondOrder_float32, FLOAT64: core.SecondOrder_float64}
TRAIN_STEP = {FLOAT32: core.TrainStep_float32, FLOAT64: core.TrainStep_float64}


@lru_cache(maxsize=64)
def native_loss(loss: Loss, dtype: np.dtype[Any]) -> core.Loss_float32:
    """The native side of a loss; it has no state."""
    return LOSS[dtype](loss.name, loss.config())


def native_optimizer(optimizer: Optimizer, dtype: np.dtype[Any]) -> core.Optimizer_float32:
    """The native side of an optimizer."""
    _validate.check_not_zero_in(dtype, optimizer, "eps")
    return OPTIMIZER[dtype](optimizer.name, optimizer.config())


def prepare_target(loss: Loss, outputs: int, y: Any, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """A target exactly as the native loss reads it: int32 class indices, or float (rows, columns).

    Raises
    ------
    TypeError, ValueError
        For a wrong kind, shape, label or value, naming the argument.
    """
    native = native_loss(loss, dtype)
    native.check_outputs(outputs)
    kind = native.target_kind(outputs)
    if kind == "either":
        shape = y.shape if type(y) is np.ndarray else np.shape(y)
        kind = "classes" if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1 < outputs) else "dense"
    if kind == "classes":
        return _validate.labels(y, outputs, name)
    columns = native.target_columns(outputs)
    target = _validate.dense_target(y, columns, dtype, name, low=loss.target_low, high=loss.target_high)
    if loss.link == "softmax":
        _validate.check_probabilities(target, name)
    elif loss.link == "sign":
        _check_signs(target, name)
    return target


def _check_signs(target: NDArray[Any], name: str) -> None:
    magnitude = np.abs(target)
    plus_minus = bool((magnitude == 1.0).all())
    if not plus_minus and not bool(((target == 0.0) | (target == 1.0)).all()):
        raise ValueError(f"{name} must hold +1 and -1, or 1 and 0, for this loss; got values from {target.min()} to {target.max()}")


class LossEngine:
    """Computes a `Loss` natively."""

    def _arrays(
        self, loss: Loss, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[core.Loss_float32, NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        p = _validate.numeric(prediction, "prediction")
        dtype = p.dtype if p.dtype in LOSS else FLOAT64
        if p.ndim == 1:
            p = p.reshape(-1, 1)
        if p.ndim != 2:
            raise ValueError(f"prediction must have shape (rows, outputs) or (rows,); got {p.shape}")
        if p.size == 0:
            raise ValueError(f"prediction must not be empty; got shape {p.shape}")
        p = _validate.exactly(p, dtype)
        y = prepare_target(loss, p.shape[1], target, p.dtype, "target")
        _validate.same_rows(p, y, "prediction", "target")
        w = None if sample_weight is None else _validate.sample_weight(sample_weight, len(p), p.dtype)
        return native_loss(loss, p.dtype), p, y, w

    def value(self, loss: Loss, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None) -> float:
        """Weighted mean over the rows."""
        native, p, y, w = self._arrays(loss, prediction, target, sample_weight)
        return native.value(p, y, w)

    def value_and_grad(
        self, loss: Loss, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[float, NDArray[np.floating[Any]]]:
        """The value and its gradient, in the prediction's shape."""
        native, p, y, w = self._arrays(loss, prediction, target, sample_weight)
        value, grad = native.value_and_grad(p, y, w)
        return value, grad.reshape(np.shape(prediction))


class OptimizerEngine:
    """Runs an `Optimizer` natively on arrays of the caller."""

    def init(self, optimizer: Optimizer, params: Arrays) -> OptimizerState:
        """Fresh state for these parameters."""
        keys = tuple(params) if isinstance(params, Mapping) else None
        arrays = _as_list(params, keys, "params")
        for i, array in enumerate(arrays):
            _check_inplace(array, arrays[0], f"params[{_label(keys, i)}]", writable=True)
        rule = native_optimizer(optimizer, arrays[0].dtype if arrays else FLOAT64)
        slots = {name: [np.full_like(a, rule.initial_slot(s)) for a in arrays] for s, name in enumerate(rule.slot_names)}
        return OptimizerState(0, slots, np.array(rule.initial_scalars(), dtype=np.float64), keys, (optimizer, rule))

    def step(self, optimizer: Optimizer, params: Arrays, grads: Arrays, state: OptimizerState, learning_rate: float | None) -> None:
        """One update in place."""
        if not isinstance(state, OptimizerState):
            raise TypeError(f"state must be what init of the optimizer gave; got {type(state).__name__}")
        if type(params) is np.ndarray and type(grads) is np.ndarray:
            p: list[Array] = [params]
            g: list[Array] = [grads]
        else:
            p, g = _as_list(params, state.keys, "params"), _as_list(grads, state.keys, "grads")
        rate: Any = optimizer.learning_rate if learning_rate is None else learning_rate
        if callable(rate):
            rate = rate(state.step)
        known = state.rule
        rule = known[1] if known is not None and known[0] is optimizer else self._rule(optimizer, p, state)
        try:
            if [a.shape for a in p] != [a.shape for a in g]:
                raise ValueError("params and grads must have the same shapes")
            rule.step(p, g, list(state.slots.values()), state.scalars, state.step + 1, rate)
        except (TypeError, ValueError, AttributeError, IndexError, OverflowError):
            _explain(p, g, state, rate)
            raise
        state.step += 1

    def _rule(self, optimizer: Optimizer, params: list[Array], state: OptimizerState) -> core.Optimizer_float32:
        if params and (not isinstance(params[0], np.ndarray) or params[0].dtype not in OPTIMIZER):
            _check_inplace(params[0], params[0], f"params[{_label(state.keys, 0)}]", writable=True)
        rule = native_optimizer(optimizer, params[0].dtype if params else FLOAT64)
        if list(state.slots) != list(rule.slot_names):
            raise ValueError(f"state has the slots {list(state.slots)}, but {optimizer.name} needs {list(rule.slot_names)}")
        state.rule = (optimizer, rule)
        return rule

    def evaluation_point(self, optimizer: Optimizer, params: Arrays, state: OptimizerState) -> list[Array]:
        """The weights to evaluate at, as new arrays."""
        arrays = _as_list(params, state.keys, "params")
        rule = self._rule(optimizer, arrays, state)
        out = [np.array(a) for a in arrays]
        if state.step > 0:  # an average begins with the first step
            rule.evaluation_point(arrays, list(state.slots.values()), state.scalars, out)
        return out


def _label(keys: tuple[str, ...] | None, index: int) -> str:
    return str(index) if keys is None else repr(keys[index])


def _as_list(arrays: Arrays, keys: tuple[str, ...] | None, name: str) -> list[Array]:
    found = _listed(arrays, keys, name)
    for each in found:
        _validate.refuse_mask(each, name)
    return found


def _listed(arrays: Arrays, keys: tuple[str, ...] | None, name: str) -> list[Array]:
    if isinstance(arrays, np.ndarray):
        return [arrays]
    if isinstance(arrays, Mapping):
        if keys is None:
            raise TypeError(f"{name} is a mapping, but the state was made for a sequence or one array")
        if len(arrays) != len(keys) or any(key not in arrays for key in keys):
            raise ValueError(f"{name} must have the keys {list(keys)}; got {list(arrays)}")
        return [arrays[key] for key in keys]
    if keys is not None:
        raise TypeError(f"{name} must be a mapping with the keys {list(keys)}; got {type(arrays).__name__}")
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"{name} must be a NumPy array or a list or dict of them; got {type(arrays).__name__}")
    return list(arrays)


def _check_inplace(array: Any, like: Any, name: str, *, writable: bool) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, because it is used in place; got {type(array).__name__}")
    if array.dtype not in OPTIMIZER:
        raise TypeError(f"{name} must have dtype float32 or float64; got {array.dtype}")
    if array.dtype != like.dtype:
        raise TypeError(f"{name} must have dtype {like.dtype} as the others; got {array.dtype}")
    if not array.flags.c_contiguous or not array.flags.aligned:
        raise ValueError(f"{name} must be C-contiguous and aligned; got shape {array.shape} with strides {array.strides}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} is read-only, but it is updated in place")


def _explain(params: list[Array], grads: list[Array], state: OptimizerState, rate: Any) -> None:
    """Raise the friendly form of what the native check refused."""
    if not isinstance(rate, float | int | np.floating) or not (0.0 <= float(rate) < np.inf):
        raise ValueError(f"learning_rate must be a finite number of at least 0; got {rate!r}")
    if not isinstance(state.slots, dict) or not all(isinstance(slot, list | tuple) for slot in state.slots.values()):
        raise TypeError("the state's slots must be a dict of lists of arrays, as init of the optimizer gave them")
    if not isinstance(state.step, int | np.integer) or not 0 <= state.step < 2**62:
        raise ValueError(f"the state's step must be a number of updates; got {state.step!r}")
    held = next((len(slot) for slot in state.slots.values() if len(slot) != len(params)), len(params))
    if not len(params) == len(grads) == held:
        raise ValueError(f"params, grads and the state must have as many arrays; got {len(params)}, {len(grads)} and {held}")
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        label = _label(state.keys, i)
        _check_inplace(p, params[0], f"params[{label}]", writable=True)
        _check_inplace(g, params[0], f"grads[{label}]", writable=False)
        if p.shape != g.shape:
            raise ValueError(f"params[{label}] and grads[{label}] must have the same shape; got {p.shape} and {g.shape}")
        for name, slot in state.slots.items():
            if not isinstance(slot[i], np.ndarray):
                raise TypeError(f"the state's {name} for params[{label}] must be a NumPy array; got {type(slot[i]).__name__}")
            if slot[i].shape != p.shape or slot[i].dtype != p.dtype:
                got = f"{slot[i].dtype} {slot[i].shape}"
                raise ValueError(f"the state's {name} for params[{label}] must be {p.dtype} {p.shape}; got {got}")
    everything = [*params, *grads, *(a for slot in state.slots.values() for a in slot)]
    for i, p in enumerate(params):
        for j, other in enumerate(everything):
            if i != j and np.may_share_memory(p, other):
                raise ValueError(f"params[{_label(state.keys, i)}] shares memory with another array, but it is updated in place")


def install() -> None:
    """Give the specs their native engines; done once when `fastopt` is imported."""
    losses.Loss.engine = LossEngine()
    optimizers.Optimizer.engine = OptimizerEngine()
