"""When asynchronous work has ended: every rank is idle, and no letter is on its way. A state machine without messages.

A rank that is idle says how many letters it has sent and taken. Sums that are equal once may be equal by chance, since the ranks spoke
at different times; rank 0 then asks all again, and if nothing has changed nothing can change any more (two waves of four counters).

References:
    Mattern, Algorithms for distributed termination detection, Distributed Computing 2, 1987.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What rank 0 does after a report."""

    WAIT = 0
    ASK = 1
    END = 2


class Termination:
    """What rank 0 knows of the others."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._now: dict[int, tuple[int, int]] = {}
        self._before: dict[int, tuple[int, int]] = {}

    def report(self, rank: int, sent: int, taken: int) -> Verdict:
        """Take the report of an idle rank: its letters so far. Each rank reports once when it becomes idle, and once a wave."""
        self._now[rank] = (sent, taken)
        if len(self._now) < self._ranks:
            return Verdict.WAIT
        if self._now == self._before and sum(s for s, _ in self._now.values()) == sum(t for _, t in self._now.values()):
            return Verdict.END
        self._before, self._now = self._now, {}
        return Verdict.ASK
