"""Vectors that no rank holds whole: each holds the slices of its workers, and dot products have the same bits on any number of ranks.

The n numbers are cut into C blocks, whatever the ranks. A dot is summed inside each block by whoever holds it, and the C sums are then
added in one order by all. Letters: n numbers, V workers, P ranks, C blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcml.arrays import span, spans
from hpcml.comm.communicator import Communicator

BLOCKS = 64
"""C, where there are no more workers than that; their sums are what travels for a dot."""


class Slices:
    """Where the slices lie, and what ranks do with them together.

    Args:
        comm: the ranks, each with a run of the workers.
        n: numbers of a vector.
        workers: V, each of which has a slice: so it is that of the experiment, whatever the ranks.
    """

    def __init__(self, comm: Communicator, n: int, workers: int) -> None:
        self._comm = comm
        edges = [block.start for block in spans(n, min(max(BLOCKS, workers), n))] + [n]
        self._runs = [_run(spans(workers, comm.size)[rank], workers, edges) for rank in range(comm.size)]
        mine = self._runs[comm.rank]
        self.own = slice(edges[mine.start], edges[mine.stop])
        """This rank's slice of a vector, perhaps of nothing."""
        self._edges, self._mine = edges, mine
        self._starts = np.array(edges[mine.start : mine.stop], np.int64) - self.own.start
        self._products, self._workers = np.empty(self.own.stop - self.own.start), workers

    def part(self, worker: int) -> slice:
        """Return the slice of one of this rank's workers, within this rank's own."""
        run = _run(slice(worker, worker + 1), self._workers, self._edges)
        return slice(self._edges[run.start] - self.own.start, self._edges[run.stop] - self.own.start)

    def dots(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return the dot products (k,) of k pairs of whole vectors, each given as this rank's slices in float64; all ranks call it."""
        sums = np.zeros((len(pairs), len(self._edges) - 1))
        if self._products.size:
            for k, (x, y) in enumerate(pairs):
                np.multiply(x, y, out=self._products)
                np.add.reduceat(self._products, self._starts, out=sums[k, self._mine])
        self._comm.all_reduce(sums)  # all but one of the terms are 0: exact in any order
        total: np.ndarray = np.add.reduce(sums, axis=1)
        return total + 0.0  # no -0, which one rank alone would find

    def gather(self, whole: np.ndarray) -> None:
        """Overwrite a vector (n,) of which each rank has written its slice, so that all ranks have all; every rank calls it."""
        for rank, run in enumerate(self._runs):
            self._comm.broadcast(whole[self._edges[run.start] : self._edges[run.stop]], rank)


def _run(workers: slice, among: int, edges: list[int]) -> slice:
    """Return the run of blocks of a run of workers."""
    blocks, first, last = len(edges) - 1, workers.start, workers.stop
    if first == last:
        return slice(0, 0)
    return slice(span(blocks, among, first).start, span(blocks, among, last - 1).stop)
