"""Whose turn it is: evaluation at averaged weights exchanges them with those in training, so threads that share a trainer take turns."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Turn:
    """A lock that a thread may take again while it has it.

    Whoever waits gets it next: training gives it away for a moment after each piece, and would be back before another thread is awake. A
    forked child finds it free when another thread of its parent had it.
    """

    def __init__(self) -> None:
        self._process, self._gate = os.getpid(), threading.Lock()
        self._lock, self._depth = threading.RLock(), 0
        self._owner: int | None = None

    def _after_fork(self, me: int) -> None:
        self._process, self._gate = os.getpid(), threading.Lock()
        if self._owner != me:
            self._lock, self._depth, self._owner = threading.RLock(), 0, None

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._process != os.getpid():
            self._after_fork(me)
        if self._owner == me:
            self._lock.acquire()
        else:
            with self._gate:  # one waits for the lock, the others for the gate
                self._lock.acquire()
            self._owner = me
        self._depth += 1

    def __exit__(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
        self._lock.release()


def turn_of(averages: bool) -> AbstractContextManager[None]:
    """Of a trainer that averages weights; others have nothing to exchange, and their native calls take turns by themselves."""
    return Turn() if averages else nullcontext()
