"""The exact sum through the memory of each node: gradients lie where every rank of the node reads them.

Letters: n parameters, L lanes, V workers. A vector is n numbers and a short tail. Each of a node's first L ranks owns one slice of n,
adds it straight out of its neighbours' buffers in the order of the fixed tree, block by block in its own cache, and the
optimizer takes each block at once. Parameters and optimizer state lie in shared memory too, once a node. Between nodes each
lane adds its slice with its peers, bucket by bucket, while backward still works on the earlier layers.

Order of a step: write, fence, add and update, fence. Inside a node nobody copies a vector in or out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array, spans
from hpcml.arrays.memory import ALIGNMENT
from hpcml.sync.buckets import Bucket
from hpcml.sync.nodes import Nodes
from hpcml.sync.progress import Progress
from hpcml.sync.tree import deepest, merges, subtrees

Part = tuple[slice, Array]
"""A span of the n parameters, and the sum over all workers there."""


class NodeSum:
    """Sums over the fixed tree of virtual workers through the memory of each node: the bits of TreeSum, without its copies."""

    def __init__(self, nodes: Nodes, workers: int, n: int, tail: int, dtype: Any, vectors: int = 1, cut: list[slice] | None = None) -> None:
        """Allocate this node's buffers in shared memory; every rank calls it.

        Args:
            nodes: the ranks by node; rank r of ``nodes.order`` hosts ``spans(workers, size)[r]``.
            workers: V.
            n: parameters.
            tail: elements behind them.
            dtype: of the vectors.
            vectors: how many vectors of n numbers `vector` will be asked for, all together.
            cut: spans of n in the order in which backward completes them, from n down to 0; between nodes each goes by itself.

        Raises:
            NoSharedMemoryError: on every rank, if any node has no room for them; nothing is kept.
        """
        self.nodes = nodes
        runs = spans(workers, nodes.order.size)
        local = [runs[rank] for rank in nodes.members]
        self._merges = merges(runs[nodes.order.rank], workers)
        depths = [deepest(merges(run, workers)) for run in local]
        stacks, self._vectors = _share(nodes, depths, vectors, n, tail, np.dtype(dtype))
        self._stack = list(stacks[nodes.inside.rank])
        held = {node: stacks[k][i] for k, run in enumerate(local) for i, node in enumerate(subtrees(run, workers))}
        node_runs = [slice(runs[ranks[0]].start, runs[ranks[-1]].stop) for ranks in nodes.ranks]
        # Inside one node there is nothing to wait for, so one bucket does; the tail rides in the first, which ends where it begins.
        pieces = (cut or [slice(0, n)]) if nodes.count > 1 else [slice(0, n)]
        self._buckets = [Bucket(nodes, node_runs, held, piece, n, tail if k == 0 else 0) for k, piece in enumerate(pieces)]
        self.owned = [bucket.owned for bucket in self._buckets]
        nodes.across.patient |= nodes.order.threaded and len(pieces) > 1
        self._progress = Progress(nodes.order.threaded and len(pieces) > 1)
        self._top = self._done = self._sent = 0

    def vector(self, rows: int | None = None) -> Array:
        """Return zeroed memory for n numbers, or (rows, n), one copy a node; owners write their part, `settle` shows it to all."""
        count = 1 if rows is None else rows
        taken, self._vectors = self._vectors[:count], self._vectors[count:]
        return taken[0] if rows is None else taken

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""
        return self._stack[self._top]

    def ready(self, final: slice) -> None:
        """Start on every bucket that is whole now: backward of the next worker has completed its gradient down to final.start."""
        if self._done == len(self._merges) - 1:
            self._send(final.start)

    def add(self) -> None:
        """Take the vector in the buffer as the next leaf and add every pair of partial sums that it completes."""
        self._done += 1
        if self._done == len(self._merges):
            self._send(0)
            return
        self._top += 1
        for _ in range(self._merges[self._done - 1]):
            left, right = self._stack[self._top - 2], self._stack[self._top - 1]
            np.add(left, right, out=left)
            self._top -= 1

    def finish(self) -> np.ndarray:
        """Wait for all workers' vectors and return the sum of their tails, on every rank."""
        self._progress.wait()
        self._top = self._done = self._sent = 0
        return self._buckets[0].tails()

    def parts(self) -> Iterator[Part]:
        """Yield (span, sum over all workers) for the owned parts, block by block; a block is valid until the next."""
        for bucket in self._buckets:
            yield from bucket.blocks()

    def write(self, vector: Array) -> None:
        """Write the sum over all workers into the owned parts of a vector of n numbers."""
        for bucket in self._buckets:
            bucket.write(vector[bucket.owned])

    def settle(self) -> None:
        """Return when all ranks of the node have read the sums and written their parts of shared vectors."""
        self.nodes.inside.fence()

    def _send(self, final: int) -> None:
        """Hand on the buckets that begin at `final` or behind it and were not handed on yet."""
        while self._sent < len(self._buckets) and self._buckets[self._sent].piece.start >= final:
            self._progress.start(self._complete, self._buckets[self._sent])
            self._sent += 1

    def _complete(self, bucket: Bucket) -> None:
        """Do all additions of one bucket: the last leaf's on this rank, then the node's, then those between nodes."""
        top = self._top + 1
        for _ in range(self._merges[-1]):
            left, right = self._stack[top - 2][bucket.reach], self._stack[top - 1][bucket.reach]
            np.add(left, right, out=left)
            top -= 1
        self.nodes.inside.fence()
        bucket.cross()


def _share(nodes: Nodes, depths: list[int], vectors: int, n: int, tail: int, dtype: np.dtype[Any]) -> tuple[list[Array], Array]:
    """Return a stack (depth, n + tail) a rank of the node and vectors (vectors, n) for all, in one window: each costs every fence."""
    aligned = ALIGNMENT // dtype.itemsize
    behind = [-(-depth * (n + tail) // aligned) * aligned for depth in depths]
    blocks = nodes.share([(length + (vectors * n if k == 0 else 0),) for k, length in enumerate(behind)], dtype)
    stacks = [block[: depth * (n + tail)].reshape(depth, n + tail) for block, depth in zip(blocks, depths, strict=True)]
    return stacks, blocks[0][behind[0] :].reshape(vectors, n)
