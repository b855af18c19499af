"""The exact sum inside a node without messages: gradients lie where every rank of the node reads them.

Letters: n parameters, L lanes, V workers. A vector is n numbers and a short tail. Each of the node's first L ranks owns one slice of n,
adds it straight out of its neighbours' buffers in the order of the fixed tree, block by block in its own cache, and the
optimizer takes each block at once. Parameters and optimizer state lie in shared memory too, once a node. Between nodes each
lane adds its slice with its peers.

Order of a step: write, fence, add and update, fence. Nobody copies a vector in or out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array, span, spans
from hpcml.sync.crossing import crossing
from hpcml.sync.nodes import Nodes
from hpcml.sync.tree import Node, additions, deepest, merges, subtrees

BLOCK = 1 << 15
"""Elements added at a time: two sources, the sum, parameters and state of a block stay in a core's second-level cache."""


Part = tuple[slice, Array]
"""A span of the n parameters, and the sum over all workers there."""


class NodeSum:
    """Sums over the fixed tree of virtual workers through the memory of each node: the bits of TreeSum, without its copies."""

    def __init__(self, nodes: Nodes, workers: int, n: int, tail: int, dtype: Any, vectors: int = 1) -> None:
        """Allocate this node's buffers in shared memory; every rank calls it.

        Args:
            nodes: the ranks by node; rank r of ``nodes.order`` hosts ``spans(workers, size)[r]``.
            workers: V.
            n: parameters.
            tail: elements behind them.
            dtype: of the vectors.
            vectors: how many vectors of n numbers `vector` will be asked for, all together.

        Raises:
            MemoryError: on every rank, if any node has no room for them; nothing is kept.
        """
        self.nodes, self.n, self.tail, self.dtype = nodes, n, tail, np.dtype(dtype)
        runs = spans(workers, nodes.order.size)
        local = [runs[rank] for rank in nodes.members]
        self._merges = merges(runs[nodes.order.rank], workers)
        self.owned = span(n, nodes.lanes, nodes.inside.rank) if nodes.inside.rank < nodes.lanes else slice(0, 0)
        depths = [deepest(merges(run, workers)) for run in local]
        stacks = nodes.share([(depth, n + tail) for depth in depths], self.dtype)
        self._stack = list(stacks[nodes.inside.rank])
        self._vectors = nodes.share([(vectors, n)] + [(0,)] * (nodes.inside.size - 1), self.dtype)[0]
        held = {node: stacks[k][i] for k, run in enumerate(local) for i, node in enumerate(subtrees(run, workers))}
        node_runs = [slice(runs[ranks[0]].start, runs[ranks[-1]].stop) for ranks in nodes.ranks]
        tops = subtrees(node_runs[nodes.number], workers)
        self._adder = _Adder(held, tops, self.owned, n, tail, self.dtype)
        self._lanes = None if nodes.count == 1 else _Lanes(nodes, node_runs, tops, self.owned, tail, self.dtype)
        self._top = self._done = 0

    def vector(self, rows: int | None = None) -> Array:
        """Return zeroed memory for n numbers, or (rows, n), one copy a node; owners write their part, `settle` shows it to all."""
        count = 1 if rows is None else rows
        taken, self._vectors = self._vectors[:count], self._vectors[count:]
        return taken[0] if rows is None else taken

    def buffer(self) -> Array:
        """Return the memory into which this rank's next worker writes its vector."""
        return self._stack[self._top]

    def add(self) -> None:
        """Take the vector in the buffer as the next leaf and add every pair of partial sums that it completes."""
        self._top += 1
        for _ in range(self._merges[self._done]):
            left, right = self._stack[self._top - 2], self._stack[self._top - 1]
            np.add(left, right, out=left)
            self._top -= 1
        self._done += 1

    def finish(self) -> np.ndarray:
        """Wait for all workers' vectors and return the sum of their tails, on every rank."""
        self._top = self._done = 0
        self.nodes.inside.fence()
        if self._lanes is None:
            return self._adder.tails()[0].astype(np.float64)
        return self._lanes.cross(self._adder)

    def parts(self) -> Iterator[Part]:
        """Yield (span, sum over all workers) for the owned part, block by block; a block is valid until the next."""
        return self._adder.blocks() if self._lanes is None else self._lanes.blocks()

    def settle(self) -> None:
        """Return when all ranks of the node have read the sums and written their parts of shared vectors."""
        self.nodes.inside.fence()


