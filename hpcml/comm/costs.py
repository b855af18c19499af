"""What a schedule costs, counted before anything is sent; and a rehearsal that plays it on all ranks in one process.

Letters: P ranks, n elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpcml.comm.transfers import Schedule, Transfer, rounds
from hpcml.errors import CommError


@dataclass(frozen=True, slots=True)
class Cost:
    """What the busiest rank sends: messages and elements."""

    messages: int
    elements: int

    def __str__(self) -> str:
        return f"{self.messages} messages, {self.elements:,} elements a rank"


def sent(schedule: Schedule, rank: int, size: int, n: int) -> Cost:
    """Return what one rank sends; costs its rounds alone, whatever P."""
    gives = [t for t in rounds(schedule(rank, size, n)) if t.to is not None]
    return Cost(len(gives), sum(t.send.stop - t.send.start for t in gives))


def cost(schedule: Schedule, size: int, n: int) -> Cost:
    """Return the most messages and the most elements that any rank sends."""
    each = [sent(schedule, rank, size, n) for rank in range(size)]
    return Cost(max(one.messages for one in each), max(one.elements for one in each))


def lower_bound(size: int, n: int) -> float:
    """Return the elements that some rank must send in any all-reduce of n elements: 2 n (P - 1) / P.

    References:
        Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, JPDC 2009.
    """
    return 2 * n * (size - 1) / size


class _Player:
    """One rank of a rehearsal: its rounds, and how much of the present one is done."""

    def __init__(self, transfers: list[Transfer], vector: np.ndarray | None) -> None:
        self.left: Iterator[Transfer] = iter(transfers)
        self.vector = vector
        self.clock = self.end = 0
        self.turn: Transfer | None = None
        self.landed: np.ndarray | None = None
        self.advance()

    def advance(self) -> None:
        """Go on to the next round."""
        self.turn = next(self.left, None)
        self.sends = self.turn is not None and self.turn.to is not None
        self.receives = self.turn is not None and self.turn.source is not None

    def settle(self) -> None:
        """End the round if both halves are done: what came is added or put in place."""
        if self.turn is None or self.sends or self.receives:
            return
        if self.vector is not None and self.landed is not None:
            if self.turn.add:
                self.vector[self.turn.receive] += self.landed
            else:
                self.vector[self.turn.receive] = self.landed
        self.landed, self.clock = None, self.end
        self.advance()


def rehearse(schedule: Schedule, size: int, n: int, vectors: Sequence[np.ndarray] | None = None) -> int:
    """Play a schedule on all ranks, no message buffered, and return how many messages follow one another at most.

    Args:
        schedule: of an all-reduce.
        size: P.
        n: elements.
        vectors: one a rank, (n,), overwritten with the sums; left out, only the messages are matched.

    Raises:
        CommError: if ranks would wait for ever, or the two sides of a message differ in length.
    """
    players = [_Player(rounds(schedule(rank, size, n)), None if vectors is None else vectors[rank]) for rank in range(size)]
    while sum(_deliver(rank, players) for rank in range(size)):
        pass
    stuck = [f"rank {rank} in {player.turn}" for rank, player in enumerate(players) if player.turn is not None]
    if stuck:
        raise CommError(f"{len(stuck)} of {size} ranks would wait for ever: {'; '.join(stuck[:4])}")
    return max(player.clock for player in players)


def _deliver(rank: int, players: list[_Player]) -> bool:
    """Pass on the message that a rank holds out, if its receiver is ready for it; return whether it was."""
    sender = players[rank]
    if not sender.sends or sender.turn is None or sender.turn.to is None:
        return False
    receiver = players[sender.turn.to]
    if not receiver.receives or receiver.turn is None or receiver.turn.source != rank:
        return False
    lengths = [span.stop - span.start for span in (sender.turn.send, receiver.turn.receive)]
    if lengths[0] != lengths[1]:
        raise CommError(f"rank {rank} sends {lengths[0]} elements where rank {sender.turn.to} expects {lengths[1]}")
    if sender.vector is not None:
        receiver.landed = sender.vector[sender.turn.send].copy()
    sender.sends = receiver.receives = False
    for player in (sender, receiver):
        player.end = max(player.end, sender.clock + 1, receiver.clock + 1)
    for player in (sender, receiver):
        player.settle()
    return True
