"""Device arrays through host memory: pinned chunks, one on its way from the device while MPI works on the other.

    stream   fetch 0 | fetch 1      | store 0, fetch 2 | store 1, fetch 3 | ...
    host             | exchange 0   | exchange 1       | exchange 2       | ...

Needs nothing of the MPI library. Costs one copy down and one up over the bus, hidden behind the messages from the second chunk on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from hpcml.arrays import Array
from hpcml.arrays.pinned import PinnedChunks
from hpcml.comm.communicator import Communicator, Op, flatten, gather_rows

CHUNK = 4 << 20
"""Bytes of a chunk: a bus of 25 GB/s takes 0.2 ms for it, against about 0.01 ms to start a copy. A multiple of every dtype's size."""

OUT, IN = (0, 1), (2, 3)
"""Two chunks for what leaves the device, two for what arrives."""


class Chunks(Protocol):
    """Host memory beside a device; `arrays.pinned.PinnedChunks` says what each does."""

    def passage(self) -> AbstractContextManager[None]:
        """Run a block of copies in the order of the caller's stream."""

    def fetch(self, chunk: int, source: Array) -> None:
        """Start a copy from the device."""

    def store(self, chunk: int, target: Array, start: int = 0) -> None:
        """Start a copy to the device, from byte `start` of the chunk."""

    def settled(self, chunk: int) -> np.ndarray:
        """Wait for a chunk's last copy and return its bytes."""


class Staging:
    """A host communicator's operations for device arrays; x and out are contiguous, and may be used on the caller's stream at once."""

    def __init__(self, host: Communicator, make: Callable[[Array, int, int], Chunks] = PinnedChunks, nbytes: int = CHUNK) -> None:
        """Stage for the ranks of `host`.

        Args:
            host: talks with host arrays.
            make: called once, with the first device array, the count of chunks and their bytes.
            nbytes: of a chunk, a multiple of 16 times host.size; all ranks the same.
        """
        self._host, self._make, self._nbytes = host, make, nbytes
        self._made: Chunks | None = None

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another, chunk by chunk; both sides must be device arrays."""
        out = [] if x is None or to is None else cut(x, self._nbytes)
        arriving = [] if into is None or source is None else cut(into, self._nbytes)
        if not out and not arriving:
            return
        chunks = self._chunks(x if out else into)
        with chunks.passage():
            self._fetch(chunks, out, 0)
            for k in range(max(len(out), len(arriving))):
                self._fetch(chunks, out, k + 1)
                send = chunks.settled(OUT[k % 2])[: out[k].size] if k < len(out) else None
                receive = chunks.settled(IN[k % 2])[: arriving[k].size] if k < len(arriving) else None
                self._host.exchange(send, None if send is None else to, receive, None if receive is None else source)
                if receive is not None:
                    chunks.store(IN[k % 2], arriving[k])

    def all_reduce(self, x: Array, op: Op = Op.SUM) -> None:
        """Overwrite x with the element-wise op of all ranks' x, as the host communicator reduces each chunk."""
        self._pass_through(x, True, lambda host: self._host.all_reduce(host.view(x.dtype), op))

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Overwrite x, on every rank, with the root's x."""
        self._pass_through(x, self._host.rank == root, lambda host: self._host.broadcast(host, root))

    def all_gather(self, x: Array, out: Array) -> None:
        """Overwrite out, of shape (size, *x.shape), with every rank's x in rank order."""
        size = self._host.size
        rows = gather_rows(x, out, size).reshape(-1).view(np.uint8).reshape(size, x.nbytes)
        piece = max(self._nbytes // size // 16 * 16, 16)
        pieces = cut(x, piece)
        chunks = self._chunks(x)
        with chunks.passage():
            self._fetch(chunks, pieces, 0)
            for k, mine in enumerate(pieces):
                self._fetch(chunks, pieces, k + 1)
                landing = chunks.settled(IN[k % 2])[: size * mine.size]
                self._host.all_gather(chunks.settled(OUT[k % 2])[: mine.size], landing.reshape(size, mine.size))
                for rank in range(size):
                    target = rows[rank, k * piece : k * piece + mine.size]
                    chunks.store(IN[k % 2], target, rank * mine.size)

    def _pass_through(self, x: Array, fetched: bool, work: Callable[[np.ndarray], None]) -> None:
        """Let the host work on each chunk's bytes, and bring them back to x."""
        pieces = cut(x, self._nbytes)
        chunks = self._chunks(x)
        with chunks.passage():
            self._fetch(chunks, pieces if fetched else [], 0)
            for k, piece in enumerate(pieces):
                self._fetch(chunks, pieces if fetched else [], k + 1)
                work(chunks.settled(OUT[k % 2])[: piece.size])
                chunks.store(OUT[k % 2], piece)

    def _fetch(self, chunks: Chunks, pieces: list[Array], k: int) -> None:
        if k < len(pieces):
            chunks.fetch(OUT[k % 2], pieces[k])

    def _chunks(self, like: Array) -> Chunks:
        if self._made is None:
            self._made = self._make(like, len(OUT + IN), self._nbytes)
        return self._made


def cut(x: Array, nbytes: int) -> list[Array]:
    """Return the bytes of a contiguous array in pieces of nbytes, at least one: how many depends on its own size alone."""
    raw = flatten(x).view(np.uint8)
    return [raw[start : start + nbytes] for start in range(0, max(raw.size, 1), nbytes)]
