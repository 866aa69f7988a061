"""Types of the native core.

One build per instruction set (`_core_v3`, `_core_v4`, `_core_neon`), the same interface in each. Only `fastopt._backend` imports one.
Every templated class exists twice, `X_float32` and `X_float64`; here they share one generic description.

Contract of arrays: inputs named here must already have the exact dtype and be C-contiguous (the last axis contiguous); the native
side checks cheaply and raises `TypeError` or `ValueError`. Friendly checking and conversion is Python's business (`_validate`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Real: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
Config: TypeAlias = Mapping[str, bool | int | float | str | Sequence[float]]

def build_info() -> dict[str, Any]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def look_at_cores() -> None: ...
def quota_cores(root: str = "") -> int:
    """CPU time that control groups leave, in cores, 0 without a limit; a test has its own /proc and /sys under `root`."""

def set_work_per_thread(work: float) -> None:
    """For tests: how many operations a thread must get; 0 is the built-in number."""

def set_thread_speeds(speeds: Sequence[float]) -> None:
    """For tests: how fast the first threads of long regions are taken to be, beside each other (1: as the fastest)."""

def learn_thread_speeds(amounts: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """For tests: the speeds after a region in which each thread did so much in such a time."""

def shares(count: int, grain: int, rows: int, cols: int, work: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """For tests: [begin, end) of `count` items for each row and each column of a grid of threads."""

def simulate_bursts(
    alone: Sequence[float],
    together: Sequence[float],
    work: float,
    cold: float = 1.0,
    cold_seconds: float = 0.0,
    burst_seconds: float = 0.04,
    pause: float = 0.3,
    tick: float = 0.0,
    share: float = 1.0,
    least: float = 4e5,
    begins_alone: bool = False,
) -> list[float]:
    """For tests: the part that a team has of the time of bursts of steps. A step takes so many seconds on one thread and on a team, an
    entry a burst, and `cold` times that at the start of each. The other threads get a share of their cores, noted down once a tick.
    Steps of less work than `least` are done alone, and with `begins_alone` the first ones of large steps too."""

def weighted_means(values: NDArray[np.float64], weights: NDArray[np.float64]) -> list[float]:
    """sum(w v) / sum(w) of each row; 0.0 when nothing in it has weight."""

def ready_rows(x: object, columns: int, most_bytes: int, finite: bool, most: float = ...) -> bool:
    """Whether x is an ndarray that the native gather reads as it is: (rows, columns) with a row at least, no larger; if asked finite, and
    float64 at most `most` in size."""

def class_indices(y: object, classes: int) -> NDArray[np.int32] | None:
    """One-dimensional int64 or int32 labels below `classes` as int32; None for anything else."""

def permutation(n: int, seed: int, epoch: int) -> Rows:
    """A permutation of 0..n-1, a function of (n, seed, epoch) only; int32 where that holds n."""

def permutations(n: int, seed: int, epoch: int, count: int) -> Rows:
    """Those of `count` epochs from `epoch` on, a row each."""

def activation_names() -> list[str]: ...
def loss_names() -> list[str]: ...
def optimizer_names() -> list[str]: ...
def layer_names() -> list[str]: ...
def initializer_names() -> list[str]: ...
def precision_names() -> list[str]: ...
def fma_rate(dtype: str, seconds: float) -> float:
    """Floating-point operations per second of a register-only FMA loop on the calling thread count (see set_num_threads)."""

def tile_rate(dtype: str, seconds: float) -> float:
    """The same of full register tiles of the matrix product, one after the other on operands in L1."""

def bf16_rate(seconds: float) -> float:
    """The rate of the dot products of pairs that precision "bf16" is made of; ValueError where there are none."""

def divider_rate(dtype: str, seconds: float) -> float:
    """Pairs of a square root and a quotient per second in registers, on all threads."""

def copy_rate(num_bytes: int, seconds: float) -> float:
    """Bytes per second (read + written) of a copy loop over two buffers of `num_bytes` in total."""

def crossing_cost(lines: int, seconds: float) -> tuple[float, float]:
    """Seconds of a cache line that one thread writes and another reads, when each writes so many, and of a meeting of all threads."""

class Turn:
    """A lock as a context: threads get it in the order in which they asked, one that has it may take it again, any may give it back.

    `settle` is called in a forked child when another thread of its parent had it: nobody has it then.
    """
    def __init__(self, settle: Callable[[], None]) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: Any) -> None: ...
    @property
    def waiting(self) -> int:
        """Threads that wait for it."""

class ArrayCopies:
    """Copies of C-contiguous arrays that change; `restore` writes them back. Both release the GIL."""
    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None: ...
    def take(self) -> None: ...
    def restore(self) -> None: ...

class Profile:
    """A stopwatch whose laps fall to phases: gather, forward, loss, weight_gradient, input_gradient, accumulate, norm, update, average;
    between steps snapshot, order, evaluation, callbacks, python."""
    def __init__(self, layers: int) -> None: ...
    def resume(self) -> None:
        """Start: the time since the last lap belongs to nothing."""
    def cells(self) -> list[tuple[str, int | None, int, int, float]]:
        """(phase, layer or None, calls, rows of all calls, seconds with the laps' own cost) of each phase that had a lap."""
    @staticmethod
    def lap_seconds() -> float:
        """Cost of one lap, measured."""

class Loss_float32:
    """One loss. `target` is float (n, target_columns) or int32 class indices (n,); `weight` is (n,) float or None."""
    def __init__(self, name: str, config: Config) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def smooth(self) -> bool:
        """Whether it has a second derivative almost everywhere, for `SecondOrder`."""
    def check_outputs(self, outputs: int) -> None:
        """Raise ValueError when the loss cannot read this number of outputs."""
    def target_kind(self, outputs: int) -> str:
        """ "dense", "classes" or "either"."""
    def target_columns(self, outputs: int) -> int:
        """Columns of a dense target for this number of outputs."""
    def value(self, prediction: Real, target: NDArray[Any], weight: Real | None) -> float: ...
    def value_and_grad(self, prediction: Real, target: NDArray[Any], weight: Real | None) -> tuple[float, Real]: ...
    def rows(self, prediction: Real, target: NDArray[Any]) -> Real:
        """The unweighted loss of every row, (n,)."""

class Loss_float64(Loss_float32): ...

class Optimizer_float32:
    """One update rule. State lives with the caller: one list of slot arrays and one float64 array of scalars."""
    def __init__(self, name: str, config: Config) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def slot_names(self) -> list[str]: ...
    @property
    def scalar_names(self) -> list[str]: ...
    def initial_slot(self, slot: int) -> float:
        """The value that a slot array is filled with before the first step (0 for nearly all)."""
    def initial_scalars(self) -> NDArray[np.float64]: ...
    def step(
        self,
        parameters: Sequence[Real],
        gradients: Sequence[Real],
        slots: Sequence[Sequence[Real]],
        scalars: NDArray[np.float64],
        t: int,
        learning_rate: float,
    ) -> None:
        """Update `parameters` in place; slots[s][i] belongs to parameters[i]; t counts from 1. Weight decay applies to every array."""
    def evaluation_point(
        self, parameters: Sequence[Real], slots: Sequence[Sequence[Real]], scalars: NDArray[np.float64], out: Sequence[Real]
    ) -> bool:
        """Write the weights to evaluate at (an average for schedule-free rules); False when they are the parameters themselves."""

class Optimizer_float64(Optimizer_float32): ...

class Network_float32:
    """Layers, flat parameter, gradient and buffer storage, and the workspace of activations.

    Each entry of `layers` is a mapping with "kind" and that layer's options:
      dense:       units, activation, init, bias, l1, l2, trainable, learning_rate_multiplier
      activation:  activation
      batchnorm:   momentum, eps, trainable, learning_rate_multiplier
      dropout:     rate
      standardize: eps
    Parameter names are "<layer>.weight", "<layer>.bias", "<layer>.gamma", "<layer>.beta";
    buffers "<layer>.mean", "<layer>.variance" and "<layer>.count" (batches seen by batchnorm, rows seen by standardize; 0 = not adapted).
    """
    def __init__(self, inputs: int, layers: Sequence[Config], seed: int, precision: str = "full") -> None:
        """ValueError when the precision (one of `precision_names`) is unknown or not available here."""
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def num_parameters(self) -> int: ...
    def parameter_segments(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """(name, offset into the flat array, shape)."""
    def buffer_segments(self) -> list[tuple[str, int, tuple[int, ...]]]: ...
    def layer_table(self) -> list[dict[str, Any]]:
        """One dict per layer for `summary`: name, kind, description, outputs, parameters, trainable."""
    def __enter__(self) -> None:
        """As a context: nobody else computes with it, or trains it, meanwhile. A signal handler may enter in the middle of a call."""
    def __exit__(self, *error: Any) -> None: ...
    @property
    def parameters(self) -> Real:
        """Flat zero-copy view, segments aligned to 64 bytes, padding stays 0."""
    @property
    def gradients(self) -> Real: ...
    @property
    def buffers(self) -> Real: ...
    @property
    def training_step(self) -> int:
        """Number of training forwards so far: keys the dropout masks; saved with the state."""
    @training_step.setter
    def training_step(self, value: int) -> None: ...
    def initialize(self, seed: int) -> None: ...
    def copy_state(self) -> tuple[Real, Real, int]:
        """Copies of parameters and buffers, and the training step, between two steps of other threads."""
    def set_state(self, parameters: Real, buffers: Real, training_step: int) -> None:
        """Put them back."""
    def finite(self, most: float = ...) -> bool:
        """Whether all parameters are finite, and none larger than `most`."""
    def adapted(self) -> bool:
        """False when a Standardize layer still waits for `adapt`."""
    def adapt(self, x: NDArray[Any]) -> None:
        """Mean and variance of the training set for the Standardize layer (float32, float64, uint8 or int16 rows)."""
    def infer(self, x: NDArray[Any], out: Real | None = None, /) -> Real:
        """Rows of float32, float64, uint8 or int16 with contiguous rows, converted block by block; `out` is exact.

        A property: a function that outlives the network, made anew each time.
        """
    def forward(self, x: Real, training: bool, undone: bool = False) -> Real:
        """`undone`: a training forward that has not been when the call ends."""
    def undo_forward(self) -> None:
        """As if the last training forward had not been: its count, and the statistics that it moved."""
    def backward(self, grad_output: Real) -> Real:
        """Gradient with respect to the input of the last training forward; overwrites `gradients`."""
    def layer_output(self, layer: int) -> Real:
        """Copy of a layer's output in the last forward (n, width): for monitors."""
    def set_profile(self, profile: Profile | None) -> None:
        """The stopwatch of training forwards and backwards and of each `TrainStep` on this network; ValueError when it has one already."""
    def lap(self, phase: str) -> None:
        """End a phase without layers, when a profile is set; else nothing."""

class Network_float64(Network_float32): ...

class TrainStep_float32:
    """Gather, forward, loss, backward, penalties, clipping and the fused update of one network.

    `options`: l1, l2 (weights of the penalties on weights only), clip_norm, clip_value (0 = off), ema (0 = off), accumulate (micro-batches
    per update, 1 = off).
    `x` may be float32, float64, uint8 or int16 with contiguous rows of any row stride; `y` as for the loss.
    """
    def __init__(self, network: Network_float32, loss: Loss_float32 | None, optimizer: Optimizer_float32, options: Config) -> None: ...
    @property
    def t(self) -> int:
        """Updates done so far."""
    @t.setter
    def t(self, value: int) -> None: ...
    @property
    def micro_steps(self) -> int:
        """Micro-batches so far, those of updates and those that wait for one."""
    @property
    def steps_repeated(self) -> int:
        """Steps of the network so far that made the calls of one before them again."""

    @property
    def steps_in_blocks(self) -> int:
        """Steps so far that went through in blocks of rows, as large batches of small networks do."""
    @property
    def steps_in_halves(self) -> int:
        """Steps so far in which two threads shared the first two layers by units, as they may in the runs of small networks."""
    @property
    def steps_meeting_once(self) -> int:
        """Those of them in which the threads met once."""
    @property
    def steps_with_one_output(self) -> int:
        """Those of these whose last two layers were one pass over the rows."""
    @property
    def steps_begun_ahead(self) -> int:
        """Those of them that the second thread began before it was told."""
    @property
    def slot_names(self) -> list[str]: ...
    def slots(self) -> list[Real]:
        """Flat zero-copy views laid out like `Network.parameters`."""
    @property
    def scalars(self) -> NDArray[np.float64]: ...
    def waiting(self) -> tuple[Real, NDArray[np.float64]] | None:
        """Of micro-batches that wait for their update: sum of weighted gradients; sum of weights and number. None without accumulation."""
    def averages(self) -> tuple[Real, Real] | None:
        """(parameters, buffers) of the exponential moving average, or None."""
    def reset(self) -> None:
        """Slots, scalars, averages and t back to the start."""
    def step(self, x: NDArray[Any], y: NDArray[Any], weight: Real | None, learning_rate: float) -> float:
        """One update; returns the data loss before it."""
    def run_steps(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        weight: Real | None,
        order: Rows,
        batch_size: int,
        rates: NDArray[np.float64],
        losses: NDArray[np.float64],
        weights: NDArray[np.float64],
        first: int = 0,
        stop: int = -1,
        epoch_rows: int = -1,
        penalties: NDArray[np.float64] | None = None,
        most: float = ...,
        look: bool = False,
    ) -> int:
        """Steps `first` to `stop` (-1: the end) of one per entry of `rates`, over consecutive batches of `order`.

        `order` holds epochs of `epoch_rows` rows each (-1: all are one epoch); the last batch of each may be short.

        Writes each batch's data loss and total sample weight, and `penalty()` at the end of each epoch where asked to. Returns the
        number of steps done, fewer when a loss was not finite (that step is not applied); of those before a loss above `most`, where
        there is one, though all are done. With `look`, -1 when a row of `x` that was gathered is not finite: what was learned of it must
        be undone. Releases the GIL.
        """
    def flush(self, learning_rate: float) -> bool:
        """Update with the micro-batches that wait for more to come (`accumulate`); False when none do."""

    def update(self, learning_rate: float) -> None:
        """Penalties, clipping and the fused update with what is in `Network.gradients` (for losses written in Python)."""
    def penalty(self) -> float:
        """l1 and l2 penalties of the present weights."""
    @property
    def evaluates_averages(self) -> bool:
        """Whether there are weights to evaluate at beside those in training."""
    @property
    def swapped(self) -> bool:
        """Whether the network holds the weights to evaluate at."""
    def settle(self) -> None:
        """The weights back in their place, if they are not."""
    def swap_evaluation_point(self) -> bool:
        """Exchange the network's weights and those to evaluate at (average of ema or of a schedule-free rule); False without any."""

class TrainStep_float64(TrainStep_float32): ...

class SecondOrder_float32:
    """Derivatives of one network in inference mode (batch normalization with running statistics, dropout as identity).

    Vectors hold the parameters in their order without padding; x, y and weight as for `TrainStep`. The network must not change its layers.
    """
    def __init__(self, network: Network_float32) -> None: ...
    def gradient(self, loss: Loss_float32, x: NDArray[Any], y: NDArray[Any], weight: Real | None, out: Real | None) -> float:
        """Weighted mean loss; its gradient to `out`."""
    def hessian_vector(self, loss: Loss_float32, x: NDArray[Any], y: NDArray[Any], weight: Real | None, v: Real, out: Real) -> None:
        """out = H v by the R-operator; ValueError for a loss without second derivative."""
    def hessian(self, loss: Loss_float32, x: NDArray[Any], y: NDArray[Any], weight: Real | None, out: Real) -> None:
        """The Hessian, symmetric to the bit."""
    def jacobian(self, x: NDArray[Any], out: Real) -> None:
        """out (rows * outputs, num_parameters)."""
    def gauss_newton(
        self, loss: Loss_float32, x: NDArray[Any], y: NDArray[Any], weight: Real | None, matrix: Real, gradient: Real
    ) -> float:
        """matrix = J^T D J, gradient = J^T D r; returns r^T D r, the loss "mse" (D: weights over their sum times outputs)."""

class SecondOrder_float64(SecondOrder_float32): ...

# Raw kernels on arrays, dtype float32 or float64; `out` arrays are written in place.
def matmul(a: Real, b: Real, out: Real, transpose_a: bool, transpose_b: bool, precision: str = "full") -> None: ...
def dense_forward(x: Real, weight: Real, bias: Real | None, activation: str, out: Real, pre: Real | None) -> None:
    """out = g(x W + b); `pre` receives x W + b for activations whose derivative needs it (activation_needs_input)."""

def dense_backward(x: Real, weight: Real, grad_pre: Real, grad_weight: Real, grad_bias: Real | None, grad_x: Real | None) -> None: ...
def activation_needs_input(name: str) -> bool: ...
def activation_forward(name: str, x: Real, out: Real) -> None: ...
def activation_backward(name: str, x: Real, out: Real, grad_out: Real, grad_x: Real) -> None: ...
def batchnorm_forward(
    x: Real,
    gamma: Real,
    beta: Real,
    running_mean: Real,
    running_variance: Real,
    momentum: float,
    eps: float,
    first: bool,
    out: Real,
    mean: Real,
    inverse_std: Real,
) -> None:
    """Training mode; updates the running values in place and writes the batch mean and 1/sqrt(var+eps)."""

def batchnorm_inference(x: Real, gamma: Real, beta: Real, mean: Real, variance: Real, eps: float, out: Real) -> None: ...
def batchnorm_backward(
    x: Real, gamma: Real, mean: Real, inverse_std: Real, grad_out: Real, grad_x: Real, grad_gamma: Real, grad_beta: Real
) -> None: ...
def dropout_forward(x: Real, rate: float, seed: int, step: int, layer: int, out: Real) -> None: ...
def softmax(x: Real, out: Real) -> None: ...
def column_sums(x: Real, out: Real) -> None: ...
def all_finite(x: Real, most: float = ...) -> bool:
    """Whether all are finite, and at most `most` in size."""

def uniform(n: int, seed: int, step: int, layer: int, first: int = 0) -> NDArray[np.float64]:
    """Philox 4x32-10 uniforms in [0, 1) of n elements from `first` on; each depends on (seed, step, layer) and its number only."""
