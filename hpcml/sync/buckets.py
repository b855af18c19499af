"""One bucket of the exact sum: a span of the parameters that is added, lane by lane, by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array, aligned, span
from hpcml.arrays.memory import BLOCK
from hpcml.sync.crossing import Crossing, crossing
from hpcml.sync.nodes import Nodes
from hpcml.sync.tree import Node, additions, subtrees


class Bucket:
    """The sum over one span of the parameters, and over the tail if it carries it; this rank computes the slice that it owns."""

    def __init__(self, nodes: Nodes, runs: list[slice], held: dict[Node, Array], piece: slice, n: int, tail: int) -> None:
        """Prepare every addition and all memory.

        Args:
            nodes: the ranks by node.
            runs: the workers of each node.
            held: the partial sums of this node's ranks, vectors that all of them read.
            piece: the bucket's span; with a tail it ends at n.
            n: where the tail begins in a vector.
            tail: elements of the tail, or 0.
        """
        self.piece, self.reach = piece, slice(piece.start, piece.stop + tail)
        place, lanes = nodes.inside.rank, nodes.lanes
        own = span(piece.stop - piece.start, lanes, place) if place < lanes else slice(0, 0)
        self.owned = slice(piece.start + own.start, piece.start + own.stop)
        self._nodes = nodes
        tops = subtrees(runs[nodes.number], runs[-1].stop)
        self._orders = [additions(top, set(held)) for top in tops]
        dtype = next(iter(held.values())).dtype
        self._pairs = [_pair(held, top, order, self.owned) for top, order in zip(tops, self._orders, strict=True)]
        self._plans = [_plan(held, top, order, self.owned) for top, order in zip(tops, self._orders, strict=True)]
        self._sums = np.zeros((len(tops), tail), dtype)
        self._tail_steps = [
            _tail_plan(held, top, order, slice(n, n + tail), total)
            for top, order, total in zip(tops, self._orders, self._sums, strict=True)
        ]
        self._lane: _Lane | None = None
        if nodes.count > 1:
            direct = lanes == 1 and not any(self._orders)
            self._lane = _Lane(nodes, runs, {top: held[top] for top in tops} if direct else None, tops, self, dtype)

    def cross(self) -> None:
        """Add over the nodes, if there are several; every rank of the node has written its vectors."""
        if self._lane is not None:
            self._lane.cross()

    def tails(self) -> np.ndarray:
        """Return the sum of the tails over all workers, on every rank, as float64."""
        return (self._lane.tail if self._lane is not None else self.add_tails()[0]).astype(np.float64)

    def add_tails(self) -> np.ndarray:
        """Return the sum of the tails for each of the node's subtrees; adds on copies, since every rank does it."""
        for steps in self._tail_steps:
            for left, right, out in steps:
                np.add(left, right, out=out)
        return self._sums

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield the owned slice of the sum over all workers, block by block."""
        if self._lane is not None:
            for first in range(self.owned.start, self.owned.stop, BLOCK):
                last = min(first + BLOCK, self.owned.stop)
                yield slice(first, last), self._lane.root[first - self.owned.start : last - self.owned.start]
            return
        for part, steps, result in self._plans[0]:
            for left, right, out in steps:
                np.add(left, right, out=out)
            yield part, result

    def write(self, target: Array) -> None:
        """Write the owned slice of the sum over all workers into a vector of its length."""
        if self._lane is None:
            self.add_into(0, target)
        else:
            target[:] = self._lane.root[: len(target)]

    def add_into(self, top: int, target: Array) -> None:
        """Write the owned slice of one subtree's sum to the start of a vector."""
        pair = self._pairs[top]
        if pair is not None:  # one addition leaves nothing in a cache that the next would want: blocks would only cost calls
            np.add(pair[0], pair[1], out=target[: len(pair[0])])
            return
        for part, steps, result in self._plans[top]:
            goal = target[part.start - self.owned.start : part.stop - self.owned.start]
            for left, right, out in steps[:-1]:
                np.add(left, right, out=out)
            if steps:
                np.add(steps[-1][0], steps[-1][1], out=goal)
            else:
                goal[:] = result


