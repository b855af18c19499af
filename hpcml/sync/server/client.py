"""A worker's side of a parameter server: its copy of the parameters, what it owes, and what it waits for.

A worker's work is a generator: it yields a question, and goes on when the answer is yes. So one rank can host several workers.
Letters: n parameters, S shards; one letter a shard is open at most, and what comes meanwhile is added to what is owed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Protocol

import numpy as np

from hpcml.arrays import aligned
from hpcml.nn.arena import Arena, Tail
from hpcml.sync.server.deal import Lane, Portion
from hpcml.sync.server.helping import Helper
from hpcml.sync.server.letters import HEAD_BYTES, Field, Kind, body, dense, head, note, positions, weight, write_head
from hpcml.sync.server.measures import Measures
from hpcml.sync.server.post import Post
from hpcml.sync.server.shard import WHOLE
from hpcml.sync.server.teams import Team, Waiting

Program = Generator[Callable[[], bool], None, None]
"""A worker's work: yields what must hold before it goes on."""


class Work(Protocol):
    """What the trainer does for a worker."""

    steps: int
    """Portions of a lane in an epoch."""

    @property
    def epoch(self) -> int:
        """The number of the epoch that is worked on."""

    def compute(self, worker: int, portion: Portion) -> None:
        """Leave in the arena the sums over the portion's rows at the parameters that it points to: gradient and tail."""

    def drop(self, worker: int, portion: Portion) -> None:
        """Count the portion's rows as too late, without computing anything."""

    def withdraw(self, worker: int) -> None:
        """Count the rows of the worker's last gradient as too late after all."""


def always() -> bool:
    """Return True: the worker has no reason to wait, but others on its rank may have work."""
    return True