class _Adder:
    """Adds the node's partial sums into its fewest subtrees, over the owned part, in blocks prepared once."""

    def __init__(self, held: dict[Node, Array], tops: list[Node], owned: slice, n: int, tail: int, dtype: np.dtype[Any]) -> None:
        self._order = [additions(top, set(held)) for top in tops]
        self._held, self._tops, self._n = held, tops, n
        size = min(BLOCK, owned.stop - owned.start)
        self._scratch = [np.empty(size, dtype) for _ in range(max(map(_width, self._order), default=0))]
        cut = [slice(k, min(k + BLOCK, owned.stop)) for k in range(owned.start, owned.stop, BLOCK)]
        self._plan = [[(part, *self._prepare(top, part)) for part in cut] for top in range(len(tops))]
        self._sums = np.zeros((len(tops), tail), dtype)

    def _prepare(self, top: int, part: slice) -> tuple[list[tuple[Array, Array, Array]], Array]:
        """Return the additions (left, right, out) of one block, and where its sum then lies."""
        length = part.stop - part.start
        where: dict[Node, Array] = {node: x[part] for node, x in self._held.items()}
        free = [scratch[:length] for scratch in self._scratch]
        steps = []
        for left, right in self._order[top]:
            out = next((where[node] for node in (left, right) if node not in self._held), None)
            if out is None:
                out = free.pop(0)
            elif left not in self._held and right not in self._held:
                free.insert(0, where[right])
            steps.append((where[left], where[right], out))
            where[left[0], right[1]] = out
        return steps, where[self._tops[top]]

    def tails(self) -> np.ndarray:
        """Return the sum of the tails for each of the node's subtrees, (subtrees, tail); adds on copies, so every rank may."""
        for k, top in enumerate(self._tops):
            where = {node: x[self._n :].copy() for node, x in self._held.items()}
            for left, right in self._order[k]:
                where[left[0], right[1]] = where[left] + where[right]
            self._sums[k] = where[top]
        return self._sums

    def blocks(self, top: int = 0) -> Iterator[Part]:
        """Yield the owned part of one subtree's sum, block by block, in this rank's own scratch memory."""
        for part, steps, result in self._plan[top]:
            for left, right, out in steps:
                np.add(left, right, out=out)
            yield part, result

    def into(self, top: int, vector: Array, start: int) -> None:
        """Write the owned part of one subtree's sum into a vector whose first element is number `start`."""
        for part, steps, result in self._plan[top]:
            target = vector[part.start - start : part.stop - start]
            for left, right, out in steps[:-1]:
                np.add(left, right, out=out)
            if steps:
                np.add(steps[-1][0], steps[-1][1], out=target)
            else:
                target[:] = result


class _Lanes:
    """The part of the sum that crosses nodes: each lane adds its slice, and the tail behind it, with its peers."""

    def __init__(self, nodes: Nodes, runs: list[slice], tops: list[Node], owned: slice, tail: int, dtype: np.dtype[Any]) -> None:
        self._nodes, self._owned = nodes, owned
        self._length = owned.stop - owned.start
        self._partial = {top: np.zeros(self._length + tail, dtype) for top in tops}
        self._root = next(iter(self._partial.values()))
        active = nodes.inside.rank < nodes.lanes
        self._cross: Callable[..., None] | None = crossing(nodes.across, runs, self._length + tail, dtype, np) if active else None
        self._tail = nodes.share([(tail,)] + [(0,)] * (nodes.inside.size - 1), dtype)[0]

    def cross(self, adder: _Adder) -> np.ndarray:
        """Add over the nodes and return the sum of the tails, which lane 0 leaves in shared memory for ranks without a lane."""
        if self._cross is not None:
            for k, (vector, tail) in enumerate(zip(self._partial.values(), adder.tails(), strict=True)):
                adder.into(k, vector, self._owned.start)
                vector[self._length :] = tail
            self._cross(dict(self._partial), self._root)
            if self._nodes.inside.rank == 0:
                self._tail[:] = self._root[self._length :]
        self._nodes.inside.fence()
        return self._tail.astype(np.float64)

    def blocks(self) -> Iterator[Part]:
        """Yield the owned part of the sum over all nodes, block by block."""
        for first in range(self._owned.start, self._owned.stop, BLOCK):
            last = min(first + BLOCK, self._owned.stop)
            yield slice(first, last), self._root[first - self._owned.start : last - self._owned.start]


def _width(order: list[tuple[Node, Node]]) -> int:
    """Return how many sums are alive at once while additions are done in this order."""
    alive: set[Node] = set()
    most = 0
    for left, right in order:
        alive -= {left, right}
        alive.add((left[0], right[1]))
        most = max(most, len(alive))
    return most
