"""All-reduce for ranks that share nodes: the network carries each number of a node once, whatever the ranks in it.

    name        through the network, a node     inside a node, a rank
    two-level   2 n (N - 1) / N, one rank       at most 3 n: a tree to the node's first rank and back
    lanes       2 n (N - 1) / N, every rank     2 n (M - 1) / M: each rank of a node has a slice (its lane)

Letters: N nodes, M ranks of a node (they may differ), n elements. `nodes` gives the node of every rank, by any number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpcml.arrays.spans import spans
from hpcml.comm.halving import halving_doubling
from hpcml.comm.transfers import Schedule, Transfer, within
from hpcml.comm.trees import down_tree, up_tree
from hpcml.errors import CommError


def two_level(nodes: Sequence[int], across: Schedule = halving_doubling) -> Schedule:
    """Return the schedule that sums to each node's first rank, among those, and back into the nodes.

    Args:
        nodes: the node of every rank.
        across: the all-reduce among the first ranks.
    """
    members = _members(nodes)

    def schedule(rank: int, size: int, n: int) -> Iterator[Transfer]:
        _require_all(nodes, size)
        whole = slice(0, n)
        mine = members[nodes[rank]]
        yield from within(up_tree, mine, rank, whole)
        if rank == mine[0]:
            yield from within(across, [group[0] for group in members.values()], rank, whole)
        yield from within(down_tree, mine, rank, whole)

    return schedule


def lanes(nodes: Sequence[int], across: Schedule | None = None) -> Schedule:
    """Return the schedule in which each rank of a node sums one slice inside it, all-reduces it with its peers, and hands it round.

    There are as many lanes as the largest node has ranks; in a smaller node a rank serves several, so that
    no port of any node rests while its node has bytes to send.

    Args:
        nodes: the node of every rank.
        across: the all-reduce of one lane among the nodes; halving and doubling when left out.
    """
    members = _members(nodes)
    count = max(len(group) for group in members.values())
    road = halving_doubling if across is None else across

    def schedule(rank: int, size: int, n: int) -> Iterator[Transfer]:
        _require_all(nodes, size)
        cut = spans(n, count)
        mine = members[nodes[rank]]
        served = spans(count, len(mine))
        slices = [slice(cut[run.start].start, cut[run.stop - 1].stop) for run in served]
        yield from within(_scatter(slices), mine, rank, slice(0, n))
        own = served[mine.index(rank)]
        for lane in range(own.start, own.stop):
            peers = [group[_server(lane, count, len(group))] for group in members.values()]
            yield from within(road, peers, rank, cut[lane])
        yield from within(_gather(slices), mine, rank, slice(0, n))

    return schedule


def _scatter(slices: Sequence[slice]) -> Schedule:
    """Return the reduce-scatter in which everybody sends each slice straight to the rank of that number."""

    def schedule(rank: int, size: int, n: int) -> Iterator[Transfer]:
        for k in range(1, size):
            to, source = (rank + k) % size, (rank - k) % size
            yield Transfer(to, slices[to], source, slices[rank], add=True)

    return schedule


def _gather(slices: Sequence[slice]) -> Schedule:
    """Return the all-gather in which every rank sends its slice straight to the others."""

    def schedule(rank: int, size: int, n: int) -> Iterator[Transfer]:
        for k in range(1, size):
            to, source = (rank + k) % size, (rank - k) % size
            yield Transfer(to, slices[rank], source, slices[source], add=False)

    return schedule


def _server(lane: int, count: int, members: int) -> int:
    """Return which member of a node serves a lane: the one whose span of ``spans(count, members)`` holds it."""
    return next(k for k, run in enumerate(spans(count, members)) if run.start <= lane < run.stop)


def _members(nodes: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for rank, node in enumerate(nodes):
        found.setdefault(node, []).append(rank)
    return found


def _require_all(nodes: Sequence[int], size: int) -> None:
    if len(nodes) != size:
        raise CommError(f"the map of nodes names {len(nodes)} ranks, the world has {size}; give the node of every rank")
