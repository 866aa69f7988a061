"""Pictures of training runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastopt import metrics
from fastopt.history import History
from fastopt.plots._axes import count_along, dot_lone_points, finish, new_axes, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastopt.callbacks import GradientMonitor, LearningRateRange

__all__ = ["gradient_norms", "learning_curves", "learning_rate_range", "optimizer_comparison"]


def learning_curves(history: History, *, columns: str | Sequence[str] | None = None, ax: Axes | None = None, title: str = "") -> Axes:
    """Loss of training and validation against the epoch, with the best epoch of a loss or metric marked.

    Parameters
    ----------
    history : History
    columns : str or sequence of str, optional
        Columns to draw; by default the losses.
    ax : Axes, optional
    title : str

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import plots
    >>> history = fo.History([{"epoch": e, "loss": 1 / (e + 1), "val_loss": 1.1 / (e + 1)} for e in range(5)])
    >>> plots.learning_curves(history).get_ylabel()
    'loss'
    """
    if not isinstance(history, History):
        hint = "; give its history" if hasattr(history, "history") else ""
        raise TypeError(f"history must be a History; got {type(history).__name__}{hint}")
    if not history:
        raise ValueError("history has no epochs to draw")
    chosen = [columns] if isinstance(columns, str) else list(columns or [c for c in ("loss", "val_loss") if c in history])
    missing = [column for column in chosen if column not in history]
    if missing or not chosen:
        known = ", ".join(history)
        raise ValueError(
            f"history has no column {missing[0]!r}; it has {known}" if missing else "history has no loss to draw; name the columns"
        )
    axes = new_axes(ax)
    epochs = np.array(history["epoch"]) + 1
    names = {"loss": "training", "val_loss": "validation"}
    for column in chosen:
        axes.plot(epochs, history[column], label=names.get(column, column), linewidth=1.8)
    monitored = "val_loss" if "val_loss" in chosen else chosen[0]
    judged = "loss" in monitored or monitored.removeprefix("val_") in metrics.names()
    if judged and any(v == v for v in history[monitored]):
        best = history.best(monitored)
        axes.axvline(best["epoch"] + 1, color="0.5", linestyle=":", linewidth=1.2)
        text = f"best: epoch {best['epoch'] + 1}, {best[monitored]:.4g}"
        axes.plot([best["epoch"] + 1], [best[monitored]], "o", color="0.25", markersize=5, label=text)
    values = np.array([v for c in chosen for v in history[c] if math.isfinite(v)])
    if len(values) and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
    count_along(axes, "epoch")
    axes.set_ylabel("loss" if all("loss" in c for c in chosen) else ", ".join(chosen))
    axes.set_title(title)
    return finish(axes)


def gradient_norms(monitor: GradientMonitor, *, ax: Axes | None = None, title: str = "", epoch: int | None = None) -> Axes:
    """Norm of the gradient of each layer's weights: against the epoch, or across the layers at one `epoch`.

    Parameters
    ----------
    monitor : GradientMonitor
        After a fit.
    epoch : int, optional
        Position in the monitor's record, -1 for the last.
    ax : Axes, optional
    title : str
        With `epoch` the label of the points, of which axes may hold several.
    """
    if not monitor.gradient_norms:
        raise ValueError("no layer's weights were trained" if monitor.epochs else "the monitor has seen no epoch")
    axes = new_axes(ax)
    names = list(monitor.gradient_norms)
    positive = any(norm > 0.0 for norms in monitor.gradient_norms.values() for norm in norms)
    if epoch is not None:
        if not -len(monitor.epochs) <= epoch < len(monitor.epochs):
            raise ValueError(f"the monitor has seen {len(monitor.epochs)} epochs; got epoch={epoch}")
        norms = [monitor.gradient_norms[name][epoch] for name in names]
        places = [list(monitor.update_norms).index(name) + 1 for name in names]  # of all dense layers, also those that are frozen
        axes.plot(places, norms, "o-", linewidth=1.5, markersize=4, label=title)
        count_along(axes, "dense layer, counted from the input")
        axes.set_ylabel("norm of the gradient of its weights")
        axes.set_yscale("log" if positive else "linear")
        return finish(axes)
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.0, 0.92, len(names)))
    for name, colour in zip(names, colours, strict=True):
        norms = monitor.gradient_norms[name]
        axes.plot(np.array(monitor.epochs) + 1, norms, color=colour, linewidth=1.5, label=f"layer {name.split('.')[0]}")
    axes.set_yscale("log" if positive else "linear")
    count_along(axes, "epoch")
    axes.set_ylabel("norm of the gradient of the weights")
    axes.set_title(title)
    many = ax is None and len(names) > 6
    return finish(axes, fontsize="small", ncols=1 + len(names) // 8, beside=many)


def learning_rate_range(found: LearningRateRange, *, ax: Axes | None = None, title: str = "") -> Axes:
    """Loss against the learning rate of a range test, with the suggestion marked.

    Parameters
    ----------
    found : LearningRateRange
        From `LearningRateFinder.run`.
    ax : Axes, optional
    title : str
    """
    if len(found.losses) == 0:
        raise ValueError("no step had a finite loss; begin with a smaller rate")
    axes = new_axes(ax)
    axes.plot(found.rates, found.losses, color="0.75", linewidth=1.0, label="loss of the batch")
    axes.plot(found.rates, found.smoothed, linewidth=2.0, label="smoothed")
    if math.isfinite(found.suggestion):
        axes.axvline(found.suggestion, color="tab:red", linestyle="--", linewidth=1.2, label=f"suggestion {found.suggestion:.2g}")
    axes.set_xscale("log")
    n = len(found.smoothed)
    low, high = float(np.min(found.smoothed)), float(found.smoothed[: max(min(10, n // 2), n // 4, 1)].max())
    if high > low:
        axes.set_ylim(low - 0.1 * (high - low), high + 0.6 * (high - low))
    dot_lone_points(axes)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(title)
    return finish(axes)


def optimizer_comparison(
    histories: Mapping[str, History], *, column: str = "loss", ax: Axes | None = None, title: str = "", log: bool | None = None
) -> Axes:
    """One column of several runs against the epoch; runs are listed from the best last value to the worst.

    Parameters
    ----------
    histories : mapping of str to History
        One run per label.
    column : str
        What to draw.
    log : bool, optional
        Logarithmic axis; by default for what is better the smaller it is, if it is positive.
    ax : Axes, optional
    title : str

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import plots
    >>> run = fo.History([{"epoch": e, "loss": 1 / (e + 1)} for e in range(5)])
    >>> plots.optimizer_comparison({"sgd": run, "adam": run}).get_xlabel()
    'epoch'
    """
    if not histories:
        raise ValueError("histories must not be empty")
    without = [name for name, run in histories.items() if column not in run]
    if without:
        raise ValueError(f"the history of {without[0]!r} has no column {column!r}")
    axes = new_axes(ax, 8.0, 4.8)

    upwards = metrics.larger_is_better(column) is True

    def last(name: str) -> float:
        return float(histories[name][column][-1])

    def rank(name: str) -> float:
        value = last(name)
        return (-value if upwards else value) if math.isfinite(value) else math.inf

    from matplotlib import colormaps

    order = sorted(histories, key=rank)
    for i, name in enumerate(order):
        run = histories[name]
        style = ("-", "--", ":")[i // 10 % 3]
        label = f"{shown(name)}  {last(name):.3g}"
        axes.plot(np.array(run["epoch"]) + 1, run[column], style, color=colormaps["tab10"](i % 10), linewidth=1.6, label=label)
    positive = all(value > 0 for run in histories.values() for value in run[column] if math.isfinite(value))
    if (positive and not upwards) if log is None else log:
        axes.set_yscale("log")
    count_along(axes, "epoch")
    axes.set_ylabel(column.replace("_", " "))
    axes.set_title(title)
    return finish(axes, fontsize="small", beside=ax is None, title=f"last {column.replace('_', ' ')}")
