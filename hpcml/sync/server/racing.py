"""Synchronous SGD with spare workers that race: the first m = V - k gradients of a clock count, and nobody waits for the others.

One rank, the desk, is the referee. A worker that has a gradient claims its clock there; the first m are told to write to all shards, so
that these agree without speaking. Who is late is told which clock is open, writes nothing, reads that clock's parameters and goes on there.
Rows of a late gradient, and those of clocks that a worker slept through, are too late: the ledger counts them.
Letters: V workers, k spare ones, m that count.

References:
    Chen, Pan, Monga, Bengio and Jozefowicz, Revisiting distributed synchronous SGD, 2016.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np

from hpcml.nn.arena import Tail
from hpcml.sync.server.client import Client, Program, Work
from hpcml.sync.server.deal import Portion
from hpcml.sync.server.dealing import DESK
from hpcml.sync.server.letters import Field, Kind, head, note
from hpcml.sync.server.post import Post
from hpcml.sync.server.shard import WHOLE


class Referee:
    """Says whose gradients of a clock count: the first m that are claimed; a state machine without messages.

    Args:
        counted: m.
    """

    def __init__(self, counted: int) -> None:
        self.open, self._counted = 0, counted
        self._came: set[int] = set()

    def claim(self, worker: int, clock: int) -> bool:
        """Return whether a worker's gradient of a clock counts; each counts once, and none of a clock that has closed."""
        if clock > self.open:  # shards close a clock with fewer writes where others have ended early, with an error
            self.open = clock
            self._came.clear()
        if clock < self.open or worker in self._came:
            return False
        self._came.add(worker)
        if len(self._came) == self._counted:
            self.open += 1
            self._came.clear()
        return True


class Racing:
    """One rank's part in the races of an epoch.

    Args:
        post: the rank's letters.
        steps: clocks of the epoch.
        counted: m.
        script: by worker, the portions that counted, to follow a record; None to race.
    """

    def __init__(self, post: Post, steps: int, counted: int, script: Mapping[int, Sequence[Portion]] | None) -> None:
        self._post, self._steps, self._referee = post, steps, Referee(counted)
        self._verdicts: dict[int, tuple[bool, int]] = {}
        self._script = None if script is None else {worker: deque(portions) for worker, portions in script.items()}

    def answer(self, source: int, worker: int, clock: int) -> None:
        """Judge a claim; only the desk is asked."""
        counts = self._referee.claim(worker, clock)
        self._post.send(source, note(self._post.mail, Kind.VERDICT, worker, clock=self._referee.open, extra=int(counts)), -1)

    def hear(self, worker: int, fields: np.ndarray) -> None:
        """Take the verdict on a worker of this rank."""
        self._verdicts[worker] = bool(fields[Field.EXTRA]), int(fields[Field.CLOCK])

    def run(self, client: Client, work: Work) -> Program:
        """Yield through one epoch of a worker."""
        clock, goal, fresh = 0, self._due(client, 0), True
        while clock < self._steps and not client.lane.stopped:
            if goal > clock or not fresh:
                reached = goal if goal == self._steps else (yield from _read(client, goal))
                for missed in range(clock, reached):
                    client.drop(work, (client.worker, missed))
                clock = goal = reached
                fresh = True
                continue
            fresh, goal = yield from self._try(client, work, clock)
            clock += 1
            goal = max(clock, self._due(client, goal))
        client.leave()

    def _try(self, client: Client, work: Work, clock: int) -> Generator[Callable[[], bool], None, tuple[bool, int]]:
        """Compute a clock's gradient and write it if it counts; return whether it did, and the clock that is open."""
        portion = client.worker, clock
        tail = client.differentiate(work, portion).copy()
        # Written down before the verdict: other workers of this rank use the gradient's memory meanwhile.
        letters = [client.enclose(shard, client.grad[span], clock) for shard, span in enumerate(client.spans)]
        counts, goal = yield from self._judge(client, clock)
        if counts or tail[Tail.FAULTS]:
            client.enter(tail)
        if not counts:
            for letter in letters:
                client.post.mail.give_back(letter)
            work.withdraw(client.worker)
            return False, goal
        client.lane.taken.append(portion)
        for shard, letter in enumerate(letters):
            client.send_write(shard, letter, float(tail[Tail.WEIGHT]), WHOLE)
        yield from client.collect(True)
        return True, goal

    def _due(self, client: Client, clock: int) -> int:
        """Return the clock at which a worker goes on: the open one, or that of the record."""
        if self._script is None:
            return clock
        script = self._script[client.worker]
        return script[0][1] if script else self._steps

    def _judge(self, client: Client, clock: int) -> Generator[Callable[[], bool], None, tuple[bool, int]]:
        if self._script is not None:
            self._script[client.worker].popleft()
            return True, clock + 1
        self._post.send(DESK, note(self._post.mail, Kind.CLAIM, client.worker, clock=clock), -1)
        yield lambda: client.worker in self._verdicts
        return self._verdicts.pop(client.worker)


def _read(client: Client, clock: int) -> Generator[Callable[[], bool], None, int]:
    """Bring a worker's copy to one clock at all shards, this one or a later one, and return it."""
    reached = dict.fromkeys(range(len(client.spans)), -1)
    while behind := [shard for shard, found in reached.items() if found < clock]:
        client.ask(behind, clock)
        yield client.all_answered
        for shard in behind:
            reached[shard] = int(head(client.answers[shard])[Field.CLOCK])
        yield from client.collect(True)
        # A shard that was asked late may have closed the clock already: the others are then asked for the same.
        clock = max(reached.values())
    return clock
