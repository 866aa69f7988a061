"""`Trainer.fit` with a solver: the full batch, one accepted step per epoch; everything around the steps is `_epochs.Epochs`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt import _validate, layers
from fastopt._epochs import Epochs, FinishedError
from fastopt._native import FLOAT64, native_loss
from fastopt._network_steps import LARGEST_NEWTON, Memory
from fastopt._objective import Objective
from fastopt._problem import Point
from fastopt._steps import StepFailedError
from fastopt.losses import Loss, MeanSquaredError
from fastopt.network_solvers import LevenbergMarquardt, NewtonCG
from fastopt.solvers import GradientDescent, Newton, Solver

if TYPE_CHECKING:
    from fastopt import _prepare
    from fastopt._links import AnyLoss
    from fastopt.network import Network
    from fastopt.training import Trainer


def memory_of(solver: Solver, network: Network, loss: AnyLoss, options: dict[str, Any]) -> Memory:
    """What the solver remembers, after a check that it can train this network with this loss."""
    kind = type(solver).__name__
    if isinstance(solver, GradientDescent):
        raise ValueError("GradientDescent minimizes functions; for a network take optimizers.SGD, or solvers.LBFGS for line searches")
    if not isinstance(loss, Loss):
        raise ValueError(f"{kind} needs a loss of fastopt; a Python function gives no derivatives in inference mode")
    if isinstance(solver, LevenbergMarquardt) and not isinstance(loss, MeanSquaredError):
        raise ValueError(f"LevenbergMarquardt is for the squared error 'mse'; got {loss.name!r}: take LBFGS or NewtonCG")
    if isinstance(solver, Newton | NewtonCG) and not native_loss(loss, FLOAT64).smooth:
        raise ValueError(f"{kind} needs second derivatives, and the loss {loss.name!r} has kinks; take LBFGS or an optimizer")
    off = {"clip_norm": 0.0, "clip_value": 0.0, "ema": 0.0, "accumulate": 1}
    used = [name for name, value in off.items() if options[name] != value]
    if used:
        raise ValueError(f"{kind} chooses its own steps on the full batch; leave out {', '.join(used)}")
    for number, layer in enumerate(network.layers):
        if getattr(layer, "learning_rate_multiplier", 1.0) != 1.0:
            raise ValueError(
                f"{kind} has no learning rate that learning_rate_multiplier of layer {number} could change; leave it out, and hold a layer "
                "with trainable=False"
            )
    size = sum(view.size for name, view in network.parameters.items() if network._trains(name))
    if size == 0:
        raise ValueError(f"{kind}: the network has no trainable parameters")
    if isinstance(solver, LevenbergMarquardt) and network.num_parameters > solver.max_parameters:
        raise ValueError(
            f"LevenbergMarquardt solves a system of the size of the parameters, up to max_parameters={solver.max_parameters}; this "
            f"network has {network.num_parameters}: take solvers.LBFGS or solvers.NewtonCG"
        )
    if isinstance(solver, Newton) and network.num_parameters > LARGEST_NEWTON:
        raise ValueError(
            f"Newton forms the Hessian of up to {LARGEST_NEWTON} parameters; this network has {network.num_parameters}: "
            "take solvers.NewtonCG, which needs products with it only"
        )
    for layer in network.layers:
        if isinstance(layer, layers.Dropout) and layer.rate > 0.0:
            raise ValueError(f"{kind} needs one and the same loss in every call, and Dropout draws new masks; leave it out or use l2")
    return Memory(solver, size)


def warn_of_kinks(trainer: Trainer) -> None:
    """Of an L1 penalty, from `_fit.plan`."""
    if trainer.options["l1"] or any(getattr(layer, "l1", 0.0) for layer in trainer.network.layers):
        doubt = (
            f"{type(trainer.optimizer).__name__} may stop short of the optimum of a loss with an L1 penalty, whose kinks at 0 are not in "
            "its model; an optimizer, such as Adam or SGD with a decaying rate, comes closer"
        )
        warnings.warn(doubt, UserWarning, stacklevel=4)


def refuse_batches(trainer: Trainer, X: Any, y: Any, batch_size: int | None) -> None:
    """Raise when a fit by a solver is not on arrays and the full batch."""
    kind = type(trainer.optimizer).__name__
    if y is None:
        raise ValueError(f"{kind} works on the full batch; give X and y as arrays; got X of type {type(X).__name__} alone")
    if batch_size is not None:
        raise ValueError(f"{kind} works on the full batch; call fit(..., batch_size=None); got batch_size={batch_size}")


class SolverEpochs(Epochs):
    """Epochs of one accepted step each, until the solver can go no further."""

    def prepare(self, data: _prepare.ArrayData, memory: Memory) -> None:
        """Keep the data; nothing is computed yet."""
        self.rows, self._memory = data.count, memory
        self._arrays = (data.x, data.y, data.weight)
        if data.rows is not None:
            self._arrays = (data.x[data.rows], data.y[data.rows], None if data.weight is None else data.weight[data.rows])
        self._objective: Objective | None = None
        self._steps: Iterator[Point] = iter(())

    def _start(self) -> None:
        trainer = self.trainer
        _first_statistics(trainer.network, self._arrays[0])
        assert isinstance(trainer.loss, Loss)
        self._objective = Objective(
            trainer.network, trainer.loss, *self._arrays, l1=trainer.options["l1"], l2=trainer.options["l2"],
            double=not self._memory.first_order,
        )  # fmt: skip
        value = self._objective.value(self._objective.read())
        if not math.isfinite(value):
            raise self.not_finite(value)
        self._steps = self._memory.steps(self._objective, trainer.steps)

    def one_epoch(self) -> float:
        """One step; the loss after it."""
        if self._objective is None:
            self._start()
        objective = self._objective
        assert objective is not None
        native, before = self.trainer._native, objective.read()
        done = native.t
        try:
            point = next(self._steps)
            loss = objective.data_loss
            objective.write(point.x)
            self._memory.keep()
            native.t += 1
        except BaseException as error:
            if native.t == done:  # a trial may be in the network, or, after Ctrl-C, half of a step
                objective.write(before)
                self._memory.go_back()  # to the mark of the snapshot that begins an epoch
            if isinstance(error, StepFailedError):
                self._memory.forget()  # another fit, on other data perhaps, must not begin with the damping that this one ended with
                kinks = "; perhaps at a kink of the l1 penalty, where an optimizer goes on" if objective.has_kinks else ""
                raise FinishedError(f"{type(self.trainer.optimizer).__name__}: {error}{kinks}") from None
            raise
        if self.bar is not None:
            self.bar.update(self.rows or 0)
        return float(loss)

    def _row(self, loss: float) -> dict[str, Any]:
        row = super()._row(loss)
        del row["learning_rate"]
        if "damping" in self._memory.arrays:
            row["damping"] = float(self._memory.arrays["damping"][0])
        return row


def _first_statistics(network: Network, x: Any) -> None:
    """Batch normalization that has seen nothing gets its statistics from the first rows; they stay fixed from then on."""
    waiting = [name for name, view in network.buffers.items() if name.endswith(".count") and name != "0.count" and view[0] == 0.0]
    waiting += ["0.count"] if isinstance(network.layers[0], layers.BatchNorm) and network.buffers["0.count"][0] == 0.0 else []
    if waiting:
        network._native.forward(np.ascontiguousarray(x[: _validate.BLOCK_ROWS], dtype=network.dtype), True)
