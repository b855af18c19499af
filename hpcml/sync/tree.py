"""The fixed binary tree over V virtual workers, whose shape alone decides the bits of every exact sum.

A node is a pair (first, last + 1) of leaves; the root is (0, V); a node's halves meet at its middle. Ranks host runs of leaves,
so each holds a few maximal subtrees, and any rank may add the two halves of a node: IEEE addition of two numbers commutes.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.arrays import spans

Node = tuple[int, int]


def halves(node: Node) -> tuple[Node, Node]:
    """Return the two children of a node of two leaves or more."""
    first, end = node
    middle = (first + end) // 2
    return (first, middle), (middle, end)


def subtrees(run: slice, workers: int) -> list[Node]:
    """Return the fewest nodes of the tree over `workers` leaves that cover exactly the leaves of `run`, left to right."""

    def cover(node: Node) -> Iterator[Node]:
        first, end = node
        if end <= run.start or run.stop <= first:
            return
        if run.start <= first and end <= run.stop:
            yield node
            return
        for half in halves(node):
            yield from cover(half)

    return list(cover((0, workers))) if run.stop > run.start else []


def merges(run: slice, workers: int) -> list[int]:
    """Return, for each leaf of `run` in order, how many additions of the two newest partial sums follow it."""
    counts = [0] * (run.stop - run.start)

    def visit(node: Node) -> None:
        if node[1] - node[0] > 1:
            for half in halves(node):
                visit(half)
            counts[node[1] - 1 - run.start] += 1

    for node in subtrees(run, workers):
        visit(node)
    return counts


def crossings(workers: int, ranks: int) -> list[tuple[Node, Node, int, int]]:
    """Return the additions that complete the tree over ranks, children first: (left, right, holder of right, holder of left).

    The holder of the left half adds and afterwards holds the node; rank 0 holds the root at the end.
    """
    host = hosts(workers, ranks)
    found: list[tuple[Node, Node, int, int]] = []

    def visit(node: Node) -> None:
        first, end = node
        if host[first] == host[end - 1]:
            return
        left, right = halves(node)
        visit(left)
        visit(right)
        found.append((left, right, host[right[0]], host[first]))

    visit((0, workers))
    return found


def hosts(workers: int, ranks: int) -> list[int]:
    """Return the rank that hosts each worker."""
    return [rank for rank, run in enumerate(spans(workers, ranks)) for _ in range(run.start, run.stop)]


def additions(workers: int, held: set[Node]) -> list[tuple[Node, Node]]:
    """Return the additions (left, right) that turn the held nodes, which cover all leaves, into the root; children first."""
    found: list[tuple[Node, Node]] = []

    def visit(node: Node) -> None:
        if node in held:
            return
        left, right = halves(node)
        visit(left)
        visit(right)
        found.append((left, right))

    visit((0, workers))
    return found
