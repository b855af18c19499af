"""All-reduce as arithmetic: who sends what to whom, round by round.

Letters: P ranks, n elements. A schedule is a pure function of (rank, P, n) that yields this rank's rounds;
run on every rank in step, they leave the sum of all P vectors on each. Whoever adds, adds what arrived to what it holds.

    name                rounds          elements sent by a rank
    ring                2 (P - 1)       2 n (P - 1) / P          best for long vectors
    binary_tree         about 2 log P   at most 3 n              few messages at a time
    recursive_doubling  log P           n log P                  best for short vectors; 2 rounds more where P is no power of two

Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpcml.arrays.spans import spans


@dataclass(frozen=True, slots=True)
class Transfer:
    """One round of one rank: send a span to a rank, receive a span from a rank, add it or overwrite with it."""

    to: int | None
    send: slice
    source: int | None
    receive: slice
    add: bool


Schedule = Callable[[int, int, int], Iterator[Transfer]]
"""(rank, P, n) -> the rounds of that rank."""

NOTHING = slice(0, 0)


def ring(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Sum around a ring, one chunk a round, then pass the sums around once more."""
    chunk = spans(n, size)
    after, before = (rank + 1) % size, (rank - 1) % size
    for k in range(size - 1):
        yield Transfer(after, chunk[(rank - k) % size], before, chunk[(rank - k - 1) % size], add=True)
    yield from _around(rank, size, chunk, first=rank + 1)


def ring_gather(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Pass chunks around a ring until every rank has all; at first, rank r holds chunk r of ``spans(n, P)``."""
    yield from _around(rank, size, spans(n, size), first=rank)


def _around(rank: int, size: int, chunk: list[slice], first: int) -> Iterator[Transfer]:
    after, before = (rank + 1) % size, (rank - 1) % size
    for k in range(size - 1):
        yield Transfer(after, chunk[(first - k) % size], before, chunk[(first - k - 1) % size], add=False)


def binary_tree(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Sum up a binary tree to rank 0, then send the sum down the same tree."""
    whole = slice(0, n)
    parent = (rank - 1) // 2 if rank else None
    children = [child for child in (2 * rank + 1, 2 * rank + 2) if child < size]
    for child in children:
        yield Transfer(None, NOTHING, child, whole, add=True)
    if parent is not None:
        yield Transfer(parent, whole, None, NOTHING, add=False)
        yield Transfer(None, NOTHING, parent, whole, add=False)
    for child in children:
        yield Transfer(child, whole, None, NOTHING, add=False)


def recursive_doubling(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Exchange whole vectors with partners 1, 2, 4, ... ranks away; ranks beyond a power of two fold in first."""
    whole = slice(0, n)
    core = 1 << (size.bit_length() - 1)
    extra = rank + core if rank + core < size else None
    if rank >= core:
        yield Transfer(rank - core, whole, None, NOTHING, add=False)
        yield Transfer(None, NOTHING, rank - core, whole, add=False)
        return
    if extra is not None:
        yield Transfer(None, NOTHING, extra, whole, add=True)
    distance = 1
    while distance < core:
        partner = rank ^ distance
        yield Transfer(partner, whole, partner, whole, add=True)
        distance *= 2
    if extra is not None:
        yield Transfer(extra, whole, None, NOTHING, add=False)


SCHEDULES: dict[str, Schedule] = {"ring": ring, "binary-tree": binary_tree, "doubling": recursive_doubling}
