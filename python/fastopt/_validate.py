"""User arrays into exact arrays, with errors that name the argument and show both shapes or the allowed values.

Inputs may be converted with a copy; whatever the native gather can read (rows contiguous, float32, float64, uint8 or int16) is passed on
as it is, so that a memory map stays one. Nothing here knows networks or trainers.
"""

from __future__ import annotations

import contextlib
import decimal
import numbers
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastopt._backend import core

AnyArray: TypeAlias = NDArray[Any]
READABLE = frozenset(np.dtype(t) for t in (np.float32, np.float64, np.uint8, np.int16))
NATIVE_FLOATS = frozenset(np.dtype(t) for t in (np.float32, np.float64))
LARGEST: dict[np.dtype[Any] | None, float] = {
    None: sys.float_info.max,
    np.dtype(np.float32): float(np.finfo(np.float32).max),
    np.dtype(np.float64): float(np.finfo(np.float64).max),
}
BLOCK_BYTES = 1 << 23
BLOCK_ROWS = 8192  # that are converted at once
NATIVE_BLOCK_BYTES = 1 << 26  # of what one native look takes, some milliseconds: threads start once for each


def dtype_of(value: Any) -> np.dtype[Any]:
    """float32 or float64 from a name, a type or a dtype."""
    try:
        dtype: np.dtype[Any] = np.dtype(value if value is not None else "")  # NumPy reads None as float64
    except TypeError:
        raise ValueError(f"dtype must be 'float32' or 'float64'; got {value!r}") from None
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be 'float32' or 'float64'; got {value!r}")
    return dtype


def check_not_zero_in(dtype: np.dtype[Any], options: Any, name: str) -> None:
    """Raise ValueError when a positive option of a spec is 0 in the dtype of the numbers it is added to."""
    value, least = getattr(options, name, None), float(np.finfo(dtype).tiny)
    if isinstance(value, float) and 0.0 < value < least:
        raise ValueError(f"{name} must be at least {least:.1e} in {dtype}, where smaller numbers may count as 0; got {value}")


def refuse_mask(x: Any, name: str) -> None:
    """Raise TypeError for a masked array."""
    if type(x).__name__ == "MaskedArray":
        raise TypeError(f"{name} is a masked array, whose mask would be lost; fill it first, for example {name}.filled(0)")


def numeric(x: Any, name: str) -> AnyArray:
    """Any array-like of real numbers as an ndarray, without a copy where it is one."""
    if type(x) is np.ndarray:
        array = x
    else:
        if type(x).__module__.partition(".")[0] == "scipy":
            raise TypeError(f"{name} is a sparse matrix ({type(x).__name__}); give a dense array, for example {name}.toarray()")
        refuse_mask(x, name)
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
        except RuntimeError as error:  # a tensor with a gradient
            raise TypeError(f"{name} of type {type(x).__name__} is no array: {error}") from None
        if array.dtype == object and hasattr(x, "to_numpy"):  # a frame of mixed number types, or nullable columns
            _check_columns(x, name)
            with contextlib.suppress(TypeError, ValueError):
                array = x.to_numpy(dtype=np.float64)
    if array.dtype == object and all(map(_is_number, array.flat)):
        array = array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        hint = "; encode categories and text as numbers first" if array.dtype.kind in "OUS" else ""
        raise TypeError(f"{name} must hold real numbers; got dtype {array.dtype}{hint}")
    return array


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | decimal.Decimal | np.bool_)


def _is_number_or_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or _is_number(value)


def _check_columns(x: Any, name: str) -> None:
    """Raise TypeError for a column of a frame, or a series, that holds no numbers though pandas makes some of it: dates, digits as text."""
    dtypes = getattr(x, "dtypes", getattr(x, "dtype", None))
    columns: list[tuple[Any, Any, Any]] = [(None, dtypes, x)]
    if dtypes is not None and hasattr(dtypes, "items"):
        columns = [(label, dtype, x.iloc[:, i]) for i, (label, dtype) in enumerate(dtypes.items())]
    for label, dtype, values in columns:
        kind = getattr(dtype, "kind", "")
        if kind not in tuple("fiub") and not (kind == "O" and all(map(_is_number_or_missing, values))):
            where = f"column {label!r} of {name}" if label is not None else name
            raise TypeError(f"{where} must hold real numbers; got dtype {dtype}; encode dates, categories and text as numbers first")


def column_names(x: Any) -> list[str] | None:
    """Of a frame whose columns are called by text; None for anything else."""
    if type(x) is np.ndarray:
        return None
    columns = getattr(x, "columns", None)
    names = list(columns) if isinstance(columns, Iterable) else []
    return names if names and all(isinstance(name, str) for name in names) else None