class Client:
    """One hosted worker.

    Args:
        worker: its number.
        arena: of the model, pointed at this worker's copy while it computes.
        spans: of the shards.
        homes: the rank of each shard.
        post: the rank's letters.
        share: what a mean gradient is multiplied by: 1 / (writers) where writes are taken one by one.
        unit: its number as a writer, which is that of its group.
        team: its group.
        slow: whether the link to each shard is, since it lies in another region.
        bound: clocks that a worker may be ahead where workers help each other within a bound; else None.
    """

    def __init__(
        self,
        worker: int,
        arena: Arena,
        spans: list[slice],
        homes: list[int],
        post: Post,
        share: float,
        unit: int,
        team: Team,
        slow: list[bool],
        bound: int | None,
    ) -> None:
        self.worker, self.arena, self.spans, self.homes, self.post, self.share = worker, arena, spans, homes, post, share
        self.unit, self.team, self._bound = unit, team, bound
        self.view = aligned(arena.n, arena.dtype)
        self.owed = aligned(arena.n, arena.dtype)
        self.slow = slow
        self.sums = np.zeros(len(Tail))
        self.measures = Measures()
        self.answers: dict[int, np.ndarray] = {}
        self.grad = arena.grad
        self.slots = aligned((0, arena.n), arena.dtype)
        self._total = np.zeros(1, np.int64)
        self.begin([], None)

    def begin(self, seen: list[int], portions: list[Portion] | None) -> None:
        """Start an epoch, with nothing open; `seen` and `portions` are a record to follow, or empty and None."""
        self.open: set[int] = set()
        self.owes: set[int] = set()
        self.clocks = [0] * len(self.spans)
        self.lane = Lane(self.worker, portions)
        self.helper = None if self._bound is None else Helper(self, self._bound)
        self.clock, self._versions = 0, [0] * len(self.spans)
        self.seen = list[int]()
        self._recorded, self.replaying = deque(seen), portions is not None

    def stop(self) -> None:
        """Take note that another worker's error makes more work useless; members of a group end with their leader."""
        self.lane.stopped = self.team.leads

    @property
    def total(self) -> int:
        """Gradients that this worker has computed since the run began."""
        return int(self._total[0])

    def state(self) -> dict[str, np.ndarray]:
        """Return what restores this worker between two epochs; the run's own memory, not copies."""
        return {"data": self.view, "owed": self.owed, "slots": self.slots, "sums": self.sums, "total": self._total}

    def deliver(self, letter: np.ndarray) -> None:
        """Take an answer; called where the letters are taken."""
        self.answers[int(head(letter)[Field.SHARD])] = letter

    def learn(self, work: Work, portion: Portion) -> Waiting:
        """Compute the gradient of a portion at this worker's copy, and add that of its group; return the weight of all rows."""
        self.team.spread(self.view)
        rows = self.compute(work, portion)
        # Other workers of this rank use the gradient's memory while this one waits for its group.
        mine = self.grad[: self.arena.n]
        if len(self.team.run) > 1:
            self.team.hold(mine, rows)
            return (yield from self.team.unite(mine))
        return rows

    def compute(self, work: Work, portion: Portion) -> float:
        """Compute the gradient of a portion at this worker's copy; return the weight of its rows, and enter its tail."""
        tail = self.differentiate(work, portion)
        self.enter(tail)
        return float(tail[Tail.WEIGHT])

    def differentiate(self, work: Work, portion: Portion) -> np.ndarray:
        """Compute the gradient of a portion at this worker's copy, and return its tail, as a view."""
        self.arena.point(data=self.view, grad=self.grad)
        work.compute(self.worker, portion)
        tail = self.grad[self.arena.n :]
        if tail[Tail.FAULTS]:
            self.cry()
        return tail

    def drop(self, work: Work, portion: Portion) -> None:
        """Count a portion's rows as too late; if they cannot be used that is an error all the same."""
        self.arena.point(data=self.view, grad=self.grad)
        work.drop(self.worker, portion)
        tail = self.grad[self.arena.n :]
        if tail[Tail.FAULTS]:
            self.sums += tail
            self.cry()

    def enter(self, tail: np.ndarray) -> None:
        """Count a gradient as one of this worker's."""
        self.sums += tail
        self._total += 1

    def cry(self) -> None:
        """Tell all ranks that there is no use in going on."""
        for rank in range(self.post.mail.size):
            self.post.send(rank, note(self.post.mail, Kind.STOP, self.worker), -1)

    def scale(self, rows: float) -> None:
        """Make the gradient in the arena this worker's share of a mean."""
        self.grad[: self.arena.n] *= self.grad.dtype.type(self.share / rows if rows else 0.0)

    def all_answered(self) -> bool:
        """Return whether an answer has come to everything open."""
        return all(shard in self.answers for shard in self.open)

    def collect(self, awaits: bool) -> Program:
        """Bring the copy up to date: with all answers, or with those that have come."""
        if awaits:
            yield self.all_answered
        elif self.replaying:
            wanted = self._bits(self._recorded.popleft())
            yield lambda: all(shard in self.answers for shard in wanted)
        came = [shard for shard in self.open if shard in self.answers]
        if awaits and came:
            self.clock = min(int(head(self.answers[shard])[Field.CLOCK]) for shard in came)
        if not awaits:
            came = wanted if self.replaying else came
            self.seen.append(sum(1 << shard for shard in came))
        for shard in came:
            self.read(self.answers.pop(shard))
            self.open.discard(shard)

    def _bits(self, number: int) -> list[int]:
        return [shard for shard in range(len(self.spans)) if number >> shard & 1]

    def read(self, letter: np.ndarray) -> None:
        """Overwrite this worker's copy by an answer, unless it has read a later one, and measure how far it was."""
        shard, version, where = int(head(letter)[Field.SHARD]), int(head(letter)[Field.EXTRA]), positions(letter)
        values, mine = body(letter, self.arena.dtype), self.view[self.spans[shard]]
        later, self._versions[shard] = version >= self._versions[shard], max(version, self._versions[shard])
        if where is not None and later:
            mine[where] = values
        elif values.size and later:
            if self.clocks[0] % MEASURED == 1:
                self.measures.take_drift(mine, values)
            mine[:] = values
        self.post.mail.give_back(letter)

    def write(self, shard: int, values: np.ndarray, rows: float, answer: int = WHOLE) -> None:
        """Write numbers (m,) of the span of a shard that is not open."""
        self.send_write(shard, self.enclose(shard, values, self.clocks[shard]), rows, answer)

    def enclose(self, shard: int, values: np.ndarray, clock: int) -> np.ndarray:
        """Return a letter that writes numbers (m,) to a shard; its head lacks weight and answer."""
        letter = dense(self.post.mail, values.size, self.arena.dtype)
        write_head(letter, Kind.WRITE, self.unit, shard, clock)
        letter[HEAD_BYTES:].view(self.arena.dtype)[:] = values
        return letter

    def send_write(self, shard: int, letter: np.ndarray, rows: float, answer: int) -> None:
        """Send a write whose head lacks weight and answer alone."""
        weight(letter)[0] = rows
        head(letter)[Field.ANSWER], head(letter)[Field.EXTRA] = answer, shard
        self.clocks[shard] += 1
        self.measures.between += self.slow[shard] * (letter.size - HEAD_BYTES)
        self.open.add(shard)
        self.post.send(self.homes[shard], letter, shard)

    def ask(self, shards: Iterable[int], need: int = 0) -> None:
        """Ask shards that are not open for their parameters, after `need` clocks or more where these close for all together."""
        for shard in shards:
            letter = note(self.post.mail, Kind.ASK, self.unit, shard, need)
            head(letter)[Field.ANSWER], head(letter)[Field.EXTRA] = WHOLE, shard
            self.open.add(shard)
            self.post.send(self.homes[shard], letter, shard)

    def leave(self) -> None:
        """Tell all shards, and the group, that this worker has no more work in this epoch.

        Where others may be at work in its lane it does not leave: a lane is done when all its portions are.
        """
        self.team.spread(None)
        if self.helper is not None and not self.lane.stopped:
            return
        for shard, home in enumerate(self.homes):
            self.post.send(home, note(self.post.mail, Kind.LEFT, self.unit, shard))


MEASURED = 16
"""Of so many answers one is compared with the copy that it replaces: a pass over the parameters that nothing else needs."""
