"""How a vector becomes its sum over all virtual workers, whatever road the numbers take.

    reducer = TreeSum(comm, workers, length, dtype, xp)       # exact: one fixed tree, the same bits on any number of ranks
    reducer = RoadSum(comm, workers, length, dtype, xp, road)  # fast: sums over a rank's workers, then any all-reduce

Used worker by worker: write one into ``buffer()``, say ``add()``, and after the last read ``total()``.
The one division by the weight stands in `divide`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from hpcml.arrays import Array, aligned, span
from hpcml.comm.communicator import Communicator
from hpcml.comm.schedules import Schedule
from hpcml.sync.crossing import crossing
from hpcml.sync.tree import merges, subtrees


class Reducer(Protocol):
    """Sums vectors over all virtual workers."""

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""

    def add(self) -> None:
        """Take the vector in the buffer as the next worker's."""

    def total(self) -> Array:
        """Return the sum over all workers, on every rank; valid until the next ``buffer()``."""


def divide(total: Array, n: int, weight: float) -> None:
    """Overwrite the first n elements of a sum with the mean: the only division by the weight."""
    total[:n] *= total.dtype.type(1.0 / weight)


class TreeSum:
    """Sums over one fixed binary tree of virtual workers: the same bits whoever hosts which worker."""

    def __init__(self, comm: Communicator, workers: int, length: int, dtype: Any, xp: Any = np) -> None:
        """Allocate all partial sums that this rank's run of the `workers` leaves will need.

        Args:
            comm: the ranks; rank r hosts ``spans(workers, comm.size)[r]``.
            workers: V, at least comm.size.
            length: elements of a vector.
            dtype: of the vectors.
            xp: numpy or cupy: where the buffers live.
        """
        self.comm, self.xp, self.length = comm, xp, length
        run = span(workers, comm.size, comm.rank)
        self._merges = merges(run, workers)
        self._held = subtrees(run, workers)
        make = aligned if xp is np else xp.zeros
        depth = _deepest(self._merges)
        self._stack = [make(length, dtype) for _ in range(depth)]
        self._top = self._done = 0
        self._across = crossing(comm, workers, length, dtype, xp)

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""
        if self._done == 0:
            self._top = 0
        return self._stack[self._top]

    def add(self) -> None:
        """Take the vector in the buffer as the next leaf and add every pair of partial sums that it completes."""
        self._top += 1
        for _ in range(self._merges[self._done]):
            left, right = self._stack[self._top - 2], self._stack[self._top - 1]
            self.xp.add(left, right, out=left)
            self._top -= 1
        self._done += 1

    def total(self) -> Array:
        """Return the sum over all workers, on every rank; valid until the next ``buffer()``."""
        self._done = 0
        root = self._stack[0]
        self._across(dict(zip(self._held, self._stack, strict=False)), root)
        return root


class RoadSum:
    """Sums over this rank's workers in order, then over the ranks by any all-reduce: fast, equal only to rounding."""

    def __init__(self, comm: Communicator, workers: int, length: int, dtype: Any, xp: Any, road: Road) -> None:
        """Allocate one sum, and one vector more where this rank hosts several workers."""
        self.comm, self.xp = comm, xp
        run = span(workers, comm.size, comm.rank)
        make = aligned if xp is np else xp.zeros
        self._sum = make(length, dtype)
        self._next = make(length, dtype) if run.stop - run.start > 1 else self._sum
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

    def total(self) -> Array:
        """Return the sum over all workers, on every rank; valid until the next ``buffer()``."""
        self._count = 0
        self._road()
        return self._sum


Road = Callable[[Communicator, Array], Callable[[], None]]
"""(comm, x) -> a function that overwrites x with the sum over the ranks; made once, called every step."""


def library(comm: Communicator, x: Array) -> Callable[[], None]:
    """Return the road of the MPI library's own all-reduce."""
    return lambda: comm.all_reduce(x)


def scheduled(schedule: Schedule) -> Road:
    """Return the road that follows a pure schedule, one exchange a round."""

    def road(comm: Communicator, x: Array) -> Callable[[], None]:
        rounds = list(schedule(comm.rank, comm.size, x.size))
        longest = max((t.receive.stop - t.receive.start for t in rounds if t.add), default=0)
        scratch = _empty_like(x, longest)

        def run() -> None:
            for t in rounds:
                target = x[t.receive]
                landing = scratch[: target.size] if t.add else target
                comm.exchange(x[t.send], t.to, landing, t.source)
                if t.add:
                    target += landing

        return run

    return road


def _empty_like(x: Array, length: int) -> Array:
    return aligned(length, x.dtype) if isinstance(x, np.ndarray) else x[:length].copy()


def _deepest(counts: list[int]) -> int:
    """Return the most vectors that are held at once: each leaf pushes one, each merge pops one."""
    held = deepest = 0
    for count in counts:
        held += 1
        deepest = max(deepest, held)
        held -= count
    return deepest
