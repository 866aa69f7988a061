"""What every picture shares: axes, frame, legend, file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.errors import missing_package

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_COLUMN, COLUMN_INCHES = 18, 1.7  # entries of a legend beside the axes in a column, and the room for another one


def new_axes(ax: Axes | None, width: float = 7.0, height: float = 4.2) -> Axes:
    """`ax` as given, or the axes of a new figure that no window shows."""
    if ax is not None:
        return ax
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plot", "Drawing") from None
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    return axes


def finish(ax: Axes, *, fontsize: str = "medium", ncols: int = 1, beside: bool = False, title: str | None = None) -> Axes:
    """Grid, frame and legend as every picture here has them; beside the axes only where the figure makes room for it."""
    ax.grid(True, which="major", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    entries = len(ax.get_legend_handles_labels()[0])
    if entries:
        legend = ax.legend(frameon=False, fontsize=fontsize, ncols=-(-entries // IN_COLUMN) if beside else ncols, title=title)
        if beside:
            legend.set_loc("center left")
            legend.set_bbox_to_anchor((1.0, 0.5), transform=ax.transAxes)
            figure: Any = ax.get_figure()
            figure.set_figwidth(figure.get_figwidth() + COLUMN_INCHES * ((entries - 1) // IN_COLUMN))
    return ax


def shown(label: str) -> str:
    """A label that a legend lists: matplotlib hides those that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def save(ax: Axes, path: str) -> None:
    """Write the figure of these axes to a file.

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import plots
    >>> ax = plots.learning_curves(fo.History([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}]))
    >>> ax.get_xlabel()
    'epoch'
    """
    figure: Any = ax.get_figure()
    figure.savefig(path)


def count_along(axes: Axes, what: str) -> None:
    """Label the x axis with something that is counted: ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    dot_lone_points(axes)
    if not axes.dataLim.width > 0.0:  # one point, or none that is finite
        x = np.concatenate([np.asarray(line.get_xdata(), dtype=np.float64) for line in axes.get_lines()])
        axes.set_xlim(x.min() - 0.5, x.max() + 0.5)


def dot_lone_points(axes: Axes) -> None:
    """A point without neighbours gets a dot, to be seen."""
    for line in axes.get_lines():
        there = np.concatenate([[False], np.isfinite(np.asarray(line.get_ydata(), dtype=np.float64)), [False]])
        alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])
        if len(alone) and line.get_marker() == "None":
            line.set_marker("o")
            line.set_markevery(alone.tolist())
