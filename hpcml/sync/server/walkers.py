"""A worker of gossip learning: it merges the models that have come, takes a step, and sends its model on.

Letters: n parameters, V workers, k rule states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np

from hpcml.arrays import aligned, stream
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, Scratch, apply_whole
from hpcml.sync.server.client import Program, Work, always
from hpcml.sync.server.deal import Lane, Portion
from hpcml.sync.server.dealing import Dealt
from hpcml.sync.server.letters import HEAD_BYTES, Field, Kind, body, dense, head, note, write_head
from hpcml.sync.server.measures import Measures
from hpcml.sync.server.post import Post
from hpcml.sync.synchroniser import divide


class Walker:
    """One hosted worker: the model it works on, the last that came, and those that came since.

    Args:
        worker: its number.
        arena: of the model.
        desks: the rank of each worker.
        post: the rank's letters.
        rule: moves its model; the states stay with the worker.
        cache: how many of the models that it makes it keeps.
    """

    def __init__(self, worker: int, arena: Arena, desks: list[int], post: Post, rule: Rule, cache: int) -> None:
        self.worker, self.arena, self._desks, self._post, self._rule = worker, arena, desks, post, rule
        self.view, self.last = aligned(arena.n, arena.dtype), aligned(arena.n, arena.dtype)
        self.view[:] = self.last[:] = arena.data
        self.slots, self.cache = aligned((rule.slots, arena.n), arena.dtype), aligned((cache, arena.n), arena.dtype)
        self.cache[:] = arena.data
        self.sums, self.grad, self._total = np.zeros(len(Tail)), arena.grad, np.zeros(1, np.int64)
        self._scratch = Scratch(self.view, arena.parts(), arena.trained)
        self.measures = Measures()
        self.begin([], None, None)

    def begin(self, seen: list[int], portions: list[Portion] | None, walk: np.random.Generator | None) -> None:
        """Start an epoch, by a record of its portions, and of what was merged and sent at each, or as it comes."""
        self._came = [deque[np.ndarray]() for _ in self._desks]  # in a replay a sender may be several letters ahead
        self._open: set[int] = set()
        self.seen, self.lane = list[int](), Lane(self.worker, portions)
        self._recorded, self._replaying, self._walk = deque(seen), portions is not None, walk

    @property
    def total(self) -> int:
        """Gradients that this worker has computed since the run began."""
        return int(self._total[0])

    def state(self) -> dict[str, np.ndarray]:
        """Return what restores this worker between two epochs; the run's own memory, not copies."""
        own = {"data": self.view, "last": self.last, "slots": self.slots, "sums": self.sums, "total": self._total}
        return own | ({"cache": self.cache} if len(self.cache) else {})

    def deliver(self, letter: np.ndarray) -> None:
        """Take a model, or the news that one was taken."""
        fields = head(letter)
        if int(fields[Field.KIND]) == Kind.MODEL:
            self._came[int(fields[Field.EXTRA])].append(letter)
        else:
            self._open.discard(int(fields[Field.EXTRA]))
            self._post.mail.give_back(letter)

    def run(self, work: Work, following: Callable[[Lane], Dealt]) -> Program:
        """Yield through one epoch of this worker; `following` yields until its next portion is known."""
        assert self._walk is not None
        workers, n = len(self._desks), self.arena.n
        # Steps are those of the run: with them rates fall for all models alike, however many portions a worker takes.
        self._step = 0
        while (portion := (yield from following(self.lane))) is not None:
            self._step = max(self._step, work.epoch * work.steps + portion[1])
            wanted = self._recorded.popleft() if self._replaying else 0
            if self._replaying:
                yield partial(self._has, wanted)
            mask = self._merge([w for w, came in enumerate(self._came) if came and (wanted >> w & 1 or not self._replaying)])
            self.arena.point(data=self.view, grad=self.grad)
            work.compute(self.worker, portion)
            self._learn(self.grad[:n], self.grad[n:])
            peer = (self.worker + 1 + int(self._walk.integers(workers - 1))) % workers
            if wanted >> workers & 1 if self._replaying else peer not in self._open:
                self._send(peer)
                mask |= 1 << workers
            self.seen.append(mask)
            yield always

    def _has(self, mask: int) -> bool:
        """Return whether the models of all these workers have come."""
        return all(came for worker, came in enumerate(self._came) if mask >> worker & 1)

    def _merge(self, senders: list[int]) -> int:
        """Merge the models of these workers, one after the other, into this one's; return the workers as bits."""
        mask = 0
        for sender in senders:
            letter = self._came[sender].popleft()
            model = body(letter, self.arena.dtype)
            self.measures.take_read(max(0, self._step - int(head(letter)[Field.CLOCK])))
            self.measures.take_drift(self.view, model)
            # The mean of the one that came and the one before it: what this worker made of the latter is on its way elsewhere.
            np.add(model, self.last, out=self.view)
            self.view *= self.view.dtype.type(0.5)
            self.last[:] = model
            self._post.mail.give_back(letter)
            self._post.send(self._desks[sender], note(self._post.mail, Kind.TAKEN, sender, extra=self.worker))
            mask |= 1 << sender
        return mask

    def _learn(self, grad: np.ndarray, tail: np.ndarray) -> None:
        """Take a step with this worker's gradient, and enter the tail."""
        self.sums += tail
        if tail[Tail.FAULTS]:
            for rank in range(self._post.mail.size):
                self._post.send(rank, note(self._post.mail, Kind.STOP, self.worker), -1)
        elif tail[Tail.WEIGHT] > 0:
            divide(grad, float(tail[Tail.WEIGHT]))
            apply_whole(self._rule, self.view, grad, self.slots, self._step, self._scratch)
        if len(self.cache):
            self.cache[self.total % len(self.cache)] = self.view
        self._total += 1

    def _send(self, peer: int) -> None:
        letter = dense(self._post.mail, self.view.size, self.arena.dtype)
        write_head(letter, Kind.MODEL, peer, clock=self._step + 1, extra=self.worker)
        letter[HEAD_BYTES:].view(self.view.dtype)[:] = self.view
        self._open.add(peer)
        self._post.send(self._desks[peer], letter)


def walk_of(seed: int, epoch: int, worker: int) -> np.random.Generator:
    """Return the random numbers by which a worker chooses peers in an epoch."""
    return stream(seed, "gossip learning", epoch, worker)
