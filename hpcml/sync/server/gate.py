"""Who is served when: the consistency models of a server as a state machine, without arrays and without messages.

A gate takes note of what has arrived (`push`, `pull`, `leave`) and says in which order it is done (`ready`). That order is all that
a shard's numbers depend on. It is recorded, and a gate that is given a recorded order follows it, whatever comes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

from hpcml.errors import CommError
from hpcml.sync.server.consistency import Consistency, regions_of


class Act(IntEnum):
    """What a shard does for a worker."""

    PUSH = 0
    """Take the worker's next write."""
    PULL = 1
    """Answer the worker with the parameters as they are now."""
    LEAVE = 2
    """Wait for this worker no more in this epoch."""
    APPLY = 3
    """Make one write of those taken since the last APPLY; only where writes are taken clock by clock."""
    HELP = 4
    """Take the worker's write in another's lane."""
    LOOK = 5
    """Give the worker, which will help, the parameters as they are now."""


Event = tuple[Act, int]
"""What is done, and for which worker."""


class Gate(Protocol):
    """Orders what arrives at one shard in one epoch."""

    clocks: list[int]
    """Portions done, by lane: the worker's own writes that were taken, and those of its helpers."""
    refused: int
    """Writes that had come before and were not taken again."""

    def push(self, worker: int, clock: int) -> bool:
        """Take note of a write; return whether it is new: a write that has come before is never taken again."""

    def pull(self, worker: int, need: int = 0) -> None:
        """Take note that a worker asks for the parameters, after `need` clocks at least where clocks close for all together."""

    def leave(self, worker: int) -> None:
        """Take note that a worker has no more work in this epoch."""

    def announce(self, worker: int) -> None:
        """Take note that a write is on its way."""

    def ready(self) -> Iterator[Event]:
        """Yield, once each, what is to be done now, in order."""


class _Noted:
    """What gates share: which writes have come."""

    def __init__(self, workers: int) -> None:
        self.workers, self.refused = workers, 0
        self.clocks = [0] * workers
        self._seen, self._helped = [0] * workers, [0] * workers
        self._lanes = [0] * workers

    def help(self, worker: int, clock: int, lane: int) -> bool:
        """Take note of a worker's write in another's lane, its `clock`-th of these; return whether it is new."""
        if clock < self._helped[worker]:
            self.refused += 1
            return False
        # A helper writes once between two looks: of each there is never more than one to be done.
        self._helped[worker], self._lanes[worker] = clock + 1, lane
        self._arrived(Act.HELP, worker)
        return True

    def look(self, worker: int, need: int) -> None:
        """Take note that a worker, which will help, asks for the parameters once every lane has `need` ticks."""
        self._arrived(Act.LOOK, worker)

    def push(self, worker: int, clock: int) -> bool:
        """Take note of a write; return whether it is new."""
        if clock < self._seen[worker]:
            self.refused += 1
            return False
        if clock > self._seen[worker]:
            raise CommError(f"worker {worker} wrote clock {clock}, expected {self._seen[worker]}: a write was lost on the way")
        self._seen[worker] += 1
        self._arrived(Act.PUSH, worker)
        return True

    def pull(self, worker: int, need: int = 0) -> None:
        """Take note that a worker asks for the parameters."""
        self._arrived(Act.PULL, worker)

    def leave(self, worker: int) -> None:
        """Take note that a worker has no more work in this epoch."""
        self._arrived(Act.LEAVE, worker)

    def _arrived(self, act: Act, worker: int) -> None:
        """Take note of an event."""


