"""One rank of a gossip learning run: its walkers and its letters.

Letters: n parameters, V workers, k rule states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, norm
from hpcml.sync.conits import Conits
from hpcml.sync.ensemble import Members
from hpcml.sync.nodes import Nodes
from hpcml.sync.server.client import Work
from hpcml.sync.server.dealing import Dealing
from hpcml.sync.server.ending import Ending, drive
from hpcml.sync.server.gathering import gather_measures, gather_record, gather_sums
from hpcml.sync.server.letters import Field, Kind, head
from hpcml.sync.server.measures import Measures
from hpcml.sync.server.placement import Placement
from hpcml.sync.server.post import Post
from hpcml.sync.server.record import Record
from hpcml.sync.server.walkers import Walker, walk_of
from hpcml.sync.synchroniser import Arrays, Quiet

if TYPE_CHECKING:
    from hpcml.sync.server.gossip_learning import GossipLearning


class Walking(Quiet):
    """The synchroniser of one run of gossip learning; the model that is judged and saved is the mean of all workers'."""

    def __init__(self, plan: GossipLearning, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.plan, self.arena, self.workers, self._comm = plan, arena, workers, nodes.order
        place = Placement.of(None, workers, self._comm.size)
        run = place.workers[self._comm.rank]
        self.post = Post(self._comm.mail(), self._take, self._comm.threaded and self._comm.size > 1)
        self._desks = place.desks()
        self.walkers = {w: Walker(w, arena, self._desks, self.post, rule, plan.cache) for w in range(run.start, run.stop)}
        self.mean, self._theirs, self._own_grad = arena.vector(), arena.vector(), arena.grad
        self.mean[:] = arena.data
        self._sums, self._stale = np.zeros(len(Tail)), False
        self._weights = np.zeros(workers * plan.cache)
        self.record, self.measures = Record(), Measures()
        self.measured: dict[str, Any] = {}
        arena.point(data=self.mean)
        self._weigh()

    def run_epoch(self, work: Work, record: Record | None = None) -> None:
        """Let all workers use up the portions of an epoch; every rank calls it, with an order to follow or without."""
        self._ending = Ending(self.post)
        self._dealing = Dealing(self.post, self.workers, work.steps, self.plan.stealing)
        for worker, walker in self.walkers.items():
            walk = walk_of(self.plan.seed, work.epoch, worker)
            walker.begin(record.seen[worker] if record else [], record.portions[worker] if record else None, walk)
        self.post.begin()
        try:
            drive(self.post, [walker.run(work, self._dealing.following) for walker in self.walkers.values()])
            self._ending.meet()
        except BaseException:
            self.post.stop()
            raise
        self.post.finish()
        self._stale = True
        walkers = self.walkers.items()
        mine = Record({}, {w: walker.seen for w, walker in walkers}, {w: walker.lane.taken for w, walker in walkers})
        self.record = gather_record(self._comm, mine)
        self.measures, self.measured = gather_measures(self._comm, self.post, [walker.measures for walker in self.walkers.values()])

    def _take(self, source: int, letter: np.ndarray) -> None:
        """Do what a letter wants; called where the letters are taken."""
        fields = head(letter)
        kind = Kind(fields[Field.KIND])
        if kind in (Kind.MODEL, Kind.TAKEN):
            self.walkers[int(fields[Field.WORKER])].deliver(letter)
            return
        if kind is Kind.TICKET:
            self._dealing.answer(source, int(fields[Field.WORKER]), int(fields[Field.CLOCK]))
        elif kind is Kind.PORTION:
            self._dealing.hand(self.walkers[int(fields[Field.WORKER])].lane, fields)
        elif kind is Kind.STOP:
            for walker in self.walkers.values():
                walker.lane.stopped = True
        else:
            self._ending.take(kind, source, fields)
        self.post.mail.give_back(letter)

    def conits(self) -> Conits:
        """Return how far models were apart when they met, and how old those that came, as measured in this start."""
        return self.measures.conits()

    def consensus(self) -> np.ndarray:
        """Point the arena at the mean of all workers' models, and return the sums of their tails since the run began."""
        if self._stale:
            self.mean.fill(0)
            for worker, desk in enumerate(self._desks):
                if worker in self.walkers:
                    self._theirs[:] = self.walkers[worker].view
                self._comm.broadcast(self._theirs, desk)
                self.mean += self._theirs
            self.mean *= self.mean.dtype.type(1.0 / self.workers)
            self._sums = gather_sums(self._comm, self.workers, {worker: walker.sums for worker, walker in self.walkers.items()})
            for walker in self.walkers.values():
                walker.measures.drift = max(walker.measures.drift, norm(walker.view - self.mean))
            self._weigh()
            self._stale = False
        self.arena.point(data=self.mean, grad=self._own_grad)
        return self._sums.copy()

    def _weigh(self) -> None:
        """Give all models of the caches the same weight, and none to places that no step has filled yet; every rank calls it."""
        if not self.plan.cache:
            return
        steps = np.zeros(self.workers, np.int64)
        for worker, walker in self.walkers.items():
            steps[worker] = walker.total
        self._comm.all_reduce(steps)
        filled = np.arange(self.plan.cache) < np.maximum(1, steps)[:, None]
        self._weights[:] = (filled / filled.sum()).reshape(-1)

    def members(self) -> Members | None:
        """Return the hosted workers' caches, if there are any."""
        if not self.plan.cache:
            return None
        return Members({worker: list(walker.cache) for worker, walker in self.walkers.items()}, self.plan.combine, self._weights)

    def shared_state(self) -> Arrays:
        """Return the weights of the caches' models: every other number is a worker's."""
        return {"member_weights": self._weights} if self.plan.cache else {}

    def settle(self) -> None:
        """Take note that the workers' models were restored."""
        self._stale = True

    def worker_state(self, worker: int) -> Arrays:
        """Return a hosted worker's models, states and sums."""
        return self.walkers[worker].state()

    def close(self) -> None:
        """Give back the letter box; every rank calls it."""
        self.post.mail.close()
