"""Where the workers of one rank get their portions: from their own lanes, from a record, or from the desk, which lets them take over.

The desk is one rank; a worker asks it for one portion of its lane ahead, so that the answer comes while this one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from hpcml.sync.server.deal import Deal, Lane, Portion
from hpcml.sync.server.letters import Field, Kind, head, note
from hpcml.sync.server.post import Post

DESK = 0
"""The rank that deals portions and finds out when all work is done."""

Dealt = Generator[Callable[[], bool], None, Portion | None]
"""Yields until a worker's next portion is known, and returns it, or None at the end of its work."""


class Dealing:
    """The portions of one epoch, as one rank sees them.

    Args:
        post: the rank's letters.
        workers: V.
        steps: portions of a lane.
        stealing: whether workers take over others' portions.
    """

    def __init__(self, post: Post, workers: int, steps: int, stealing: bool) -> None:
        self._post, self.steps, self._stealing, self._deal = post, steps, stealing, Deal(workers, steps)

    def following(self, lane: Lane) -> Dealt:
        """Yield until a worker's next portion is known: of its lane, then, where that is allowed, of the one furthest behind."""
        if lane.stopped:
            portion = None
        elif lane.script is not None:
            portion = lane.script.popleft() if lane.script else None
        elif not self._stealing:
            portion = self._deal.take(lane.worker)
        else:
            portion = (yield from self._own(lane)) or (yield from self.offer(lane, self.steps))
        if portion is not None:
            lane.taken.append(portion)
        return portion

    def _own(self, lane: Lane) -> Dealt:
        yield from self.know(lane)
        return self.take(lane)

    def know(self, lane: Lane) -> Generator[Callable[[], bool], None, None]:
        """Yield until the desk has said what comes next in a worker's own lane."""
        if not lane.asked:
            lane.asked = True
            self._ask(lane)
        if not lane.over:
            yield lambda: bool(lane.dealt)
            lane.over = lane.dealt[0] is None

    def take(self, lane: Lane) -> Portion | None:
        """Return the portion of a worker's own lane that is known to come next, and ask for the one after it."""
        if lane.over:
            return None
        self._ask(lane)
        return lane.dealt.popleft()

    def offer(self, lane: Lane, below: int) -> Dealt:
        """Yield until the desk has answered whether any lane's next step is below a number, and return that portion, or None."""
        self._ask(lane, below)
        yield lambda: bool(lane.offered)
        return lane.offered.popleft()

    def _ask(self, lane: Lane, below: int = 0) -> None:
        """Ask for the next portion of a worker's lane, or, with a number, for one of any lane below it."""
        self._post.send(DESK, note(self._post.mail, Kind.TICKET, lane.worker, clock=below), -1)

    def answer(self, source: int, worker: int, below: int) -> None:
        """Give a worker a portion; only the desk is asked."""
        lane, step = (self._deal.help(below) if below else self._deal.take(worker)) or (-1, -1)
        letter = note(self._post.mail, Kind.PORTION, worker, clock=step, extra=lane)
        head(letter)[Field.ANSWER] = below
        self._post.send(source, letter, -1)

    def hand(self, lane: Lane, fields: np.ndarray) -> None:
        """Give a worker of this rank what the desk has answered."""
        found = int(fields[Field.EXTRA])
        portion = None if found < 0 or lane.stopped else (found, int(fields[Field.CLOCK]))
        (lane.offered if fields[Field.ANSWER] else lane.dealt).append(portion)
