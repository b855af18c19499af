"""What a schedule is made of: rounds of one rank, as arithmetic.

Letters: P ranks, n elements. A schedule is a pure function of (rank, P, n) that yields this rank's rounds;
run on every rank in step, they leave the sum of all P vectors on each. Whoever adds, adds what arrived to what it holds.
No round may count on a message being buffered: it ends when both of its halves have met their counterparts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace


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


def give(to: int, span: slice) -> Transfer:
    """Return the round that only sends."""
    return Transfer(to, span, None, NOTHING, add=False)


def take(source: int, span: slice, *, add: bool) -> Transfer:
    """Return the round that only receives."""
    return Transfer(None, NOTHING, source, span, add=add)


def within(schedule: Schedule, group: Sequence[int], rank: int, span: slice) -> Iterator[Transfer]:
    """Yield the rounds of a schedule among the ranks of a group, over one span of the vector; `rank` is one of the group."""

    def moved(inner: slice) -> slice:
        return slice(inner.start + span.start, inner.stop + span.start)

    for t in schedule(group.index(rank), len(group), span.stop - span.start):
        to = None if t.to is None else group[t.to]
        source = None if t.source is None else group[t.source]
        yield Transfer(to, moved(t.send), source, moved(t.receive), t.add)


def rounds(transfers: Iterable[Transfer]) -> list[Transfer]:
    """Return the rounds that carry anything; both sides of a message know its length, so both leave an empty one out."""
    found = []
    for t in transfers:
        sends, receives = t.to is not None and t.send.stop > t.send.start, t.source is not None and t.receive.stop > t.receive.start
        if sends and receives:
            found.append(t)
        elif sends:
            found.append(replace(t, source=None, receive=NOTHING, add=False))
        elif receives:
            found.append(replace(t, to=None, send=NOTHING))
    return found
