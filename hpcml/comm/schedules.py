"""All-reduce as arithmetic: who sends what to whom, round by round.

    name                sent by a rank, elements     one after another       best for
    ring                2 n (P - 1) / P              2 (P - 1)               long vectors, few ranks
    halving             2 n (P - 1) / P (* + 1.5 n)  2 log P (* + 3)         long vectors, many ranks
    double-tree         at most 2 n                  about 4 log P + blocks  long vectors, many ranks, any number of them
    binary-tree         at most 3 n                  about 4 log P           few messages
    doubling            n log P (* + n)              log P (* + 2)           short vectors

    * where P is no power of two
Schedules that know which ranks share a node stand in levels.py. `hpcml.comm.costs` counts all this, and the tests compare.

Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.arrays.spans import spans
from hpcml.comm.halving import halving_doubling
from hpcml.comm.transfers import NOTHING, Schedule, Transfer, give, take
from hpcml.comm.trees import binary_tree, double_tree

__all__ = ["NOTHING", "SCHEDULES", "Schedule", "Transfer", "binary_tree", "recursive_doubling", "ring", "ring_gather", "ring_scatter"]


def ring(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Sum around a ring, one chunk a round, then pass the sums around once more."""
    yield from ring_scatter(rank, size, n)
    yield from ring_gather(rank, size, n)


def ring_scatter(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Sum around a ring (reduce-scatter): at the end, rank r holds the sum of chunk r of ``spans(n, P)``; the rest is spoilt."""
    chunk = spans(n, size)
    after, before = (rank + 1) % size, (rank - 1) % size
    for k in range(1, size):
        yield Transfer(after, chunk[(rank - k) % size], before, chunk[(rank - k - 1) % size], add=True)


def ring_gather(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Pass chunks around a ring (all-gather) until every rank has all; at first, rank r holds chunk r of ``spans(n, P)``."""
    chunk = spans(n, size)
    after, before = (rank + 1) % size, (rank - 1) % size
    for k in range(size - 1):
        yield Transfer(after, chunk[(rank - k) % size], before, chunk[(rank - k - 1) % size], add=False)


def recursive_doubling(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Exchange whole vectors with partners 1, 2, 4, ... ranks away; ranks beyond a power of two fold in first."""
    whole = slice(0, n)
    core = 1 << (size.bit_length() - 1)
    extra = rank + core if rank + core < size else None
    if rank >= core:
        yield give(rank - core, whole)
        yield take(rank - core, whole, add=False)
        return
    if extra is not None:
        yield take(extra, whole, add=True)
    distance = 1
    while distance < core:
        partner = rank ^ distance
        yield Transfer(partner, whole, partner, whole, add=True)
        distance *= 2
    if extra is not None:
        yield give(extra, whole)


SCHEDULES: dict[str, Schedule] = {
    "ring": ring,
    "binary-tree": binary_tree,
    "double-tree": double_tree,
    "doubling": recursive_doubling,
    "halving": halving_doubling,
}
"""Every all-reduce that needs to know nothing but (rank, P, n), by name."""
