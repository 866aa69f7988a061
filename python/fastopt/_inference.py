"""Raw outputs of rows of any dtype and layout, in memory for the outputs and one block of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _validate

if TYPE_CHECKING:
    from fastopt.network import Network

BLOCK_BYTES = 1 << 24  # of rows that are converted at once,
FEWEST_ROWS = 512  # but so many: each block reads all weights


def outputs_of(network: Network, x: NDArray[Any], rows: NDArray[np.int64] | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Raw outputs, of all rows of `x` or of those that `rows` names; what native code cannot read is converted block by block."""
    n = len(x) if rows is None else len(rows)
    if out is None:
        out = np.empty((n, network.outputs), network.dtype)
    if rows is None and _validate.readable(x):
        return network._infer(x, out)
    size = max(FEWEST_ROWS, BLOCK_BYTES // (network.inputs * network.dtype.itemsize))
    for start in range(0, n, size):
        block = x[start : start + size] if rows is None else x[rows[start : start + size]]
        network._infer(block if _validate.readable(block) else _validate.exactly(block, network.dtype), out[start : start + size])
    return out
