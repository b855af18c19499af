"""Recursive halving and doubling: the fewest bytes in about 2 log P rounds, for any number of ranks.

Source: Rabenseifner, Optimization of collective reduction operations, ICCS 2004; the fold-in there is by halves of the vector, as here.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.arrays.spans import spans
from hpcml.comm.transfers import Transfer, give, take


def halving_doubling(rank: int, size: int, n: int) -> Iterator[Transfer]:
    """Add ever smaller halves with partners 1, 2, 4, ... places away, then collect them on the way back.

    Of P ranks the first 2 (P - 2^k) stand in pairs: a pair shares the addition of its two vectors, the even one
    goes on with the sum as one of 2^k places, and hands the odd one the result.
    """
    whole, (first, second) = slice(0, n), spans(n, 2)
    core = 1 << (size.bit_length() - 1)
    pairs = size - core
    paired = rank < 2 * pairs
    if paired and rank % 2:
        yield Transfer(rank - 1, first, rank - 1, second, add=True)
        yield give(rank - 1, second)
        yield take(rank - 1, whole, add=False)
        return
    if paired:
        yield Transfer(rank + 1, second, rank + 1, first, add=True)
        yield take(rank + 1, second, add=False)
    yield from _among_places(rank // 2 if paired else rank - pairs, core, n, pairs)
    if paired:
        yield give(rank + 1, whole)


def _among_places(place: int, core: int, n: int, pairs: int) -> Iterator[Transfer]:
    """Yield the rounds of one of `core` places, a power of two; the nearest partner gets the largest half."""
    held = slice(0, n)
    trail: list[tuple[int, slice, slice]] = []
    distance = 1
    while distance < core:
        other = place ^ distance
        partner = 2 * other if other < pairs else other + pairs
        middle = (held.start + held.stop) // 2
        kept, given = slice(held.start, middle), slice(middle, held.stop)
        if place & distance:
            kept, given = given, kept
        yield Transfer(partner, given, partner, kept, add=True)
        trail.append((partner, kept, given))
        held = kept
        distance *= 2
    for partner, kept, given in reversed(trail):
        yield Transfer(partner, kept, partner, given, add=False)