class LiveGate(_Noted):
    """Serves in the order of arrival, as far as the consistency model allows.

    Args:
        consistency: the model.
        workers: V.
        warm: clocks that worker 0 works alone before any other worker is answered for the first time.
        helping: whether workers are told when the bound holds them, since they may help others meanwhile.
    """

    def __init__(self, consistency: Consistency, workers: int, warm: int = 0, *, helping: bool = False) -> None:
        super().__init__(workers)
        self._bound, self._whole, self._warm = consistency.bound, consistency.whole, warm
        self._inside, self._regions = consistency.inside, regions_of(workers, consistency.regions or 1)
        self._gone = [False] * workers
        self._writes: list[int] = []
        self._asked: list[int] = []
        self._leaving: list[int] = []
        self._coming: set[int] = set()
        self._helping = helping
        self._help: list[int] = []
        self._looking: dict[int, int] = {}

    def announce(self, worker: int) -> None:
        """Take note that a write is on its way: nobody else reads until it has come (the selective barrier)."""
        self._coming.add(worker)

    def _arrived(self, act: Act, worker: int) -> None:
        {Act.PUSH: self._writes, Act.PULL: self._asked, Act.LEAVE: self._leaving, Act.HELP: self._help}[act].append(worker)
        if act is Act.PUSH:
            self._coming.discard(worker)

    def look(self, worker: int, need: int) -> None:
        """Take note that a worker, which will help, asks for the parameters once every lane has `need` ticks."""
        self._looking[worker] = need

    def held(self) -> list[int]:
        """Return the workers that the bound holds, which may help others meanwhile."""
        if not self._helping or self._bound is None:
            return []
        return [worker for worker in self._asked if self.clocks[worker] - self.slowest() > self._bound]

    def ready(self) -> Iterator[Event]:
        """Yield what is to be done now: writes, then the answers that they allow."""
        for worker in self._leaving:
            self._gone[worker] = True
            yield Act.LEAVE, worker
        self._leaving.clear()
        for worker in self._help:
            self.clocks[self._lanes[worker]] += 1
            yield Act.HELP, worker
        self._help.clear()
        while self._writes_due():
            for worker in sorted(self._writes) if self._whole else list(self._writes):
                self._writes.remove(worker)
                self.clocks[worker] += 1
                yield Act.PUSH, worker
            if self._whole:
                yield Act.APPLY, 0
        for worker in [worker for worker in self._asked if self._may_read(worker)]:
            self._asked.remove(worker)
            yield Act.PULL, worker
        for worker in [worker for worker, need in self._looking.items() if need <= self.slowest()]:
            del self._looking[worker]
            yield Act.LOOK, worker

    def _writes_due(self) -> bool:
        if not self._whole:
            return bool(self._writes)
        return bool(self._writes) and all(gone or worker in self._writes for worker, gone in enumerate(self._gone))

    def _may_read(self, worker: int) -> bool:
        clock = self.clocks[worker]
        if worker and not clock and not self._gone[0] and self.clocks[0] < self._warm:
            return False
        # A write that waits for those of others is read with them, not before.
        if worker in self._writes or self._coming - {worker}:
            return False
        if self._inside is not None and clock - self.slowest(self._regions[worker]) > self._inside:
            return False
        return self._bound is None or clock - self.slowest() <= self._bound

    def slowest(self, region: int | None = None) -> int:
        """Return the smallest clock of the workers, of one region or of all, that still work; where none does, the largest of all."""
        places = [w for w, gone in enumerate(self._gone) if not gone and region in (None, self._regions[w])]
        return min((self.clocks[w] for w in places), default=max(self.clocks))


class ReplayGate(_Noted):
    """Serves in a recorded order, whatever comes first.

    Args:
        order: every event of the epoch at this shard.
        workers: V.
    """

    def __init__(self, order: Sequence[Event], workers: int) -> None:
        super().__init__(workers)
        self._order = deque(order)
        self._waiting = {(act, worker): 0 for act in Act for worker in range(workers)}

    def announce(self, worker: int) -> None:
        """Do nothing: the order is known."""

    def _arrived(self, act: Act, worker: int) -> None:
        self._waiting[act, worker] += 1

    def held(self) -> list[int]:
        """Return nobody: who helps, and whom, is known."""
        return []

    def missing(self) -> int:
        """Return how many recorded events have not come yet."""
        return len(self._order)

    def ready(self) -> Iterator[Event]:
        """Yield what the record says comes next, as long as it has arrived."""
        while self._order and (self._order[0][0] is Act.APPLY or self._waiting[self._order[0]]):
            act, worker = self._order.popleft()
            self._waiting[act, worker] -= 1
            if act is Act.PUSH:
                self.clocks[worker] += 1
            elif act is Act.HELP:
                self.clocks[self._lanes[worker]] += 1
            yield act, worker


class RaceGate:
    """Closes a clock with the first writes of it, as many as count; the same gate serves a race and its replay.

    Who counts is decided once for all shards, by the referee (`racing.Referee`): so no more than these write, and in what order they come
    decides nothing, as their mean is taken over a fixed tree. A write of a closed clock is refused all the same.

    Args:
        workers: V.
        counted: m, the writes that close a clock; where fewer workers are left, all of these.
    """

    def __init__(self, workers: int, counted: int) -> None:
        self.clocks, self.refused, self.open = [0] * workers, 0, 0
        self._counted, self._active = counted, workers
        self._writes: set[int] = set()
        self._asked: dict[int, int] = {}
        self._leaving: list[int] = []

    def push(self, worker: int, clock: int) -> bool:
        """Take note of a write; return whether it counts: it is of the open clock, and the worker's first."""
        if clock > self.open:
            raise CommError(f"worker {worker} wrote clock {clock}, open is {self.open}: nobody can have read what it goes on from")
        if clock < self.open or worker in self._writes:
            self.refused += 1
            return False
        self._writes.add(worker)
        return True

    def pull(self, worker: int, need: int = 0) -> None:
        """Take note that a worker asks for the parameters after `need` clocks, or more."""
        self._asked[worker] = need

    def leave(self, worker: int) -> None:
        """Take note that a worker has no more work in this epoch."""
        self._leaving.append(worker)

    def announce(self, worker: int) -> None:
        """Do nothing: a clock's writes are read when all that count have come."""

    def ready(self) -> Iterator[Event]:
        """Yield what is to be done now: a clock's writes if it closes, then the answers that it allows."""
        for worker in self._leaving:
            self._active -= 1
            yield Act.LEAVE, worker
        self._leaving.clear()
        if self._writes and len(self._writes) >= min(self._counted, self._active):
            for worker in sorted(self._writes):
                yield Act.PUSH, worker
            self._writes.clear()
            yield Act.APPLY, 0
            self.open += 1
            # Who reads sees every clock that has closed: nobody is ahead or behind.
            self.clocks[:] = [self.open] * len(self.clocks)
        for worker in [w for w, need in self._asked.items() if need <= self.open and w not in self._writes]:
            del self._asked[worker]
            yield Act.PULL, worker
