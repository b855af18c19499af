"""The part of the exact tree that crosses ranks, by one of two roads with the same bits.

whole    up the tree to the first holder in about log P rounds, then one broadcast: few messages, for short vectors
sliced   rank r gathers everybody's partial sums of slice r, adds them in tree order, and the slices go around a ring:
2 n (P - 1) / P elements sent by a rank that holds one subtree, for long vectors
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpcml.arrays import Array, spans
from hpcml.comm.communicator import Communicator
from hpcml.comm.schedules import ring_gather
from hpcml.sync.tree import Node, additions, crossings, hosts, subtrees

SLICED_FROM = 16_384
"""Elements of a slice from which slicing pays: below, the P - 1 messages cost more than their bytes."""

Crossing = Callable[[dict[Node, Array], Array], None]
"""(the partial sums that this rank holds, root) -> None; overwrites root with the sum over the whole tree, spoils the rest."""


def crossing(comm: Communicator, runs: list[slice], length: int, dtype: Any, xp: Any) -> Crossing:
    """Return the road across holders for vectors of this length; its memory is allocated here, once.

    Args:
        comm: the holders.
        runs: the leaves of each holder, one run after the other from leaf 0.
        length: elements of a vector.
        dtype: of the vectors.
        xp: numpy or cupy.
    """
    if comm.size == 1:
        return lambda partial, root: None
    if length // comm.size < SLICED_FROM:
        return whole(comm, runs, length, dtype, xp)
    return sliced(comm, runs, length, dtype, xp)


def whole(comm: Communicator, runs: list[slice], length: int, dtype: Any, xp: Any) -> Crossing:
    """Return the road of whole vectors: up to the rank that holds leaf 0, then a broadcast."""
    first = hosts(runs)[0]
    steps = [step for step in crossings(runs) if comm.rank in step[2:]]
    came = xp.zeros(length, dtype)

    def run(partial: dict[Node, Array], root: Array) -> None:
        for left, right, sender, adder in steps:
            if comm.rank != adder:
                comm.exchange(partial[right], adder, None, None)
                continue
            if sender == adder:
                partial[left] += partial[right]
            else:
                comm.exchange(None, None, came, sender)
                partial[left] += came
            partial[left[0], right[1]] = partial[left]
        comm.broadcast(root, first)

    return run


def sliced(comm: Communicator, runs: list[slice], length: int, dtype: Any, xp: Any) -> Crossing:
    """Return the road of slices: every rank adds one slice of everybody's partial sums."""
    cut = spans(length, comm.size)
    mine = cut[comm.rank]
    workers = runs[-1].stop
    held = [subtrees(run, workers) for run in runs]
    order = additions((0, workers), {node for nodes in held for node in nodes})
    foreign = {node: xp.zeros(mine.stop - mine.start, dtype) for rank, nodes in enumerate(held) if rank != comm.rank for node in nodes}
    rounds = list(ring_gather(comm.rank, comm.size, length))

    def swap(partial: dict[Node, Array], to: int, source: int) -> None:
        for k in range(max(len(held[comm.rank]), len(held[source]))):
            send = held[comm.rank][k] if k < len(held[comm.rank]) else None
            came = held[source][k] if k < len(held[source]) else None
            comm.exchange(
                None if send is None else partial[send][cut[to]],
                None if send is None else to,
                None if came is None else foreign[came],
                None if came is None else source,
            )

    def run(partial: dict[Node, Array], root: Array) -> None:
        for k in range(1, comm.size):
            swap(partial, (comm.rank + k) % comm.size, (comm.rank - k) % comm.size)
        values = foreign | {node: x[mine] for node, x in partial.items()}
        for left, right in order:
            values[left] += values[right]
            values[left[0], right[1]] = values[left]
        root[mine] = values[0, workers]
        for t in rounds:
            comm.exchange(root[t.send], t.to, root[t.receive], t.source)

    return run
