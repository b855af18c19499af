"""The fixed binary tree over V virtual workers, whose shape alone decides the bits of every exact sum.

A node is a pair (first, last + 1) of leaves; the root is (0, V); a node's halves meet at its middle. Ranks host runs of leaves,
so each holds a few maximal subtrees, and any rank may add the two halves of a node: IEEE addition of two numbers commutes.
"""

from __future__ import annotations

from collections.abc import Iterator

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


def deepest(counts: list[int]) -> int:
    """Return the most vectors held at once, given the additions after each leaf: a leaf brings one, an addition takes one."""
    held = most = 0
    for count in counts:
        held += 1
        most = max(most, held)
        held -= count
    return most


def crossings(runs: list[slice]) -> list[tuple[Node, Node, int, int]]:
    """Return the additions that complete the tree over holders, children first: (left, right, holder of right, holder of left).

    The holder of the left half adds and afterwards holds the node; the first holds the root at the end.

    Args:
        runs: the leaves of each holder, one run after the other from leaf 0.
    """
    host = hosts(runs)
    found: list[tuple[Node, Node, int, int]] = []

    def visit(node: Node) -> None:
        first, end = node
        if host[first] == host[end - 1]:
            return
        left, right = halves(node)
        visit(left)
        visit(right)
        found.append((left, right, host[right[0]], host[first]))

    visit((0, runs[-1].stop))
    return found


def hosts(runs: list[slice]) -> list[int]:
    """Return the holder of each leaf."""
    return [holder for holder, run in enumerate(runs) for _ in range(run.start, run.stop)]


def additions(top: Node, held: set[Node]) -> list[tuple[Node, Node]]:
    """Return the additions (left, right) that turn the held nodes, which cover all leaves of `top`, into `top`; children first."""
    found: list[tuple[Node, Node]] = []

    def visit(node: Node) -> None:
        if node in held:
            return
        left, right = halves(node)
        visit(left)
        visit(right)
        found.append((left, right))

    visit(top)
    return found
