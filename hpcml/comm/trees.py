"""All-reduce over trees: one binary tree, and two that share the work of every rank.

In the double tree each tree carries half of the vector, cut into blocks. A rank that has children in one tree is a leaf of the
other, so none sends more than 2 n elements; and the edges of both trees together wear two colours such that no rank sends twice
or receives twice in a round: the colours take turns, and blocks flow without waiting.

Sources: Sanders, Speck and Traeff, Two-tree algorithms for full bandwidth broadcast, reduction and scan, Parallel Computing 2009;
the trees are numbered in order, the second is the first mirrored (P even) or moved on by one (P odd).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from hpcml.arrays.spans import spans
from hpcml.comm.transfers import NOTHING, Transfer, give, take

BLOCK = 1 << 15
"""Elements of a block: 128 KB of float32, long enough that its bytes cost more than its message, short enough for a cache."""


def binary_tree(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Sum up a binary tree to rank 0, then send the sum down the same tree."""
    yield from up_tree(rank, size, n)
    yield from down_tree(rank, size, n)


def up_tree(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Sum up a binary tree: at the end rank 0 holds the sum, the others partial sums."""
    for child in _children(rank, size):
        yield take(child, slice(0, n), add=True)
    if rank:
        yield give((rank - 1) // 2, slice(0, n))


def down_tree(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Send rank 0's vector down a binary tree."""
    if rank:
        yield take((rank - 1) // 2, slice(0, n), add=False)
    for child in _children(rank, size):
        yield give(child, slice(0, n))


def _children(rank: int, size: int) -> list[int]:
    return [child for child in (2 * rank + 1, 2 * rank + 2) if child < size]


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of the two trees: block b goes down from parent to child in round ``first + 2 b``, of the edge's colour."""

    tree: int
    parent: int
    child: int
    first: int


def double_tree(rank: int, size: int, n: int, block: int = BLOCK) -> Iterator[Transfer]:
    """Sum each half of the vector up its own tree and send it down again, block by block in two colours that take turns.

    Args:
        rank: this rank.
        size: P.
        n: elements.
        block: elements of a block, at least 1.
    """
    count = max(1, -(-n // (2 * block)))
    blocks = [_cut(half, count) for half in spans(n, 2)]
    above = {e.first + 2 * b: (e.parent, blocks[e.tree][b]) for e in two_trees(size) if e.child == rank for b in range(count)}
    below = {e.first + 2 * b: (e.child, blocks[e.tree][b]) for e in two_trees(size) if e.parent == rank for b in range(count)}
    steps = sorted(above.keys() | below.keys())
    # The way up is the way down played backwards: who would receive sends, who would send receives and adds.
    for step in reversed(steps):
        yield _round(above.get(step), below.get(step), add=step in below)
    for step in steps:
        yield _round(below.get(step), above.get(step), add=False)


def _round(out: tuple[int, slice] | None, came: tuple[int, slice] | None, add: bool) -> Transfer:
    to, send = out or (None, NOTHING)
    source, receive = came or (None, NOTHING)
    return Transfer(to, send, source, receive, add)


def _cut(span: slice, count: int) -> list[slice]:
    return [slice(span.start + cut.start, span.start + cut.stop) for cut in spans(span.stop - span.start, count)]


@lru_cache(maxsize=8)
def two_trees(size: int) -> tuple[Edge, ...]:
    """Return the edges of both trees over P ranks; costs O(P log P), once a world size."""
    parents = {(tree, child): parent for tree in (0, 1) for child in range(size) if (parent := _parent(tree, child, size)) is not None}
    colours = _two_colours(parents)
    first: dict[tuple[int, int], int] = {}
    for key in parents:
        path = [key]
        while path[-1] not in first and (path[-1][0], parents[path[-1]]) in parents:
            path.append((path[-1][0], parents[path[-1]]))
        for tree, child in reversed(path):
            earliest = first.get((tree, parents[tree, child]), -1) + 1
            first[tree, child] = earliest + (earliest + colours[tree, child]) % 2
    return tuple(Edge(tree, parent, child, first[tree, child]) for (tree, child), parent in parents.items())


def _parent(tree: int, rank: int, size: int) -> int | None:
    """Return a rank's parent: trees are numbered in order, odd places are leaves, place 0 is the root and has one child."""
    turned = tree == 1
    place = rank if not turned else (rank - 1) % size if size % 2 else size - 1 - rank
    if place == 0:
        return None
    bit = place & -place
    above = (place ^ bit) | (bit << 1)
    if above >= size:
        above = place ^ bit
    return above if not turned else (above + 1) % size if size % 2 else size - 1 - above


def _two_colours(parents: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Colour the edges so that no rank has two edges of one colour to its children, nor two to its parents.

    Each rank has at most two of either, so edges that meet form paths and even cycles: walking along them, colours alternate.
    """
    meeting: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for (tree, child), parent in parents.items():
        meeting.setdefault(("down", parent), []).append((tree, child))
        meeting.setdefault(("up", child), []).append((tree, child))
    colours: dict[tuple[int, int], int] = {}
    for start in parents:
        pending = [(start, 0)]
        while pending:
            edge, colour = pending.pop()
            if edge not in colours:
                colours[edge] = colour
                ends = meeting["down", parents[edge]] + meeting["up", edge[1]]
                pending += [(other, 1 - colour) for other in ends if other != edge]
    return colours
