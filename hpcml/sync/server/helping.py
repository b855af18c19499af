"""Helping within a bound: who is held at it, or has no more work, does the next portion of the lane of which fewest were dealt.

It writes it as that lane's tick: so the bound moves on, and nobody is stuck behind a slow worker. A lane's clock is the number of its
portions that are done, whoever did them. Before a helper computes step d of a lane it reads the parameters once every lane has d - s
ticks: the law of SSP for a reader at clock d. What is offered to a worker that is held is never ahead of its own lane. So whoever has
the earliest portion of the lane with fewest ticks may read for it, or is about to: nobody waits in a circle.
Letters: S shards, s the bound, d steps.

References:
    Harlap et al., Addressing the straggler problem for iterative convergent parallel ML (FlexRR), SoCC 2016.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcml.sync.server.deal import Portion
from hpcml.sync.server.letters import HEAD_BYTES, Field, Kind, dense, head, note, write_head

if TYPE_CHECKING:
    from hpcml.sync.server.client import Client, Program
    from hpcml.sync.server.dealing import Dealing, Dealt


class Helper:
    """One worker's part in others' lanes, in one epoch.

    Args:
        client: the worker.
        bound: s.
    """

    def __init__(self, client: Client, bound: int) -> None:
        self._client, self._bound = client, bound
        self.held = False
        self._sights: dict[int, np.ndarray] = {}
        self._written = 0

    def following(self, dealing: Dealing) -> Dealt:
        """Yield until the worker's next portion is known: its own once it may read for it, or one to help with meanwhile."""
        lane = self._client.lane
        if lane.script is not None or lane.stopped:
            return (yield from dealing.following(lane))
        yield from dealing.know(lane)
        portion = None
        while portion is None and not lane.over:
            yield lambda: self.held or self._client.all_answered()
            self.held = False
            if self._client.all_answered():
                portion = dealing.take(lane)
            else:
                # The worker's last write makes its clock one more than it has read; what is offered is no further.
                portion = yield from dealing.offer(lane, self._client.clock + 2)
        portion = portion or (yield from dealing.offer(lane, dealing.steps))
        if portion is not None:
            lane.taken.append(portion)
        return portion

    def read(self, portion: Portion) -> Program:
        """Bring the worker's copy up to date for a portion of another's lane."""
        client = self._client
        for shard, home in enumerate(client.homes):
            need = max(0, portion[1] - self._bound)
            letter = note(client.post.mail, Kind.LOOK, client.unit, shard, need, extra=portion[1])
            client.post.send(home, letter, shard)
        yield lambda: len(self._sights) == len(client.homes) or client.lane.stopped
        while self._sights:  # after an error some may still come meanwhile
            client.read(self._sights.popitem()[1])

    def write(self, lane: int) -> None:
        """Write the gradient to every shard as a tick of another worker's lane; nothing is answered, and nothing kept back."""
        client = self._client
        for shard, span in enumerate(client.spans):
            letter = dense(client.post.mail, span.stop - span.start, client.arena.dtype)
            write_head(letter, Kind.HELP, client.unit, shard, self._written, extra=lane)
            letter[HEAD_BYTES:].view(client.arena.dtype)[:] = client.grad[span]
            client.post.send(client.homes[shard], letter, shard)
        self._written += 1

    def deliver(self, letter: np.ndarray) -> None:
        """Take the parameters of a shard."""
        self._sights[int(head(letter)[Field.SHARD])] = letter
