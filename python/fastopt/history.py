"""What a fit recorded: one row per epoch, read as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["History"]


SHOWN = 25  # rows at either end of a long history that is printed


class History(Mapping[str, list[Any]]):
    """Rows of a training run, as a mapping of columns; a value that a row lacks is NaN.

    Attributes
    ----------
    rows : list of dict
        One per epoch: "epoch" (from 0), "loss", "penalty" (with l1 or l2, of layers that are trained), "val_loss",
        metrics, and "learning_rate"; of a solver, which has none, "damping" where it damps.
    seconds : list of float
        Wall time of each epoch, validation included; kept apart because it is not repeatable. Short epochs that nothing looks
        between are run together and share their time evenly.
    message : str
        Why a solver ended the last fit before its epochs were over; empty when it did not.

    Examples
    --------
    >>> import fastopt as fo
    >>> history = fo.History([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}])
    >>> history["loss"]
    [2.0, 1.0]
    >>> history.best("loss")
    {'epoch': 1, 'loss': 1.0}
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None, seconds: list[float] | None = None) -> None:
        self.rows: list[dict[str, Any]] = [] if rows is None else rows
        self.seconds: list[float] = [] if seconds is None else seconds
        self.message = ""

    def __getitem__(self, column: str) -> list[Any]:
        if not any(column in row for row in self.rows):
            raise KeyError(f"{column!r}; the columns are: {', '.join(self) or 'none yet'}")
        return [row.get(column, float("nan")) for row in self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, column: object) -> bool:
        return any(column in row for row in self.rows)

    def __bool__(self) -> bool:
        return bool(self.rows)

    def append(self, row: dict[str, Any], seconds: float) -> None:
        """Add the row of an epoch."""
        self.rows.append(row)
        self.seconds.append(seconds)

    def best(self, column: str = "val_loss", *, largest: bool | None = None) -> dict[str, Any]:
        """The row with the best value of a column; NaN never wins.

        `largest` says whether larger values are better; by default they are for metrics of this library of which that is true.
        """
        from fastopt import metrics

        values = self[column]
        sign = -1.0 if (metrics.larger_is_better(column) if largest is None else largest) else 1.0
        ranked = [(v != v, sign * v if v == v else 0.0) for v in values]
        if min(ranked)[0]:
            raise ValueError(f"column {column!r} holds no number")
        return self.rows[ranked.index(min(ranked))]

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns as lists of equal length: `pandas.DataFrame(history.to_dict())`."""
        return {name: self[name] for name in self}

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epochs)"
        last = "  ".join(f"{k} {_short(v)}" for k, v in self.rows[-1].items() if k != "epoch")
        return f"History({len(self.rows)} epochs, last: {last})"

    def __str__(self) -> str:
        names = list(self)
        rows = self.rows if len(self.rows) <= 2 * SHOWN else [*self.rows[:SHOWN], dict.fromkeys(names, "..."), *self.rows[-SHOWN:]]
        table = [names, *([_short(row.get(name, float("nan"))) for name in names] for row in rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(names))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in table)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
