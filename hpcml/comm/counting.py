"""A communicator that counts: bytes sent, messages, and the seconds spent waiting for others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcml.arrays import Array
from hpcml.comm.around import Around
from hpcml.comm.communicator import Communicator


@dataclass(slots=True)
class Traffic:
    """What one rank's communicators came to, all together."""

    sent_bytes: int = 0
    messages: int = 0
    waited: float = 0.0
    """Seconds inside exchanges, barriers and fences: transfer and waiting for the other side."""


class Counted(Around):
    """Counts what goes through another communicator of the same ranks, and through those made from it.

    Collectives are those built on `exchange`, so that every byte is seen; an MPI library's own may send fewer.

    Args:
        inner: does the work.
        apart: refuse shared memory inside a node, so that every rank is counted as a machine of its own.
        traffic: where to count; left out, from zero.
    """

    def __init__(self, inner: Communicator, apart: bool = False, traffic: Traffic | None = None) -> None:
        super().__init__(inner)
        self.apart, self.traffic = apart, traffic or Traffic()

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another, and count what was sent."""
        self._time(lambda: self.inner.exchange(x, to, into, source))
        if x is not None and to is not None:
            self.traffic.sent_bytes += x.nbytes
            self.traffic.messages += 1

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self._time(self.inner.barrier)

    def fence(self) -> None:
        """Return when every rank has called it and all see what was written to shared blocks before."""
        self._time(self.inner.fence)

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return the inner one's shared blocks, unless ranks are to be counted as machines of their own."""
        return None if self.apart else super().shared_blocks(nbytes)

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color; it counts into the same numbers."""
        return Counted(self.inner.split(color, key), self.apart, self.traffic)

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks of this node, the ranks with this place in each node), both counted into the same numbers."""
        inside, across = self.inner.by_node()
        return Counted(inside, self.apart, self.traffic), Counted(across, self.apart, self.traffic)

    def _time(self, action: Callable[[], None]) -> None:
        started = time.perf_counter()
        action()
        self.traffic.waited += time.perf_counter() - started