def same_columns(known: list[str] | None, given: list[str] | None, name: str) -> None:
    """Raise ValueError for a frame with other columns, or another order of them, than a frame before."""
    if known is None or given is None or list(known) == given or len(known) != len(given):  # their number is checked with the shape
        return
    wrong = next(i for i, (a, b) in enumerate(zip(known, given, strict=True)) if a != b)
    order = f"; select [{list(known)}] of it" if len(known) <= 8 and sorted(known) == sorted(set(given)) else ""
    raise ValueError(
        f"{name} has other columns than the frame that the trainer is fitted on, or another order: column {wrong} is {given[wrong]!r}, "
        f"not {known[wrong]!r}{order}; its to_numpy() goes without names"
    )


def row_blocks(x: AnyArray, most: int) -> Iterator[tuple[int, AnyArray]]:
    """(first row, rows) of an array in blocks of some megabytes."""
    rows = max(1, most // max(1, x.itemsize * (x.size // max(1, len(x)))))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def check_finite(x: AnyArray, name: str, dtype: np.dtype[Any] | None = None) -> None:
    """Raise ValueError when there is a NaN or an infinity, or a number too large for `dtype`; reads blocks, never makes a full-size
    temporary."""
    if x.dtype.kind != "f":
        return
    most = LARGEST[dtype]
    native = x.dtype in NATIVE_FLOATS and x.flags.c_contiguous and x.flags.aligned
    for start, block in row_blocks(x, NATIVE_BLOCK_BYTES if native else BLOCK_BYTES):
        if native and core.all_finite(block, most):
            continue
        fits = np.isfinite(block) if dtype is None or block.itemsize <= dtype.itemsize else np.abs(block) <= most
        if not fits.all():
            where = np.argwhere(~fits)[0]
            row, rest = start + int(where[0]), "".join(f", column {int(i)}" for i in where[1:])
            must = f"fit into {dtype}" if np.isfinite(block[tuple(where)]) else "be finite"
            raise ValueError(f"{name} must {must}; got {block[tuple(where)]} at row {row}{rest}")


def exactly(array: AnyArray, dtype: Any) -> AnyArray:
    """C-contiguous, aligned and of this dtype; copied only when it is not."""
    exact = np.ascontiguousarray(array, dtype=dtype)
    return exact if exact.flags.aligned else exact.copy()


def _matrix(x: Any, columns: int, name: str) -> AnyArray:
    array = numeric(x, name)
    if array.ndim == 1 and columns == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != columns:
        hint = ""
        if array.ndim == 1 and array.shape[0] == columns:
            hint = f"; one row is {name}[None, :]"
        elif array.ndim > 2 and array.size == len(array) * columns:
            hint = f"; flatten it with {name}.reshape(len({name}), -1)"
        raise ValueError(f"{name} must have shape (rows, {columns}); got {array.shape}{hint}")
    return array


def rows_contiguous(x: AnyArray) -> bool:
    """Whether each row is contiguous and aligned, whatever the distance of the rows."""
    if not x.flags.aligned or not x.dtype.isnative:
        return False
    if x.flags.c_contiguous:
        return True
    stride = x.strides[0]
    return (x.shape[1] == 1 or x.strides[1] == x.itemsize) and stride >= x.shape[1] * x.itemsize and stride % x.itemsize == 0


def readable(x: AnyArray) -> bool:
    """Whether native code reads these rows as they are."""
    return x.dtype in READABLE and rows_contiguous(x)


def matrix(x: Any, columns: int, dtype: np.dtype[Any], name: str, *, rows: int | None = None) -> AnyArray:
    """A C-contiguous array (rows, columns) of exactly this dtype."""
    array = _matrix(x, columns, name)
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} must have shape ({rows}, {columns}); got {array.shape}")
    return exactly(array, dtype)


def rows_to_infer(x: Any, columns: int, name: str, *, fewest: int = 0) -> AnyArray:
    """Rows `(n, columns)` of any dtype and layout, as they are."""
    array = _matrix(x, columns, name)
    if len(array) < fewest:
        raise ValueError(f"{name} must have at least one row; got shape {array.shape}")
    return array.view(np.ndarray)


def features(x: Any, inputs: int, dtype: np.dtype[Any], name: str, *, finite: bool = True) -> AnyArray:
    """Inputs that the native gather can read: rows contiguous, of a dtype in READABLE; copied only when they are not."""
    if core.ready_rows(x, inputs, BLOCK_BYTES, finite, LARGEST[dtype]):
        return x  # type: ignore[no-any-return]
    array = _matrix(x, inputs, name)
    if len(array) == 0:
        raise ValueError(f"{name} must have at least one row; got shape {array.shape}")
    if finite:
        check_finite(array, name, dtype)
    native = array.dtype.newbyteorder("=")
    if native not in READABLE:
        return exactly(array, dtype)
    if rows_contiguous(array):
        return array.view(np.ndarray)
    return np.array(array, dtype=native, order="C")  # the dtype stays, so that the layout changes no bit


