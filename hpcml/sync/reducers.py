"""How a vector becomes its sum over all virtual workers, whatever road the numbers take.

    reducer = TreeSum(comm, workers, n, tail, dtype, xp)        # exact: one fixed tree, the same bits on any number of ranks
    reducer = NodeSum(nodes, workers, n, tail, dtype)           # the same bits, through the memory of a node: sync/node_sum.py
    reducer = RoadSum(comm, workers, n, tail, dtype, xp, road)  # fast: over a rank's workers, then any all-reduce

Letters: n parameters; a vector is n numbers and a short tail. Used worker by worker: write one into ``buffer()``, say ``add()``;
after the last
``finish()`` gives the tails' sum, ``parts()`` the rest of the sum where this rank owns it, and ``settle()`` ends the use of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from hpcml.arrays import Array, aligned, spans, to_host
from hpcml.arrays.memory import BLOCK
from hpcml.comm.communicator import Communicator
from hpcml.comm.roads import Road
from hpcml.sync.crossing import crossing
from hpcml.sync.tree import deepest, merges, subtrees

Part = tuple[slice, Array]
"""A span of the n parameters, and the sum over all workers there."""


class Reducer(Protocol):
    """Sums vectors over all virtual workers."""

    owned: list[slice]
    """The parts of the n numbers in which this rank gets the sum, and moves the parameters."""

    def vector(self, rows: int | None = None) -> Array:
        """Return zeroed memory for n numbers, or (rows, n): of this rank, or one copy a node where ranks own parts."""

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""

    def ready(self, final: slice) -> None:
        """Start on what can be started: the next worker's vector is complete from final.start on, its tail included."""

    def add(self) -> None:
        """Take the vector in the buffer as the next worker's."""

    def finish(self) -> np.ndarray:
        """Sum over all workers and return the sum of their tails as float64, on every rank."""

    def parts(self) -> Iterator[Part]:
        """Yield (span, sum) over the owned part, block by block; a block may be overwritten, and is valid until the next."""

    def settle(self) -> None:
        """Return when no rank still reads the sums, and all ranks see what was written to the owned parts of vectors."""


class _Private:
    """What reducers share whose ranks each own the whole sum, in memory of their own."""

    def __init__(self, n: int, tail: int, dtype: Any, xp: Any) -> None:
        self.n, self.length, self.dtype, self.xp = n, n + tail, dtype, xp
        self.owned = [slice(0, n)]
        self._sum: Array = None

    def vector(self, rows: int | None = None) -> Array:
        """Return zeroed memory for n numbers, or (rows, n)."""
        shape = (self.n,) if rows is None else (rows, self.n)
        return aligned(shape, self.dtype) if self.xp is np else self.xp.zeros(shape, self.dtype)

    def parts(self) -> Iterator[Part]:
        """Yield (span, sum) over all n numbers: blocks on the CPU, everything at once on a device."""
        step = BLOCK if self.xp is np else max(self.n, 1)
        for first in range(0, self.n, step):
            part = slice(first, min(first + step, self.n))
            yield part, self._sum[part]

    def ready(self, final: slice) -> None:
        """Do nothing: this reducer starts when all workers have come."""

    def settle(self) -> None:
        """Return at once: no other rank reads this memory."""

    def _tail(self) -> np.ndarray:
        return to_host(self._sum[self.n :]).astype(np.float64)

    def _make(self) -> Array:
        return aligned(self.length, self.dtype) if self.xp is np else self.xp.zeros(self.length, self.dtype)


class TreeSum(_Private):
    """Sums over one fixed binary tree of virtual workers: the same bits whoever hosts which worker."""

    def __init__(
        self, comm: Communicator, workers: int, n: int, tail: int, dtype: Any, xp: Any = np, runs: list[slice] | None = None
    ) -> None:
        """Allocate all partial sums that this rank's run of the `workers` leaves will need.

        Args:
            comm: the ranks; rank r hosts ``runs[r]``.
            workers: V.
            n: parameters.
            tail: elements behind them.
            dtype: of the vectors.
            xp: numpy or cupy: where the buffers live.
            runs: the leaves of each rank, one run after the other, perhaps empty; left out, ``spans(workers, comm.size)``.
        """
        super().__init__(n, tail, dtype, xp)
        runs = runs or spans(workers, comm.size)
        self._merges = merges(runs[comm.rank], workers)
        self._held = subtrees(runs[comm.rank], workers)
        self._stack = [self._make() for _ in range(max(deepest(self._merges), 1))]
        self._sum, self._top, self._done = self._stack[0], 0, 0
        self._across = crossing(comm, runs, self.length, dtype, xp)

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""
        return self._stack[self._top]

    def add(self) -> None:
        """Take the vector in the buffer as the next leaf and add every pair of partial sums that it completes."""
        self._top += 1
        for _ in range(self._merges[self._done]):
            left, right = self._stack[self._top - 2], self._stack[self._top - 1]
            self.xp.add(left, right, out=left)
            self._top -= 1
        self._done += 1

    def finish(self) -> np.ndarray:
        """Sum over all workers and return the sum of their tails."""
        self._top = self._done = 0
        self._across(dict(zip(self._held, self._stack, strict=False)), self._sum)
        return self._tail()


class RoadSum(_Private):
    """Sums over this rank's workers in order, then over the ranks by any all-reduce: fast, equal only to rounding."""

    def __init__(
        self, comm: Communicator, workers: int, n: int, tail: int, dtype: Any, xp: Any, road: Road, runs: list[slice] | None = None
    ) -> None:
        """Allocate one sum, and one vector more where this rank hosts several workers; the arguments are those of TreeSum, and a road."""
        super().__init__(n, tail, dtype, xp)
        self._sum = self._make()
        run = (runs or spans(workers, comm.size))[comm.rank]
        self._next = self._make() if run.stop - run.start > 1 else self._sum
        self._road = road(comm, self._sum)
        self._count = 0

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""
        return self._next if self._count else self._sum

    def add(self) -> None:
        """Take the vector in the buffer as the next worker's."""
        if self._count:
            self.xp.add(self._sum, self._next, out=self._sum)
        self._count += 1

    def finish(self) -> np.ndarray:
        """Sum over all workers and return the sum of their tails."""
        if not self._count:  # the last sum is still there
            self._sum.fill(0)
        self._count = 0
        self._road()
        return self._tail()
