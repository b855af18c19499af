"""Letters between ranks: posted without waiting, taken as they come. What asynchronous training stands on.

A letter is a buffer of bytes with one owner: whoever asked for it, then whoever took it; posting hands it over. So nothing is copied
between the two ends, and a server answers in the letter that asked. One thread of a rank posts
and takes; any may ask for buffers and give them back.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np

from hpcml.arrays import aligned

FLYING = 8
"""Letters on their way from one rank at once: enough to fill a link, few enough that an urgent one soon has its turn."""


class Mail(ABC):
    """One rank's letter box; letters from one rank with equal urgency arrive in the order in which they were posted."""

    def __init__(self, rank: int, size: int) -> None:
        """Open the box of `rank` among `size`."""
        self.rank, self.size = rank, size
        self.sent_bytes = self.sent_letters = 0
        self._pool: dict[int, list[np.ndarray]] = {}
        self._own: deque[np.ndarray] = deque()

    def buffer(self, nbytes: int) -> np.ndarray:
        """Return a letter (nbytes,) uint8 of any content; memory that was given back is used again."""
        try:
            return self._pool[nbytes].pop()
        except (KeyError, IndexError):  # asked for first and then taken, it could be another thread's
            return aligned(nbytes, np.uint8)

    def give_back(self, letter: np.ndarray) -> None:
        """Take over a letter whose content nobody needs any more."""
        self._pool.setdefault(letter.size, []).append(letter)

    def post(self, to: int, letter: np.ndarray, urgency: int = 0) -> None:
        """Send a letter to a rank, perhaps this one; it is not the caller's any more.

        Args:
            to: the rank that will take it.
            letter: (n,) uint8 from `buffer` or `take`.
            urgency: where several wait for the link, lower numbers go first.
        """
        if to == self.rank:
            self._own.append(letter)
            return
        self.sent_bytes += letter.size
        self.sent_letters += 1
        self._send(to, letter, urgency)

    def take(self) -> tuple[int, np.ndarray] | None:
        """Return (sender, letter) of a letter that has arrived, or None at once; letters on their way are moved on."""
        if self._own:
            return self.rank, self._own.popleft()
        return self._receive()

    @abstractmethod
    def _send(self, to: int, letter: np.ndarray, urgency: int) -> None:
        """Start sending to another rank."""

    @abstractmethod
    def _receive(self) -> tuple[int, np.ndarray] | None:
        """Return a letter from another rank, if one is there."""

    @abstractmethod
    def is_idle(self) -> bool:
        """Return whether every letter posted here has left."""

    def close(self) -> None:
        """Give the box back; every rank calls it when no letter is on its way."""
        self._pool.clear()


class OwnMail(Mail):
    """The box of a world of one rank, which writes to itself alone."""

    def _send(self, to: int, letter: np.ndarray, urgency: int) -> None:
        """Do nothing: there is nobody else."""

    def _receive(self) -> tuple[int, np.ndarray] | None:
        return None

    def is_idle(self) -> bool:
        """Return True."""
        return True


class MpiMail(Mail):
    """Letters as MPI messages on a communicator of their own."""

    def __init__(self, handle: Any, mpi: Any) -> None:
        """Duplicate an mpi4py.MPI.Comm; every rank of it calls this."""
        self._handle, self._mpi = handle.Dup(), mpi
        super().__init__(handle.rank, handle.size)
        self._waiting: list[tuple[int, int, int, np.ndarray]] = []
        self._flying: list[Any] = []
        self._held: list[np.ndarray] = []
        self._posted = 0

    def _send(self, to: int, letter: np.ndarray, urgency: int) -> None:
        self._posted += 1
        heapq.heappush(self._waiting, (urgency, self._posted, to, letter))
        self._move_on()

    def _move_on(self) -> None:
        """Take back letters that have left, and start the most urgent of those that wait."""
        if self._flying:
            for k in sorted(self._mpi.Request.Testsome(self._flying) or (), reverse=True):
                del self._flying[k]
                self.give_back(self._held.pop(k))
        while self._waiting and len(self._flying) < FLYING:
            _, _, to, letter = heapq.heappop(self._waiting)
            self._flying.append(self._handle.Isend([letter, self._mpi.BYTE], to, 0))
            self._held.append(letter)

    def _receive(self) -> tuple[int, np.ndarray] | None:
        self._move_on()
        status = self._mpi.Status()
        message = self._handle.Improbe(self._mpi.ANY_SOURCE, 0, status)
        if message is None:
            return None
        letter = self.buffer(status.Get_count(self._mpi.BYTE))
        message.Recv([letter, self._mpi.BYTE])
        return status.Get_source(), letter

    def is_idle(self) -> bool:
        """Return whether every letter posted here has left."""
        self._move_on()
        return not self._flying and not self._waiting

    def close(self) -> None:
        """Give the box and its communicator back; every rank calls it when no letter is on its way."""
        super().close()
        if self._handle != self._mpi.COMM_NULL:
            self._handle.Free()
