"""Pictures of minimization: paths over contours, still and moving, and values against steps and seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastopt import MinimizeResult
from fastopt.history import History
from fastopt.plots._axes import count_along, finish, new_axes, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["animation", "convergence", "trajectory"]

Bounds: TypeAlias = tuple[tuple[float, float], tuple[float, float]] | tuple[float, float]
Paths: TypeAlias = MinimizeResult | Mapping[str, MinimizeResult]
Array: TypeAlias = NDArray[np.float64]

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#e377c2")
DIVERGED = 1e3  # what rose by this much above its start is not followed further up
WITHIN = 12  # runs whose legend has room inside the picture
GRID, LINE = 161, 401  # evaluations along each side of a contour picture, and along a curve


class _Path(NamedTuple):
    """A path as drawn: its points in the picture, and the artists that show it."""

    points: Array
    line: Any
    end: Any

    def show(self, step: int) -> None:
        """Up to one step."""
        until = self.points[: step + 1]
        self.line.set_data(until[:, 0], until[:, 1])
        self.end.set_data(until[-1:, 0], until[-1:, 1])


def trajectory(
    fun: Callable[[Any], float],
    results: Paths,
    *,
    bounds: Bounds | None = None,
    optimum: ArrayLike | None = None,
    levels: int = 22,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """The paths of runs over the contours of a function of two variables, or along the curve of a function of one.

    Contours are spaced by the logarithm of the height above the lowest point of the picture; a star marks the optimum, a ring the start
    and a large dot the end of each path.

    Parameters
    ----------
    fun : callable
        The function that was minimized.
    results : MinimizeResult, or mapping of str to MinimizeResult
        Runs with `record=True`, one per label.
    bounds : ((float, float), (float, float)) or (float, float), optional
        Of x and y, or of x; by default those of `fun`, else what holds the paths.
    optimum : array_like, optional
        Point, or points in rows, to mark; by default `fun.minima`, which the functions of `fastopt.functions` have.
    levels : int
        Number of contours, at least 2.
    ax : Axes, optional
    title : str

    Raises
    ------
    ValueError
        When a run has no record, or its points have more than two variables.

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import plots
    >>> f = fo.functions.rosenbrock
    >>> run = fo.minimize(f, f.start, grad=f.grad, method="lbfgs", record=True)
    >>> plots.trajectory(f, {"L-BFGS": run}).get_xlabel()
    '$x$'
    """
    return _draw(fun, results, bounds, optimum, levels, ax, title)[0]


def animation(
    path: str,
    fun: Callable[[Any], float],
    results: Paths,
    *,
    bounds: Bounds | None = None,
    optimum: ArrayLike | None = None,
    frames: int = 60,
    fps: int = 15,
    title: str = "",
) -> None:
    """Write the picture of `trajectory` as a GIF that grows step by step, by matplotlib's Pillow writer.

    Parameters
    ----------
    path : str
        File to write, "run.gif".
    fun, results, bounds, optimum, title
        See `trajectory`.
    frames : int
        Pictures, spread over the longest run; the last one stays for a second.
    fps : int
        Pictures per second.

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import plots
    >>> f = fo.functions.himmelblau
    >>> run = fo.minimize(f, f.start, grad=f.grad, method="newton", record=True)
    >>> plots.animation("newton.gif", f, run, frames=2, fps=2)
    """
    if fps < 1 or frames < 1:
        raise ValueError(f"fps and frames must be at least 1; got {fps} and {frames}")
    axes, paths = _draw(fun, results, bounds, optimum, 22, None, title)
    from matplotlib.animation import PillowWriter

    figure: Any = axes.get_figure()
    figure.set_size_inches(0.875 * figure.get_size_inches())
    longest = max(len(each.points) for each in paths) - 1
    steps = sorted({round(float(step)) for step in np.linspace(0, longest, max(2, frames))})
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, path, dpi=90):
        for step in [*steps, *[longest] * fps]:
            for each in paths:
                each.show(step)
            writer.grab_frame()


def convergence(
    results: MinimizeResult | History | Mapping[str, MinimizeResult | History],
    *,
    against: str = "steps",
    optimum: float | None = None,
    column: str = "loss",
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Value of runs on a logarithmic axis, against steps or against seconds; a dot marks the last value that is positive.

    Parameters
    ----------
    results : MinimizeResult or History, or mapping of str to these
        Runs with `record=True`, or histories of training, one per label.
    against : str
        "steps" (epochs of a history) or "seconds".
    optimum : float, optional
        Smallest possible value, which is subtracted; needed when values are not positive.
    column : str
        Of a history.
    ax : Axes, optional
    title : str

    Raises
    ------
    ValueError
        When a run has no record, or nothing is positive.

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import plots
    >>> f = fo.functions.rosenbrock
    >>> runs = {name: fo.minimize(f, f.start, grad=f.grad, method=name, record=True) for name in ("lbfgs", "newton")}
    >>> plots.convergence(runs, against="seconds").get_xlabel()
    'seconds'
    """
    if against not in ("steps", "seconds"):
        raise ValueError(f"against must be 'steps' or 'seconds'; got {against!r}")
    named = results if isinstance(results, Mapping) and not isinstance(results, History) else {"": results}
    if not named:
        raise ValueError("results must not be empty")
    axes, highest, lowest = new_axes(ax), 0.0, np.inf
    for i, (label, result) in enumerate(named.items()):
        if isinstance(result, History):  # the row of an epoch is written when it ends
            values, seconds, steps = np.array(result[column]), np.cumsum(result.seconds), np.arange(1, len(result.rows) + 1)
        else:
            values, seconds = _recorded(result.values, result), _recorded(result.seconds, result)
            steps = np.arange(len(values))
        if len(seconds) != len(values) and against == "seconds":
            raise ValueError(f"{label or 'the run'} has {len(values)} values but the seconds of {len(seconds)}")
        height = np.asarray(values, dtype=np.float64) - (optimum or 0.0)
        drawn = height > 0.0
        if not drawn.any():
            raise ValueError(f"{label or 'the run'} has no positive value to draw on a logarithmic axis; give the optimum")
        x = (seconds if against == "seconds" else steps)[drawn]
        colour = COLOURS[i % len(COLOURS)]
        highest, lowest = max(highest, DIVERGED * height[drawn][[0, -1]].min(), height[drawn][0]), min(lowest, height[drawn].min())
        axes.plot(x, height[drawn], _style(i), color=colour, linewidth=1.8, label=shown(label) or None)
        axes.plot(x[-1:], height[drawn][-1:], "o", color=colour, markersize=5)
    axes.set_yscale("log")
    if ax is None and axes.get_ylim()[1] > highest:
        # A run that diverged would leave the others a line at the bottom.
        axes.set_ylim(lowest * (lowest / highest) ** 0.05, highest)
    histories = all(isinstance(each, History) for each in named.values())
    what = column if histories else "value"
    axes.set(xlabel=against, ylabel=what if optimum is None else f"{what} above the minimum", title=title)
    if against == "steps":
        count_along(axes, "epochs" if histories else "steps")
    return finish(axes, fontsize="small", beside=ax is None and len(named) > 3)


