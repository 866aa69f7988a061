"""What a fit puts back when it fails: the state of the trainer at the start of an epoch, copied once per epoch."""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastopt._backend import core

if TYPE_CHECKING:
    from fastopt.training import Trainer

Arrays = Sequence[NDArray[Any]]

IN_MEMORY_BYTES = 1 << 27  # a larger state is kept in a file: a second one in memory would nearly double what training needs
PIECE_BYTES = 1 << 23  # of one write, so that Ctrl-C is seen in between


class Copies(Protocol):
    """Copies of arrays that change."""

    def take(self) -> None: ...

    def restore(self) -> None: ...


class FileCopies:
    """Copies in a temporary file without a name, in TMPDIR or else /var/tmp: /tmp is memory on many systems.

    Raises
    ------
    OSError
        When the folder has no room.
    """

    def __init__(self, arrays: Arrays) -> None:
        import shutil
        import tempfile

        self._bytes = [array.reshape(-1).view(np.uint8) for array in arrays]
        size = sum(map(len, self._bytes))
        folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
        try:
            if shutil.disk_usage(folder).free < size:  # asked, not reserved: ext4 writes into reserved space ten times slower
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed when this object goes
        except OSError as error:
            text = f"the state of the trainer is copied to a file each epoch, and {folder} does not take its {size / 1e9:.2f} GB"
            raise OSError(error.errno, f"{text} ({error.strerror}); set TMPDIR to a folder that does") from None
        weakref.finalize(self, self._file.close)

    def _pieces(self) -> Iterator[memoryview]:
        self._file.seek(0)
        for flat in self._bytes:
            for start in range(0, len(flat), PIECE_BYTES):
                yield flat[start : start + PIECE_BYTES].data

    def take(self) -> None:
        """Write all arrays."""
        for piece in self._pieces():
            while piece:
                piece = piece[self._file.write(piece) :]

    def restore(self) -> None:
        """Read all arrays."""
        for piece in self._pieces():
            while piece:
                count = self._file.readinto(piece)
                if not count:
                    raise OSError("the temporary file that holds the state of the trainer ends too early")
                piece = piece[count:]


class Snapshot:
    """A copy of everything that training changes, renewed each epoch in the same place."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._native, self._network = trainer, trainer._native, trainer.network._native
        self._copies: Copies = trainer._copies or self._new_copies()
        self._counters = (0, 0)

    def _new_copies(self) -> Copies:
        network, native = self._network, self._native
        live = [network.parameters, network.buffers, *native.slots(), native.scalars, *(native.averages() or ()), *(native.waiting() or ())]
        if sum(array.nbytes for array in live) > IN_MEMORY_BYTES:
            return FileCopies(live)
        copies = core.ArrayCopies(live)
        self._trainer._copies = copies  # for the next fit: new memory takes longer to get than to fill
        return copies

    def finite(self, most: float = sys.float_info.max) -> bool:
        """Whether all weights are finite, and none larger than `most`."""
        with self._trainer._turn:
            return self._network.finite(most)

    def largest(self) -> float:
        """The size of the largest weight."""
        with self._trainer._turn:
            flat = self._network.parameters
            return max(float(flat.max()), -float(flat.min())) if flat.size else 0.0

    def take(self) -> None:
        """Copy the present state."""
        with self._trainer._turn, self._network:
            self._copies.take()
            self._counters = (self._native.t, self._network.training_step)
            if self._trainer._memory is not None:
                self._trainer._memory.mark()

    def restore(self) -> None:
        """Put the copied state back."""
        with self._trainer._turn, self._network:
            self._trainer._set_counters(*self._counters)
            self._copies.restore()
            if self._trainer._memory is not None:
                self._trainer._memory.go_back()
