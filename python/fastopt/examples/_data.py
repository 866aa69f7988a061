"""Data of the examples: scikit-learn's bundled sets, and images from NPZ or IDX files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt.errors import missing_package

Pair = tuple[NDArray[Any], NDArray[Any]]


def digits() -> Pair:
    """1797 real handwritten digits: 8x8 pixels in 0..16 as float32 in [0, 1], and labels 0..9."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing_package("scikit-learn", "examples", "The digits data set") from None
    images, labels = load_digits(return_X_y=True)
    return (images / 16.0).astype(np.float32), labels.astype(np.int64)


def load_images(path: str, labels: str | None = None) -> Pair:
    """Images `(n, pixels)` as uint8 and labels `(n,)` from an NPZ file (arrays `images`, `labels`) or a pair of IDX files.

    For IDX, plain or gzipped, `labels` may be left out when its file is named as usual ("images-idx3" becomes "labels-idx1").
    """
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("images", "labels") if name not in file]
            if missing:
                raise ValueError(f"{path} must hold the arrays images and labels; it has {', '.join(file)}")
            images, classes = file["images"], file["labels"]
    else:
        beside = labels or path.replace("images", "labels").replace("idx3", "idx1")
        images, classes = read_idx(path), read_idx(beside)
    if len(images) != len(classes):
        raise ValueError(f"{path} has {len(images)} images, but there are {len(classes)} labels")
    return images.reshape(len(images), -1), classes.astype(np.int64)


def read_idx(path: str) -> NDArray[Any]:
    """An array from a file in the IDX format, gzipped or not.

    The header is two zero bytes, one byte for the type, one for the number of dimensions, and a big-endian 32-bit size for each.
    """
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    types = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in types:
        raise ValueError(f"{path} is not an IDX file")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    data = np.frombuffer(raw, types[raw[2]], offset=4 + 4 * raw[3])
    if data.size != np.prod(shape):
        raise ValueError(f"{path} is cut short: its header says {shape}, it holds {data.size} values")
    array = data.reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))
