"""Where the workers of one rank get their portions: from their own lanes, from a record, or from the desk, which lets them take over.

The desk is one rank; a worker asks it for one portion ahead, so that the answer comes while this one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from hpcml.sync.server.client import Client
from hpcml.sync.server.deal import Deal, Portion
from hpcml.sync.server.letters import Field, Kind, note
from hpcml.sync.server.post import Post

DESK = 0
"""The rank that deals portions and finds out when all work is done."""


class Dealing:
    """The portions of one epoch, as one rank sees them.

    Args:
        post: the rank's letters.
        workers: V.
        steps: portions of a lane.
        stealing: whether workers take over others' portions.
        replaying: whether clients have a record to follow.
    """

    def __init__(self, post: Post, workers: int, steps: int, stealing: bool, replaying: bool) -> None:
        self._post, self._asks, self._replaying = post, stealing and not replaying, replaying
        self._deal = Deal(workers, steps, stealing)

    def following(self, client: Client) -> Generator[Callable[[], bool], None, Portion | None]:
        """Yield until a worker's next portion is known, and return it, or None at the end of its work."""
        if self._asks:
            if not client.taken:
                self._ask(client)
            yield lambda: bool(client.dealt)
            portion = client.dealt.popleft()
        elif client.must_end:
            portion = None
        elif self._replaying:
            portion = client.script.popleft() if client.script else None
        else:
            portion = self._deal.take(client.worker)
        if portion is not None:
            client.taken.append(portion)
            if self._asks:
                self._ask(client)
        return portion

    def _ask(self, client: Client) -> None:
        self._post.send(DESK, note(self._post.mail, Kind.TICKET, client.worker))

    def answer(self, source: int, worker: int) -> None:
        """Give a worker of another rank its next portion; only the desk is asked."""
        lane, step = self._deal.take(worker) or (-1, -1)
        self._post.send(source, note(self._post.mail, Kind.PORTION, worker, clock=step, extra=lane), -1)

    def hand(self, client: Client, fields: np.ndarray) -> None:
        """Give a worker of this rank what the desk has answered."""
        lane = int(fields[Field.EXTRA])
        client.dealt.append(None if lane < 0 or client.stopped else (lane, int(fields[Field.CLOCK])))
