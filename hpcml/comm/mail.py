"""Letters between ranks: posted without waiting, taken as they come. What asynchronous training stands on.

A letter is a buffer of bytes with one owner: whoever asked for it, then whoever took it; posting hands it over. So nothing is copied
between the two ends, and a server answers in the letter that asked. One thread of a rank posts
and takes; any may ask for buffers and give them back.

Whoever waits for letters sleeps until a bell rings: the sender rings the receiver's, and a receiver the sender's when a long letter has
left. MPI moves a letter only while both sides look, so a rank that has half a letter goes on looking, and rings its sender to do so too.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np

from hpcml.arrays import aligned
from hpcml.comm.bell import Bell, Gather, introduce

FLYING = 8
"""Letters on their way from one rank at once: enough to fill a link, few enough that an urgent one soon has its turn."""

QUICK = 1024
"""Bytes of a letter that leaves at once, whatever the receiver does: its sender needs no news of it."""

NET = 10e-3
"""Seconds after which a rank that nobody has rung looks nevertheless: a safety net, which `hpcml.sync.server.post` counts."""


class Mail(ABC):
    """One rank's letter box; letters from one rank with equal urgency arrive in the order in which they were posted."""

    def __init__(self, rank: int, size: int, gather: Gather) -> None:
        """Open the box of `rank` among `size`; every rank calls it."""
        self.rank, self.size, self.bell = rank, size, Bell()
        self._bells, heard = introduce(self.bell, gather)
        self._heard = heard[rank]
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
        self.bell.ring(self._bells[to])

    @property
    def pause(self) -> float:
        """Seconds that this rank may sleep until its bell rings; 0 if it must look, since not everybody can ring it."""
        return NET if self._heard else 0.0

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
        self.bell.close()


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

    def __init__(self, handle: Any, mpi: Any, gather: Gather) -> None:
        """Open it on an mpi4py.MPI.Comm of its own, which `close` gives back; every rank calls this."""
        self._handle, self._mpi = handle, mpi
        super().__init__(handle.rank, handle.size, gather)
        self._waiting: list[tuple[int, int, int, np.ndarray]] = []
        self._flying: list[Any] = []
        self._held: list[np.ndarray] = []
        self._landing: list[tuple[Any, int, np.ndarray]] = []
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

    @property
    def pause(self) -> float:
        """Seconds that this rank may sleep until its bell rings; 0 while a letter is half here, or if not everybody can ring it."""
        return 0.0 if self._landing else super().pause

    def _receive(self) -> tuple[int, np.ndarray] | None:
        self._move_on()
        unfinished: set[int] = set()
        for place, (request, source, letter) in enumerate(self._landing):
            if self._has_landed(request, source, letter, unfinished):
                del self._landing[place]
                return source, letter
        status = self._mpi.Status()
        while (message := self._handle.Improbe(self._mpi.ANY_SOURCE, 0, status)) is not None:
            letter, source = self.buffer(status.Get_count(self._mpi.BYTE)), status.Get_source()
            request = message.Irecv([letter, self._mpi.BYTE])
            if self._has_landed(request, source, letter, unfinished):
                return source, letter
            self._landing.append((request, source, letter))
        return None

    def _has_landed(self, request: Any, source: int, letter: np.ndarray, unfinished: set[int]) -> bool:
        """Return whether a letter is whole, and no earlier one of its sender is `unfinished`; ring a sender who has to do with it."""
        landed = source not in unfinished and request.Test()
        if not landed:
            unfinished.add(source)
        if not landed or letter.size > QUICK:
            self.bell.ring(self._bells[source])
        return landed

    def is_idle(self) -> bool:
        """Return whether every letter posted here has left."""
        self._move_on()
        return not self._flying and not self._waiting

    def close(self) -> None:
        """Give the box and its communicator back; every rank calls it when no letter is on its way."""
        super().close()
        if self._handle != self._mpi.COMM_NULL:
            self._handle.Free()
