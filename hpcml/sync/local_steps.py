"""Model averaging: workers step alone, and every so many steps their parameters become their mean."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array, namespace, span, to_host
from hpcml.comm.communicator import Communicator
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena, Tail
from hpcml.optim.rules import Rule, Scratch
from hpcml.sync.reducers import divide
from hpcml.sync.synchroniser import Arrays, ExactTree, Sum, Synchroniser, host_tail, state_vectors


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """Let each virtual worker step on its own model; every `every` steps all become the mean, weighted by the rows used since.

    Optimizer state stays with its worker. With plain SGD or momentum and every=1 it is EveryStep, to rounding.

    References:
        McDonald, Hall and Mann, Distributed training strategies for the structured perceptron, NAACL 2010;
        Stich, Local SGD converges fast and communicates little, ICLR 2019.
    """

    every: int
    sum: Sum = field(default_factory=ExactTree)

    def __post_init__(self) -> None:
        """Refuse a period below one step."""
        if self.every < 1:
            raise ConfigError(f"sync.every is {self.every}; models can be averaged every 1 or more steps")

    def start(self, arena: Arena, comm: Communicator, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, comm, workers, rule)


class _Replica:
    """One worker's own model: parameters, optimizer state, and the sums of its tails since the last average."""

    def __init__(self, arena: Arena, rule: Rule) -> None:
        self.data: Array = arena.vector()
        self.data[:] = arena.data
        self.slots = state_vectors(rule, arena)
        self.sums = namespace(arena.data).zeros(len(Tail), arena.dtype)


class _Running:
    def __init__(self, plan: LocalSteps, arena: Arena, comm: Communicator, workers: int, rule: Rule) -> None:
        self.arena, self.rule, self.every = arena, rule, plan.every
        self.reducer = plan.sum.reducer(comm, workers, arena.length, arena.dtype, namespace(arena.data))
        self.anchor = arena.data
        hosted = span(workers, comm.size, comm.rank)
        self.replicas = {worker: _Replica(arena, rule) for worker in range(hosted.start, hosted.stop)}
        self.grad, self.mean = arena.grad, arena.vector()
        self.scratch = Scratch(arena.data, arena.parts())
        self.total: Array = None

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.replicas[worker].data, grad=self.grad)

    def leave(self, worker: int, step: int) -> None:
        replica, n = self.replicas[worker], self.arena.n
        replica.sums += self.grad[n:]
        tail = to_host(self.grad[n:])
        if tail[Tail.WEIGHT] > 0 and not tail[Tail.FAULTS]:
            divide(self.grad, n, tail[Tail.WEIGHT])
            self.rule.update(replica.data, self.grad[:n], replica.slots, step, self.scratch)

    def exchange(self, step: int) -> np.ndarray | None:
        return self._sum_drifts() if (step + 1) % self.every == 0 else None

    def update(self, step: int, sums: np.ndarray) -> None:
        self._add_mean_drift(self.anchor, sums)
        for replica in self.replicas.values():
            replica.data[:] = self.anchor
            replica.sums.fill(0)

    def consensus(self) -> np.ndarray:
        self.mean[:] = self.anchor
        sums = self._sum_drifts()
        if sums[Tail.WEIGHT] > 0:
            self._add_mean_drift(self.mean, sums)
        self.arena.point(data=self.mean)
        return sums

    def _sum_drifts(self) -> np.ndarray:
        """Leave in self.total the sum of all workers' drifts from the anchor, each times its weight, and of their tails."""
        n, xp = self.arena.n, namespace(self.anchor)
        for replica in self.replicas.values():
            vector = self.reducer.buffer()
            xp.subtract(replica.data, self.anchor, out=vector[:n])
            vector[:n] *= replica.sums[Tail.WEIGHT]
            vector[n:] = replica.sums
            self.reducer.add()
        self.total = self.reducer.total()
        return host_tail(self.total, n)

    def _add_mean_drift(self, to: Array, sums: np.ndarray) -> None:
        n = self.arena.n
        divide(self.total, n, sums[Tail.WEIGHT])
        to += self.total[:n]

    def shared_state(self) -> Arrays:
        return {"anchor": self.anchor}

    def worker_state(self, worker: int) -> Arrays:
        replica = self.replicas[worker]
        return {"data": replica.data, "slots": replica.slots, "sums": replica.sums}