class _Lane:
    """What crosses nodes of one bucket: this rank's slice, and the tail behind it, added with its peers on the other nodes."""

    def __init__(
        self, nodes: Nodes, runs: list[slice], direct: dict[Node, Array] | None, tops: list[Node], bucket: Bucket, dtype: Any
    ) -> None:
        length, tail = bucket.owned.stop - bucket.owned.start, bucket.reach.stop - bucket.piece.stop
        self._nodes, self._bucket, self._length = nodes, bucket, length
        if direct is not None:  # slice and tail lie side by side in the vector itself: nothing is copied
            self._partial = {top: x[bucket.reach] for top, x in direct.items()}
        else:
            self._partial = {top: aligned(length + tail, dtype) for top in tops}
        self._copies = direct is None
        self.root = next(iter(self._partial.values()))
        active = nodes.inside.rank < nodes.lanes
        self._cross: Crossing | None = crossing(nodes.across, runs, length + tail, dtype, np) if active else None
        self.tail = nodes.share([(tail,)] + [(0,)] * (nodes.inside.size - 1), dtype)[0] if tail else np.zeros(0, dtype)

    def cross(self) -> None:
        """Add over the nodes; lane 0 leaves the tail where ranks without a lane read it."""
        if self._cross is not None:
            if self._copies:
                tails = self._bucket.add_tails()
                for k, vector in enumerate(self._partial.values()):
                    self._bucket.add_into(k, vector)
                    vector[self._length :] = tails[k]
            self._cross(dict(self._partial), self.root)
            if self._nodes.inside.rank == 0:
                self.tail[:] = self.root[self._length :]
        if self.tail.size:
            self._nodes.inside.fence()


_Addition = tuple[Array, Array, Array]
_Steps = list[tuple[slice, list[_Addition], Array]]


def _plan(held: dict[Node, Array], top: Node, order: list[tuple[Node, Node]], owned: slice) -> _Steps:
    """Return for each block of the owned slice: its span, the additions (left, right, out), and where the sum then lies."""
    any_vector = next(iter(held.values()))
    scratch = [aligned(min(BLOCK, owned.stop - owned.start), any_vector.dtype) for _ in range(_width(order))]
    plan: _Steps = []
    for first in range(owned.start, owned.stop, BLOCK):
        part = slice(first, min(first + BLOCK, owned.stop))
        where = {node: x[part] for node, x in held.items()}
        free = [x[: part.stop - part.start] for x in scratch]
        steps = []
        for left, right in order:
            mine = [where[node] for node in (left, right) if node not in held]
            out = mine[0] if mine else free.pop(0)
            free[:0] = mine[1:]  # two sums become one: the memory of the other is free again
            steps.append((where[left], where[right], out))
            where[left[0], right[1]] = out
        plan.append((part, steps, where[top]))
    return plan


def _pair(held: dict[Node, Array], top: Node, order: list[tuple[Node, Node]], owned: slice) -> tuple[Array, Array] | None:
    """Return the two vectors whose sum is the subtree's, in the owned span, if it takes just one addition."""
    return (held[order[0][0]][owned], held[order[0][1]][owned]) if len(order) == 1 else None


def _tail_plan(held: dict[Node, Array], top: Node, order: list[tuple[Node, Node]], tail: slice, total: Array) -> list[_Addition]:
    """Return the additions (left, right, out) after which `total` holds one subtree's sum of the tails; none without a tail."""
    if tail.start == tail.stop:
        return []
    where = {node: x[tail] for node, x in held.items()}
    if not order:
        return [(where[top], np.zeros_like(total), total)]
    steps = []
    for left, right in order:
        node = (left[0], right[1])
        out = total if node == top else np.zeros_like(total)
        steps.append((where[left], where[right], out))
        where[node] = out
    return steps


def _width(order: list[tuple[Node, Node]]) -> int:
    """Return how many sums are alive at once while additions are done in this order."""
    alive: set[Node] = set()
    most = 0
    for left, right in order:
        alive -= {left, right}
        alive.add((left[0], right[1]))
        most = max(most, len(alive))
    return most
