"""The trainer: one network, one loss, one optimizer, and what they remember between steps."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import _array_epochs, _evaluate, _fit, _links, _options, _prepare, _specs, _state, _validate
from fastopt._backend import core
from fastopt._inference import outputs_of
from fastopt._links import AnyLoss
from fastopt._native import TRAIN_STEP, native_loss, native_optimizer
from fastopt._rates import Rates
from fastopt.errors import NonFiniteLossError
from fastopt.history import History
from fastopt.losses import Loss
from fastopt.network import Network
from fastopt.optimizers import SGD, Optimizer
from fastopt.solvers import Solver

if TYPE_CHECKING:
    from fastopt._snapshot import Copies
    from fastopt.profile import Profile

__all__ = ["Trainer"]

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class Trainer:
    """Trains a network: gather, forward, loss, backward, clipping and a fused update, natively and many steps per call.

    Parameters
    ----------
    network : Network
    loss : str, Loss or callable
        A name, a spec, or a function `(prediction, target) -> (value, gradient)`: raw outputs `(n, outputs)` in the network's dtype, rows
        of y in their own shape and dtype, the mean loss, and its gradient in the shape of the prediction. Give y as `(n, 1)` for one
        output, or the two broadcast to `(n, n)`.
    optimizer : str, Optimizer or Solver
        A name or a spec. A solver (LBFGS, NewtonCG, Newton, LevenbergMarquardt) takes the full batch, `fit(..., batch_size=None)`, one
        step per epoch, batch normalization with fixed statistics, and says in `history.message` why it ended a fit before its time.
    l1, l2 : float
        Penalties `l1 sum|W| + l2 sum W^2` on weights only, reported apart from the loss.
    clip_norm, clip_value : float, optional
        Bounds on the global norm and on each element of the gradient.
    ema : float
        Decay in [0, 1) of an exponential average of the weights, which evaluation and prediction use; 0 for none. It begins with the
        weights after the first update and reaches back over some `1 / (1 - ema)` updates, so train for many more than that.
    accumulate : int
        Micro-batches per update, each weighing as much as its rows do together; those left at the end of an epoch make an update of
        their own.
    seed : int, optional
        Of shuffling and validation split; the network's seed by default.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument; an unknown name lists the known ones.

    Attributes
    ----------
    epoch : int
        Epochs that ended.
    history : History
        Their rows.
    columns : list of str or None
        Of the frame it was fitted on; frames with others, or in another order, are refused. Arrays have no names to compare.
    stop_training : bool
        Set it to end the fit after the present epoch.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(int)
    >>> trainer = fo.Trainer(fo.mlp(2, [16], 2, seed=0), loss="cross_entropy", optimizer=fo.optimizers.Adam(learning_rate=0.05))
    >>> history = trainer.fit(X, y, epochs=60, batch_size=20)
    >>> trainer.evaluate(X, y, metrics=["accuracy"])["accuracy"] > 0.9
    True
    """

    def __init__(
        self,
        network: Network,
        loss: str | AnyLoss,
        optimizer: str | Optimizer | Solver = "adam",
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema: float = 0.0,
        accumulate: int = 1,
        seed: int | None = None,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network must be a fastopt.Network; got {type(network).__name__}")
        self._network = network
        self._loss: AnyLoss = _links.resolve(loss)
        self._optimizer = _options.method(optimizer)
        self._options = _options.check(l1, l2, clip_norm, clip_value, ema, accumulate)
        self._seed = network.seed if seed is None else _specs.check_seed(seed)
        self.epoch = 0
        self.history = History()
        self.columns: list[str] | None = None
        self.stop_training = False
        native = None
        if isinstance(self._loss, Loss):
            native = native_loss(self._loss, network.dtype)
            native.check_outputs(network.outputs)
            if self._loss.link == "softmax" and network.outputs == 1:
                raise ValueError(f"{self._loss.name} needs at least two outputs; got 1 (for two classes and one output take 'bce')")
        elif accumulate != 1:
            raise ValueError(f"accumulate must be 1 with a loss written in Python; got {accumulate}")
        self._memory = None
        fused: Optimizer = SGD()  # a solver leaves the fused update alone
        if isinstance(self._optimizer, Solver):
            from fastopt import _solver_fit

            self._memory = _solver_fit.memory_of(self._optimizer, network, self._loss, self._options)
        else:
            fused = self._optimizer
        rule = native_optimizer(fused, network.dtype)
        self._native = TRAIN_STEP[network.dtype](network._native, native, rule, self._options)
        # Evaluation at averaged weights exchanges them with those in training, so threads that share a trainer take turns with every use of
        # what is exchanged, natively or as an array. Other trainers have nothing to exchange.
        self._turn: AbstractContextManager[None] = nullcontext()
        if self._native.evaluates_averages:
            self._turn = core.Turn(self._native.settle)
        self._direct: Callable[..., float] = _refuse
        if native is not None and self._memory is None:
            self._direct = _in_turn(self._turn, self._native.step) if self._native.evaluates_averages else self._native.step
        # Whether every number is a target: others are looked at before each step.
        self._any_target = isinstance(self._loss, Loss) and _links.takes_any_number(self._loss)
        self._rates = Rates(1.0 if self._memory is not None else fused.learning_rate, self._options["accumulate"])
        self._copies: Copies | None = None  # what a fit puts back when it fails, see _snapshot.py
        self._pace: _array_epochs.Pace | None = None  # of the last fit on arrays
        # Rows of epochs that a native run of several has ended and nobody has recorded, and their seconds.
        self._under_way: Callable[[], tuple[list[dict[str, Any]], float]] | None = None
        self._modest_weight = 0.0  # below which an epoch has not thrown the weights too far; 0: unknown
        self._probe: tuple[NDArray[Any], NDArray[Any]] | None = None  # rows that monitors may look at during a fit
        self._fixed_rate = self._rates.fixed

    def _needs_rates(self, who: str) -> None:
        """Raise for a solver, on behalf of what turns learning rates."""
        if self._memory is not None:
            raise ValueError(f"{who} needs a learning rate; {type(self._optimizer).__name__} chooses its own steps")

    def __repr__(self) -> str:
        loss = self._loss if isinstance(self._loss, Loss) else getattr(self._loss, "__name__", type(self._loss).__name__)
        off = {"accumulate": 1}
        options = "".join(f", {name}={value:g}" for name, value in self._options.items() if value != off.get(name, 0))
        made_of = f"{self._network.num_parameters:,} parameters, {loss}, {self._optimizer}{options}"
        return f"<Trainer of {made_of}; {self.epoch} epochs, {self.steps} steps done>"

    # What it is made of

    @property
    def network(self) -> Network:
        """The network that is trained."""
        return self._network

    @property
    def loss(self) -> AnyLoss:
        """The loss, a spec or a Python function."""
        return self._loss

    @property
    def optimizer(self) -> Optimizer | Solver:
        """The optimizer or solver spec."""
        return self._optimizer

    @property
    def seed(self) -> int:
        """Seed of shuffling and splitting."""
        return self._seed

    @property
    def options(self) -> dict[str, Any]:
        """Penalties, clipping, averaging and accumulation."""
        return dict(self._options)

    @property
    def steps(self) -> int:
        """Updates done so far."""
        return self._native.t

    @property
    def rate_scale(self) -> float:
        """Factor on the optimizer's learning rate; `ReduceOnPlateau` turns it."""
        return self._rates.scale

    @rate_scale.setter
    def rate_scale(self, value: float) -> None:
        self._rates.set_scale(_specs.check_number("rate_scale", value, low=0.0, high=math.inf, low_open=False, high_open=True))
        self._fixed_rate = self._rates.fixed

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._rates.next(self._native.micro_steps)

    # Steps

    def step(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """One update on one batch.

        Parameters
        ----------
        x : array_like
            `(n, inputs)`; float32, float64, uint8 or int16 with contiguous rows are read without a copy.
        y : array_like
            Target as the loss reads it: `(n, columns)` float, or class indices `(n,)`; int32 is read without a copy.
        sample_weight : array_like, optional
            `(n,)`.

        Returns
        -------
        float
            Loss before the update, without penalties.

        Raises
        ------
        NonFiniteLossError
            When the loss, or the gradient of a loss written in Python, is not finite; nothing is changed then.
        """
        if type(y) is np.ndarray and y.dtype == _INT64:
            labels = core.class_indices(y, self._network.outputs)
            y = y if labels is None else labels
        rate = self._fixed_rate
        if rate is None:
            rate = self._rates.next(self._native.micro_steps)
        plain = type(x) is np.ndarray and type(y) is np.ndarray  # what inherits from it may mean more, as a masked array does
        if sample_weight is not None or not plain or not (self._any_target or y.dtype == _INT32):  # type: ignore[union-attr]
            loss = self._careful_step(x, y, sample_weight, rate)
        else:
            try:
                loss = self._direct(x, y, None, rate)
            except (TypeError, ValueError):
                loss = self._careful_step(x, y, None, rate)
        if loss - loss != 0.0:
            text = f"the loss is {loss} at step {self.steps}; the weights were not updated"
            raise NonFiniteLossError(text, step=self.steps, epoch=self.epoch)
        return loss

    def _careful_step(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, rate: float) -> float:
        net = self._network
        if self._memory is not None:
            raise TypeError(f"{type(self._optimizer).__name__} takes no single steps; call fit(X, y, epochs=..., batch_size=None)")
        rows = _validate.features(x, net.inputs, net.dtype, "x")
        _validate.same_columns(self.columns, _validate.column_names(x), "x")
        target = _evaluate.target_of(self._loss, net.outputs, y, net.dtype, "y")
        _validate.same_rows(rows, target, "x", "y")
        weight = None if sample_weight is None else _validate.sample_weight(sample_weight, len(rows), net.dtype)
        net._check_adapted()
        return self._update(rows, target, weight, rate)

    def _update(self, rows: NDArray[Any], target: NDArray[Any], weight: NDArray[Any] | None, rate: float) -> float:
        """One update on what has been checked, or is checked natively."""
        with self._turn:
            if isinstance(self._loss, Loss):
                return self._native.step(rows, target, weight, rate)
            return self._python_step(rows, target, weight, rate)

    def _python_step(self, rows: NDArray[Any], target: NDArray[Any], weight: NDArray[Any] | None, rate: float) -> float:
        if weight is not None:
            raise ValueError("sample_weight and class_weight need a loss of fastopt; the Python loss gets no weights")
        net = self._network
        outputs = net._native.forward(np.ascontiguousarray(rows, dtype=net.dtype), True)
        try:
            value, gradient = _links.call(self._loss, outputs, target)
        except BaseException:
            net._native.undo_forward()
            raise
        net._native.lap("loss")
        if not math.isfinite(value):
            net._native.undo_forward()
        elif not np.isfinite(gradient).all():
            net._native.undo_forward()
            text = f"the gradient of the loss is not finite at step {self.steps}, where the loss is {value}; the weights were not updated"
            raise NonFiniteLossError(text, step=self.steps, epoch=self.epoch)
        else:
            net._native.backward(gradient)
            self._native.update(rate)
        return value

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        validation: float | Sequence[Any] | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        shuffle: bool = True,
        metrics: Iterable[Any] = (),
        callbacks: Iterable[Any] = (),
        progress: bool | None = None,
    ) -> History:
        """Train for a number of epochs; called again it goes on where it stopped.

        Parameters
        ----------
        X : array_like, or iterable of batches
            `(n, inputs)` of any numeric dtype, finite; or, without `y`, an iterable of `(x, y)` or `(x, y, sample_weight)`, or a
            function that returns a fresh one for each epoch.
        y : array_like
            Target as the loss reads it; class indices 0..K-1 for classification.
        epochs : int
            Passes over the data.
        batch_size : int or None
            Rows per step, the last batch may be short; None for the full batch.
        validation : float or (X, y) or (X, y, sample_weight), optional
            Share of the rows held out (with the classes' shares for class labels), or data of their own.
        sample_weight : array_like, optional
            `(n,)`. The loss of a step is the weighted mean over its batch, so with batches of few rows weights count less than in the mean
            over all data, and with one row not at all; where some are much larger than others, as for rare classes, take a larger
            `batch_size` (or `accumulate`, which weighs its batches).
        class_weight : mapping or "balanced", optional
            Factor per class on the sample weights of training, with what is said there.
        shuffle : bool
            A new permutation per epoch, a function of seed and epoch; the full batch is taken in its own order.
        metrics : iterable of str or callable
            Evaluated each epoch on the validation data, without any on the training data.
        callbacks : iterable
            From `fastopt.callbacks`, or functions `(trainer, row)`; one that returns True stops the fit.
        progress : bool, optional
            Draw a bar; by default when standard error is a terminal.

        Returns
        -------
        History
            The rows of this fit; `Trainer.history` has those of all.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument; nothing is changed then, even where the first epoch is what finds a number in X that is not finite (it
            looks at long rows as it copies them, if it takes a second at most). What only shows on the way (a batch of an iterable that
            does not fit, an iterator that is used up, a schedule that gives a negative rate) breaks the fit off there, as Ctrl-C does: the
            steps done stay, history and epoch counter have the epochs that ended, and the trainer is usable.
        NonFiniteLossError
            When the loss stops being finite; weights and optimizer are those of the last finite epoch then.
        """
        columns = None if y is None else _validate.column_names(X)
        _validate.same_columns(self.columns, columns, "X")
        if isinstance(validation, tuple | list) and validation:
            _validate.same_columns(columns or self.columns, _validate.column_names(validation[0]), "validation X")
        before, epoch, steps = self.columns, self.epoch, self._native.micro_steps
        plan = _fit.plan(
            self, X, y, epochs=epochs, batch_size=batch_size, validation=validation, sample_weight=sample_weight,
            class_weight=class_weight, shuffle=shuffle, metrics=metrics, callbacks=callbacks, progress=progress,
        )  # fmt: skip
        self.columns = columns or before
        try:
            return plan.run()
        finally:
            if self.epoch == epoch:  # nothing was learned of these
                self.columns = before
                if plan.adapted and self._native.micro_steps == steps:
                    _prepare.forget_statistics(self)

    def profile(self) -> Profile:
        """A stopwatch for the stages of training, used as a context; nothing is measured, and nothing is spent, outside of it.

        Returns
        -------
        fastopt.profile.Profile
            A table of calls, seconds, microseconds per step, share and, for products of dense layers, floating-point operations per
            second; `print` it, or read `rows` and `profile["update"]`. Entered again it goes on adding.

        Raises
        ------
        ValueError
            On entering, when the network is being profiled already.

        Examples
        --------
        >>> import numpy as np
        >>> import fastopt as fo
        >>> X = np.random.default_rng(0).normal(size=(256, 8))
        >>> trainer = fo.Trainer(fo.mlp(8, [32], 1, seed=0), loss="mse")
        >>> with trainer.profile() as profile:
        ...     history = trainer.fit(X, X[:, 0] * X[:, 1], epochs=2, batch_size=32)
        >>> profile.steps, profile["update"].calls
        (16, 16)
        >>> list(profile)[:4]
        ['gather', '0.forward', '1.forward', 'loss']
        >>> profile["0.weight_gradient"].flops == 2 * 256 * 2 * 8 * 32  # 2 per product and sum, 256 rows, 2 epochs, 8 x 32 weights
        True
        """
        from fastopt.profile import Profile

        return Profile(self._network)

    # Evaluation

    @contextmanager
    def evaluation_weights(self) -> Iterator[Network]:
        """Within this context the network holds the weights to evaluate at: the average of `ema` or of a schedule-free rule.

        Without either it holds what it held, and nothing is different. With one, nothing can be trained, saved, restored or reset within
        it; another one inside changes nothing. Other threads wait until it ends with what they ask of the trainer, but not with what they
        ask of its network, which has these weights for all.
        """
        with self._turn:
            inside = self._native.swapped
            try:  # from the start: Ctrl-C may fall anywhere
                if not inside:
                    self._native.swap_evaluation_point()
                yield self._network
            finally:
                if not inside:
                    self._native.settle()

    def _outputs(self, X: ArrayLike) -> NDArray[Any]:
        net = self._network
        rows = _validate.rows_to_infer(X, net.inputs, "X", fewest=1)
        _validate.same_columns(self.columns, _validate.column_names(X), "X")
        net._check_adapted()
        with self.evaluation_weights():
            return outputs_of(net, rows)

    def evaluate(
        self, X: ArrayLike, y: ArrayLike, *, metrics: Iterable[Any] = (), sample_weight: ArrayLike | None = None
    ) -> dict[str, float]:
        """Loss and metrics on data.

        Parameters
        ----------
        X, y : array_like
            As for `fit`.
        metrics : iterable of str or callable
            Names out of `fastopt.metrics`, or functions `(target, prediction) -> float`, which get `sample_weight=` too when they have
            such a parameter; others count all rows alike, with a warning.
        sample_weight : array_like, optional
            `(n,)`.

        Returns
        -------
        dict
            "loss" and one entry per metric; NaN when an output is, say of a row that holds one.
        """
        net = self._network
        table = _evaluate.metric_table(metrics)
        rows = _validate.rows_to_infer(X, net.inputs, "X", fewest=1)
        _validate.same_columns(self.columns, _validate.column_names(X), "X")
        target = _evaluate.target_of(self._loss, net.outputs, y, net.dtype, "y")
        _validate.same_rows(rows, target, "X", "y")
        weight = None if sample_weight is None else _validate.sample_weight(sample_weight, len(rows), net.dtype)
        net._check_adapted()
        with self.evaluation_weights():
            return _evaluate.Evaluator(net, self._loss, rows, target, weight, table)()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Class indices `(n,)` for losses of classification, values for losses of regression (`(n,)` for one column).

        Losses of one output with a sigmoid or sign give 0 and 1; a Poisson loss gives `exp(output)`, a Gaussian one its mean.

        Raises
        ------
        ValueError
            When a row to classify gives NaN; values of regression are NaN then.
        """
        outputs = self._outputs(X)
        if _links.is_classifier(self._loss):
            _links.check_numbers(outputs)
        return _links.predictions(self._loss, outputs)

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Probabilities: `(n, classes)` for softmax losses, that of class 1 for the binary cross-entropy.

        Raises
        ------
        ValueError
            When the loss has no probabilities.
        """
        return _links.probabilities(self._loss, self._outputs(X))

    # State

    def reset(self) -> None:
        """Forget steps, slots, averages, epochs and history; the weights stay.

        Raises
        ------
        ValueError
            Within `evaluation_weights`; nothing is changed then.
        """
        with self._turn:
            _state.check_in_place(self)
            self._native.reset()
        if self._memory is not None:
            self._memory.forget()
        self.epoch = 0
        self.history = History()
        self.columns = None
        self.rate_scale = 1.0

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Zero-copy views of everything that training changes, by name, as `save` stores them; another thread may be changing it."""
        with self._turn:
            return _state.arrays(self)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of everything that training changes: weights, statistics, slots, scalars, averages, waiting micro-batches and counters.

        While another thread trains they are those between two of its steps.

        Raises
        ------
        ValueError
            Within `evaluation_weights`, where average and weights have changed places.
        """
        return _state.copies(self)

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` gave; the epoch counter and the history stay.

        Raises
        ------
        ValueError
            When names, shapes, dtypes or counters do not fit, or within `evaluation_weights`; nothing is changed then.
        """
        _state.restore(self, state)

    def __getstate__(self) -> dict[str, Any]:
        return _state.whole(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        network = Network(**state["network"])
        self.__init__(network, state["loss"], state["optimizer"], **state["options"], seed=state["seed"])  # type: ignore[misc]
        self.load_state_dict(state["state"])
        self.epoch, self.history, self.columns = state["epoch"], state["history"], state.get("columns")

    def _set_counters(self, updates: int, training_step: int) -> None:
        """Restore the counters; micro-batches that wait for their update are dropped, unless they are put back afterwards."""
        self._native.t, self._network.training_step = updates, training_step

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file: weights, statistics, slots, counters, seed, history and the specs.

        The file appears at once or not at all. Training that goes on from it gives the same bits as training that was never stopped, if it
        is written after an epoch, as in a callback: a thread beside `fit` writes what there is between two of its steps, with the epochs
        that have ended, and the next `fit` begins with the epoch that was under way.

        Raises
        ------
        OSError
            When it cannot be written.
        TypeError
            For a loss written in Python, which cannot be written down.
        ValueError
            Within `evaluation_weights`.
        """
        from fastopt import checkpoint

        checkpoint.save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], *, learning_rate: Callable[[int], float] | None = None, precision: str | None = None) -> Trainer:
        """Read a trainer that `save` wrote.

        Parameters
        ----------
        path : path
        learning_rate : callable, optional
            The schedule again, when it was a plain function.
        precision : str, optional
            Of the network, instead of the one it was saved with: "full" loads a "bf16" trainer where there are no bfloat16 products.

        Raises
        ------
        ValueError
            When the file is not one of ours, names, shapes or dtypes do not fit, or the precision is not available here.
        """
        from fastopt import checkpoint

        return checkpoint.load(path, learning_rate=learning_rate, precision=precision)


def _in_turn(turn: AbstractContextManager[None], step: Callable[..., float]) -> Callable[..., float]:
    """The step with a turn around it; without the trainer, which would keep itself alive."""

    def step_in_turn(*arguments: Any) -> float:
        with turn:
            return step(*arguments)

    return step_in_turn


def _refuse(*_: Any) -> float:
    """Stands for the native step of a loss written in Python, so that `step` takes the careful path."""
    raise TypeError("a Python loss has no native step")
