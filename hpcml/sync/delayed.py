"""Synchronous SGD one step late: while the gradients of a step travel, the next step is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array, spans
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule
from hpcml.sync.conits import Conits, Measured, gather
from hpcml.sync.model import SharedModel
from hpcml.sync.nodes import Nodes
from hpcml.sync.progress import Progress
from hpcml.sync.reducers import Reducer
from hpcml.sync.synchroniser import Arrays, ExactTree, Quiet, Sum, Synchroniser, scaled


@dataclass(frozen=True, slots=True)
class Delayed:
    """Move the model by the mean gradient of the step before: x(t+1) = x(t) - r g(x(t-1)); two buffers, of which one is on its way.

    The last gradient of a run is never used. Every rank keeps a model of its own, since a late rank still reads the old one while
    others go on. Where MPI may be called from a thread, the exchange and the wait for late ranks hide behind the next step; between
    steps no other thread may communicate before `consensus` was called.

    References:
        Zinkevich, Smola and Langford, Slow learners are fast, NIPS 2009 (delayed stochastic gradient descent).
    """

    sum: Sum = field(default_factory=ExactTree)

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Running(Quiet):
    """At any time at most one step's sum is outstanding: on its way in a reducer, or kept in `late` for a checkpoint."""

    def __init__(self, plan: Delayed, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena, self.comm = arena, nodes.order.split(0)
        self.comm.patient = self.comm.threaded
        runs = spans(workers, self.comm.size)
        self.now, self.before = (plan.sum.among(self.comm, runs, arena) for _ in range(2))
        self.model, self.late = SharedModel(arena, rule, self.now), self.now.vector()
        hosted = runs[self.comm.rank]
        self.last = hosted.stop - 1
        self.measured = {worker: Measured() for worker in range(hosted.start, hosted.stop)}
        self.sums, self.outstanding = np.zeros(len(Tail)), np.zeros(1, np.uint8)
        self.progress, self.travels = Progress(self.comm.threaded), False
        arena.point(data=self.model.data, grad=self.now.buffer())

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.model.data, grad=self.now.buffer())

    def leave(self, worker: int, step: int) -> None:
        self.measured[worker].add_step(int(self.outstanding[0]))
        if worker != self.last:
            self.now.add()

    def exchange(self, step: int) -> np.ndarray | None:
        self.progress.wait()
        if self.outstanding[0]:
            return self.sums.copy()
        self._send()
        return None

    def update(self, step: int, sums: np.ndarray) -> None:
        if sums[Tail.WEIGHT]:
            kept = ((part, self.late[part]) for whole in self.before.owned for part in self.model.spans(whole))
            blocks = self.before.parts() if self.travels else kept
            self.model.move(scaled(blocks, sums[Tail.WEIGHT]), step - 1)
        self._send()

    def _send(self) -> None:
        """Let the step's gradients set out."""
        self.now.add()
        self.now, self.before = self.before, self.now
        self.outstanding[0], self.travels = 1, True
        self.progress.start(self._arrive, self.before)

    def _arrive(self, reducer: Reducer) -> None:
        self.sums[:] = reducer.finish()

    def consensus(self) -> np.ndarray:
        self._catch()
        self.arena.point(data=self.model.data)
        return self.sums * self.outstanding[0]

    def _catch(self) -> None:
        """Keep what is on its way where a checkpoint finds it."""
        self.progress.wait()
        if self.travels:
            for part, total in self.before.parts():
                self.late[part] = total
            self.travels = False

    def conits(self) -> Conits:
        return gather(list(self.measured.values()), self.comm)

    def shared_state(self) -> Arrays:
        """Return the model and what was on its way."""
        self._catch()
        late: dict[str, Array] = {"late": self.late, "sums": self.sums, "outstanding": self.outstanding}
        return {"weights": self.model.data, "slots": self.model.slots, **late}

    def worker_state(self, worker: int) -> Arrays:
        return {"conits": self.measured[worker].numbers}
