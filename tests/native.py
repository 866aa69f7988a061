"""The native core as tests call it: the one place that knows how the package finds it."""

import ctypes
import importlib.util
import mmap

import numpy as np
import pytest
from fastopt import _backend

core = _backend.core
DTYPES = ("float32", "float64")
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
ISAS = ("v3", "v4", "neon")
needs_bf16 = pytest.mark.skipif(not core.build_info()["bf16"], reason="this processor, or the core in use, has no bfloat16 products")


def native(kind, dtype, *arguments):
    """An object of the class `<kind>_<dtype>` of the core."""
    return getattr(core, f"{kind}_{np.dtype(dtype).name}")(*arguments)


def built_isas():
    """Instruction sets whose module is installed here."""
    return [isa for isa in ISAS if importlib.util.find_spec(f"fastopt._core_{isa}") is not None]


def guarded(shape, dtype, offset=3):
    """An output array of NaN inside a larger one, off any alignment, and a function that asserts nothing beside it was written."""
    size = int(np.prod(shape))
    whole = np.full(size + offset + 5, np.nan, dtype=dtype)
    out = whole[offset : offset + size].reshape(shape)

    def check(what):
        beside = np.concatenate([whole[:offset], whole[offset + size :]])
        assert np.isnan(beside).all(), f"{what}: wrote beside its output"

    return out, check


def sample(rng, shape, dtype, offset=1):
    """Random normal values in an array that starts off any alignment."""
    size = int(np.prod(shape))
    whole = np.empty(size + offset, dtype=dtype)
    array = whole[offset:].reshape(shape)
    array[...] = rng.standard_normal(shape)
    return array


class EndOfMemory:
    """Memory in front of a page that cannot be touched (Linux); arrays made from it end there."""

    def __init__(self, size):
        self._size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, self._size + mmap.PAGESIZE)
        beyond = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + self._size
        no_access = 0
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(beyond), ctypes.c_size_t(mmap.PAGESIZE), no_access) != 0:
            raise OSError("mprotect failed")

    def array(self, shape, dtype):
        count = int(np.prod(shape))
        return np.frombuffer(self._memory, dtype, count, self._size - count * np.dtype(dtype).itemsize).reshape(shape)
