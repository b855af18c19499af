"""A barrier of ranks that share memory and are more than their cores: who waits gives its core away, then sleeps until the last one rings.

Each rank counts its arrivals on a cache line of its own, which nobody else writes, and marks there that it sleeps. Whoever finds that all
have come rings those who sleep. A rank marks that it sleeps before it looks a last time, and counts its arrival before it looks who
sleeps, with a fence of memory between: so one of both sees the other. Were a ring lost all the same, a look now and then finds out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays.memory import ALIGNMENT
from hpcml.comm.bell import Bell

LOOKS = 100
"""Looks of a rank that waits before it sleeps: about as long as a fence takes where nobody is late."""

NET = 10e-3
"""Seconds after which a rank that nobody has rung looks nevertheless."""


class Barrier:
    """One rank's part of a barrier.

    Args:
        memory: bytes that all ranks see, zeroed, `Barrier.nbytes(size)` of them.
        rank: this one.
        bell: its bell.
        names: all ranks' bells, each of which can be rung from here.
        fence: orders this rank's loads and stores of the memory.
        look: called when a sleeper looks that nobody has rung: moves on what the library has to do.
    """

    def __init__(
        self, memory: np.ndarray, rank: int, bell: Bell, names: list[bytes], fence: Callable[[], None], look: Callable[[], Any]
    ) -> None:
        # A memoryview's item is read in a third of the time that numpy takes for one.
        self._numbers, self._rank, self._fence, self._look = memory.data.cast("q"), rank, fence, look
        self._bell, self._names, self._crossed = bell, names, 0
        self._others = [other for other in range(len(names)) if other != rank]

    @staticmethod
    def nbytes(size: int) -> int:
        """Return the bytes of memory that a barrier of so many ranks needs."""
        return size * ALIGNMENT

    def cross(self) -> None:
        """Return when every rank has called it as often as this one."""
        self._crossed += 1
        self._numbers[self._rank * _LINE] = self._crossed
        self._fence()
        looks = 0
        while not self._all_there():
            looks += 1
            if looks <= LOOKS:
                os.sched_yield()
            else:
                self._sleep()
        for other in self._others:
            if self._numbers[other * _LINE + 1]:
                self._bell.ring(self._names[other])

    def _all_there(self) -> bool:
        return all(self._numbers[other * _LINE] >= self._crossed for other in self._others)

    def _sleep(self) -> None:
        self._numbers[self._rank * _LINE + 1] = 1
        self._fence()
        while not self._all_there():
            if not self._bell.wait(NET):
                self._look()
        self._numbers[self._rank * _LINE + 1] = 0

    def close(self) -> None:
        """Let go of the memory, and take the bell down."""
        self._numbers.release()
        self._bell.close()


_LINE = ALIGNMENT // 8
"""Numbers from one rank's line to the next."""
