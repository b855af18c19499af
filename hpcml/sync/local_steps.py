"""Model averaging: workers step alone, and where they meet their mean drift moves the model that all go on from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, norm, rate_at
from hpcml.sync.conits import Conits
from hpcml.sync.meetings import STATE, Every, Meetings
from hpcml.sync.model import SharedModel
from hpcml.sync.nodes import Nodes
from hpcml.sync.outer import AVERAGE, Outer
from hpcml.sync.reducers import Part
from hpcml.sync.replicas import Replicas
from hpcml.sync.synchroniser import Adopting, Arrays, ExactTree, Quiet, Sum, divide, scaled


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """Let each virtual worker step on its own model; every `every` steps all go on from what `outer` makes of their mean.

    The mean is weighted by the rows used since the last meeting. Optimizer state stays with its worker.
    With plain SGD or momentum and every=1 it is EveryStep, to rounding.

    Args:
        every: steps between two meetings, or Once(), Adaptive(8).
        sum: how to sum over the workers.
        outer: the plain average, or BlockMomentum(), slow_momentum(), OuterRule(any rule).

    References:
        McDonald, Hall and Mann, Distributed training strategies for the structured perceptron, NAACL 2010;
        Stich, Local SGD converges fast and communicates little, ICLR 2019.
    """

    every: int | Meetings
    sum: Sum = field(default_factory=ExactTree)
    outer: Outer = AVERAGE

    def __post_init__(self) -> None:
        """Refuse a period below one step."""
        self.meetings()

    def meetings(self) -> Meetings:
        """Return when the workers meet."""
        return Every(self.every) if isinstance(self.every, int) else self.every

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Running(Quiet):
    def __init__(self, plan: LocalSteps, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena, self.rule, self.meetings, self.outer = arena, rule, plan.meetings(), plan.outer.at(workers)
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=1 + SharedModel.vectors(self.outer.rule))
        self.replicas = Replicas(arena, nodes, workers, rule)
        self.anchor, self.mean = SharedModel(arena, self.outer.rule, self.reducer), self.reducer.vector()
        self.met, self.plans = np.zeros(1, np.int64), np.zeros(STATE)
        arena.point(data=self.anchor.data)

    def enter(self, worker: int) -> None:
        self.replicas.enter(worker)

    def leave(self, worker: int, step: int) -> None:
        self.replicas.step(worker, step)

    def exchange(self, step: int) -> np.ndarray | None:
        return self._sum_drifts(measured=True) if self.meetings.is_due(step, self.plans) else None

    def update(self, step: int, sums: np.ndarray) -> None:
        if sums[Tail.WEIGHT]:  # without weight no model drifted
            pace = (rate_at(self.rule, step) if self.outer.paced else 1.0) or 1.0  # at rate 0 nothing drifted
            self.anchor.move(_reversed(scaled(self.reducer.parts(), sums[Tail.WEIGHT])), int(self.met[0]), pace)
        self.reducer.settle()
        for replica in self.replicas:
            replica.data[:] = self.anchor.data
            replica.sums.fill(0)
            replica.measured.meet()
            if self.outer.resets:
                replica.slots.fill(0)
        self.meetings.note(step, sums, self.plans)
        self.met += 1

    def consensus(self) -> np.ndarray:
        sums = self._sum_drifts()
        for part, drift in self.reducer.parts():
            divide(drift, sums[Tail.WEIGHT] or 1.0)
            namespace(drift).add(self.anchor.data[part], drift, out=self.mean[part])
        self.reducer.settle()
        self.arena.point(data=self.mean)
        return sums

    def adopt(self, data: Array, slots: Array) -> None:
        self.anchor.adopt(data, self.anchor.slots)
        self.replicas.adopt(data, slots)

    def settle(self) -> None:
        self.reducer.settle()

    def conits(self) -> Conits:
        return self.replicas.conits(self.anchor.data)

    def _sum_drifts(self, measured: bool = False) -> np.ndarray:
        """Sum all workers' drifts from the anchor, each times its weight, and return the sums of their tails; perhaps measure them."""
        n = self.arena.n
        for replica in self.replicas:
            vector = self.reducer.buffer()
            namespace(vector).subtract(replica.data, self.anchor.data, out=vector[:n])
            if measured:
                replica.measured.add_distance(norm(vector[:n]))
            vector[:n] *= replica.sums[Tail.WEIGHT]
            vector[n:] = replica.sums
            self.reducer.add()
        return self.reducer.finish()

    def shared_state(self) -> Arrays:
        return {"anchor": self.anchor.data, "outer": self.anchor.slots, "met": self.met, "meetings": self.plans}

    def worker_state(self, worker: int) -> Arrays:
        return self.replicas.state(worker)


def _reversed(blocks: Iterator[Part]) -> Iterator[Part]:
    """Yield the blocks of a drift as those of a gradient: minus the drift, in place."""
    for span, x in blocks:
        namespace(x).negative(x, out=x)
        yield span, x