def labels(y: Any, classes: int, name: str) -> NDArray[np.int32]:
    """Class indices 0..classes-1 as int32, from integers, bools or integral floats."""
    exact = core.class_indices(y, classes)
    if exact is not None:
        return exact
    array = numeric(y, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} must be class indices of shape (rows,); got shape {array.shape}")
    if len(array) == 0:
        raise ValueError(f"{name} must have at least one row; got shape {array.shape}")
    if array.dtype.kind == "f":
        check_finite(array, name)
        whole = array == np.floor(array)
        if not whole.all():
            row = int(np.argmin(whole))
            raise ValueError(f"{name} must be class indices 0..{classes - 1}; got {array[row]} at row {row}")
    low, high = array.min(), array.max()
    if low < 0 or high >= classes:
        row = int(np.argmin(array) if low < 0 else np.argmax(array))
        raise ValueError(f"{name} must be class indices 0..{classes - 1} for {classes} outputs; got {int(array[row])} at row {row}")
    return exactly(array, np.int32)


def dense_target(y: Any, columns: int, dtype: np.dtype[Any], name: str, *, low: float, high: float, finite: bool = True) -> AnyArray:
    """A float target (rows, columns) of exactly this dtype, every value between low and high."""
    array = numeric(y, name)
    if array.ndim == 1 and columns == 1:
        array = array.reshape(-1, 1)
    free = low == -np.inf and high == np.inf
    if free and array.dtype == dtype and core.ready_rows(array, columns, BLOCK_BYTES, finite):
        return array
    if array.ndim != 2 or array.shape[1] != columns:
        alternative = " or (rows,)" if columns == 1 else ""
        raise ValueError(f"{name} must have shape (rows, {columns}){alternative}; got {array.shape}")
    if len(array) == 0:
        raise ValueError(f"{name} must have at least one row; got shape {array.shape}")
    if finite:
        check_finite(array, name)
    if not free:
        smallest, largest = array.min(), array.max()
        if smallest < low or largest > high:
            wrong = smallest if smallest < low else largest
            allowed = f"at least {low:g}" if high == np.inf else f"between {low:g} and {high:g}"
            raise ValueError(f"{name} must be {allowed} for this loss; got {wrong}")
    with np.errstate(over="ignore", under="ignore"):
        exact = exactly(array, dtype)
    if finite:
        check_range(exact, array, name)
    return exact


def check_range(exact: AnyArray, given: AnyArray, name: str) -> None:
    """Raise ValueError when a finite number became infinite in the dtype of the network."""
    if given.dtype.itemsize > exact.dtype.itemsize and not np.isfinite(exact).all():
        where = tuple(np.argwhere(~np.isfinite(exact))[0])
        raise ValueError(f"{name} must fit into {exact.dtype}; got {given[where]} at row {int(where[0])}")


def check_probabilities(y: AnyArray, name: str) -> None:
    """Raise ValueError when a row of a soft target does not sum to 1."""
    sums = y.sum(axis=1, dtype=np.float64)
    wrong = np.abs(sums - 1.0) > 1e-3
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{name} must hold probabilities that sum to 1 in each row; row {row} sums to {sums[row]:.6g}")


def sample_weight(w: Any, rows: int, dtype: np.dtype[Any], name: str = "sample_weight") -> AnyArray:
    """Weights (rows,) of exactly this dtype, finite, not negative and not all zero."""
    array = numeric(w, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},); got {array.shape}")
    check_finite(array, name)
    if rows and array.min() < 0:
        row = int(np.argmin(array))
        raise ValueError(f"{name} must not be negative; got {array[row]} at row {row}")
    with np.errstate(over="ignore", under="ignore"):
        exact = exactly(array, dtype)
    if rows and exact.max() < np.finfo(dtype).tiny:  # training counts what is smaller as 0
        limit = "" if array.max() == 0 else f", where they must reach {np.finfo(dtype).tiny:.1e}; their scale is free"
        raise ValueError(f"{name} must not be all zero in {dtype}{limit}; the largest is {array.max()}")
    check_range(exact, array, name)
    with np.errstate(over="ignore"):
        if not np.isfinite(exact.sum(dtype=np.float64)):
            raise ValueError(f"{name} must have a finite sum; the largest is {array.max()}, and their scale is free")
    return exact


def same_rows(x: AnyArray, y: AnyArray, x_name: str, y_name: str) -> None:
    """Raise ValueError when two arrays differ in their number of rows."""
    if len(x) != len(y):
        raise ValueError(f"{x_name} and {y_name} must have the same number of rows; got shapes {x.shape} and {y.shape}")


def positive_int(value: Any, name: str) -> int:
    """An int of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if value.__index__() < 1:
        raise ValueError(f"{name} must be at least 1; got {value!r}")
    if value.__index__() >= 2**63:
        raise ValueError(f"{name} must be below 2**63; got {value!r}")
    return int(value.__index__())


def output_array(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> AnyArray:
    """Check an array that is written in place; it is never converted."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, because it is written in place; got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}; got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {out.shape}")
    if not out.flags.c_contiguous or not out.flags.aligned:
        raise ValueError(f"{name} must be C-contiguous and aligned, because it is written in place; got strides {out.strides}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only, but it is written in place")
    return out