def _recorded(array: Array | None, result: MinimizeResult) -> Array:
    if array is None:
        raise ValueError(f"a run of {result.method} has no record; minimize with record=True")
    return array


def _draw(
    fun: Any, results: Paths, bounds: Bounds | None, optimum: ArrayLike | None, levels: int, ax: Axes | None, title: str
) -> tuple[Axes, list[_Path]]:
    named = {"": results} if isinstance(results, MinimizeResult) else dict(results)
    if not named:
        raise ValueError("results must not be empty")
    found = {label: _recorded(result.trajectory, result) for label, result in named.items()}
    variables = {path[0].size for path in found.values()}
    if len(variables) != 1 or not variables <= {1, 2}:
        raise ValueError(f"the paths must all have one variable, or all two; they have {sorted(variables)}")
    points = {label: path.reshape(len(path), -1) for label, path in found.items()}
    box = _box(bounds, fun, points.values(), variables.pop())
    axes = new_axes(ax, 6.4, 4.8)
    if len(box) == 1:
        shape = next(iter(found.values())).shape[1:]
        value = _function_of_one(fun, shape)
        points = {label: np.column_stack([path[:, 0], [value(float(x[0])) for x in path]]) for label, path in points.items()}
        limits = _curve(axes, value, box[0])
    else:
        limits = box[1]
        _contours(axes, fun, box, levels)
    for x in _marked(fun, optimum, len(box)):
        at = (x[0], value(float(x[0]))) if len(box) == 1 else (x[0], x[1])
        axes.plot(*at, "*", color="#ffd700", markersize=19, markeredgecolor="black", markeredgewidth=0.9, zorder=2.8)
    paths = [_path(axes, i, label, path) for i, (label, path) in enumerate(points.items())]
    axes.set(xlim=box[0], ylim=limits, xlabel="$x$", ylabel="$f(x)$" if len(box) == 1 else "$y$", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    if ax is None and len(points) > WITHIN:
        finish(axes, fontsize="small", beside=True).grid(False)
    elif any(points):
        axes.legend(fontsize="small", framealpha=0.9, edgecolor="none")
    return axes, paths


def _marked(fun: Any, optimum: ArrayLike | None, variables: int) -> Array:
    """Points to mark, in rows."""
    if optimum is None:
        minima = [minimum.x[:variables] for minimum in getattr(fun, "minima", ())]
        return np.array(minima).reshape(-1, variables)
    return np.asarray(optimum, dtype=np.float64).reshape(-1, variables)


def _style(i: int) -> str:
    return ("-", "--", ":")[i // len(COLOURS) % 3]


def _path(axes: Axes, i: int, label: str, points: Array) -> _Path:
    colour, style, marker = COLOURS[i % len(COLOURS)], _style(i), 4.0 if len(points) <= 60 else 2.0
    (line,) = axes.plot(
        points[:, 0], points[:, 1], "o" + style, color=colour, linewidth=1.7, markersize=marker, markeredgewidth=0,
        zorder=3 + 0.1 * i, label=shown(label),
    )  # fmt: skip
    (end,) = axes.plot(points[-1:, 0], points[-1:, 1], "o", color=colour, markersize=7.5, markeredgecolor="white", zorder=5)
    axes.plot(points[:1, 0], points[:1, 1], "o", color="white", markersize=7, markeredgecolor="black", markeredgewidth=1.3, zorder=5.5)
    return _Path(points, line, end)


def _box(bounds: Bounds | None, fun: Any, paths: Iterable[Array], variables: int) -> Array:
    """(low, high) of each axis that is a variable."""
    wanted = bounds if bounds is not None else getattr(fun, "bounds", None)
    if wanted is not None:
        box = np.asarray(wanted, dtype=np.float64).reshape(-1, 2)
        if bounds is not None and len(box) != variables:
            raise ValueError(f"bounds must have (low, high) for each of {variables} variables; got {bounds}")
        if not (np.isfinite(box).all() and (box[:, 0] < box[:, 1]).all()):
            raise ValueError(f"bounds must be finite, each low below its high; got {bounds}")
        return box[:variables]
    points = np.concatenate(list(paths))
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * np.maximum(high - low, 1e-3)
    return np.stack([low - margin, high + margin], axis=1)


def _contours(axes: Axes, fun: Callable[[Any], float], box: Array, levels: int) -> None:
    x, y = (np.linspace(low, high, GRID) for low, high in box)
    z = np.array([[float(fun(np.array([a, b]))) for a in x] for b in y])
    z[~np.isfinite(z)] = np.nan
    if np.isnan(z).all():
        raise ValueError(f"fun is finite nowhere in the bounds {box.tolist()}")
    height = z - min([float(np.nanmin(z)), *(minimum.value for minimum in getattr(fun, "minima", ()))])
    top = float(np.nanmax(height)) or 1.0
    spaced = np.geomspace(max(float(np.nanquantile(height, 0.002)), 1e-4 * top), top, max(2, levels))
    depth = np.log10(np.maximum(height, spaced[0]))
    axes.contourf(x, y, depth, levels=np.log10(spaced), cmap="Blues_r", alpha=0.45, extend="min", zorder=1)
    axes.contour(x, y, height, levels=spaced, colors="#4a6078", linewidths=0.5, alpha=0.6, zorder=2)


def _function_of_one(fun: Callable[[Any], float], shape: tuple[int, ...]) -> Callable[[float], float]:
    """The function as one of a float, whatever the shape of its variable."""

    def value(x: float) -> float:
        y = float(fun(x if shape == () else np.full(shape, x)))
        return y if math.isfinite(y) else math.nan

    return value


def _curve(axes: Axes, value: Callable[[float], float], ends: Array) -> Array:
    """Draw the function; the limits of the picture come back."""
    x = np.linspace(ends[0], ends[1], LINE)
    y = np.array([value(float(a)) for a in x])
    if np.isnan(y).all():
        raise ValueError(f"fun is finite nowhere in the bounds {ends.tolist()}")
    axes.plot(x, y, color="0.45", linewidth=1.6, zorder=2)
    low, high = float(np.nanmin(y)), float(np.nanmax(y))
    return np.array([low - 0.08 * (high - low), high + 0.03 * (high - low)])
