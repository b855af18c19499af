"""Model averaging: workers step alone, and every so many steps their parameters become their mean."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array, namespace, span, to_host
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, Scratch, apply_whole
from hpcml.sync.nodes import Nodes
from hpcml.sync.synchroniser import Arrays, ExactTree, Sum, Synchroniser, divide, scaled


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

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Replica:
    """One worker's own model: parameters, optimizer state, and the sums of its tails since the last average."""

    def __init__(self, arena: Arena, rule: Rule) -> None:
        self.data: Array = arena.vector()
        self.data[:] = arena.data
        self.slots = namespace(arena.data).zeros((rule.slots, arena.n), arena.dtype)
        self.sums = namespace(arena.data).zeros(len(Tail), arena.dtype)


class _Running:
    def __init__(self, plan: LocalSteps, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena, self.rule, self.every = arena, rule, plan.every
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=2)
        self.anchor, self.mean, self.grad = self.reducer.vector(), self.reducer.vector(), arena.grad
        self.anchor[:] = arena.data
        hosted = span(workers, nodes.order.size, nodes.order.rank)
        self.replicas = {worker: _Replica(arena, rule) for worker in range(hosted.start, hosted.stop)}
        self.scratch = Scratch(arena.data, arena.parts(), arena.trained)
        self.reducer.settle()
        arena.point(data=self.anchor)

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.replicas[worker].data, grad=self.grad)

    def ready(self, span: slice) -> None:
        """Do nothing: no gradient leaves its worker."""

    def leave(self, worker: int, step: int) -> None:
        replica, n = self.replicas[worker], self.arena.n
        replica.sums += self.grad[n:]
        tail = to_host(self.grad[n:])
        if tail[Tail.WEIGHT] > 0 and not tail[Tail.FAULTS]:
            grad = self.grad[:n]
            divide(grad, tail[Tail.WEIGHT])
            apply_whole(self.rule, replica.data, grad, replica.slots, step, self.scratch)

    def exchange(self, step: int) -> np.ndarray | None:
        return self._sum_drifts() if (step + 1) % self.every == 0 else None

    def update(self, step: int, sums: np.ndarray) -> None:
        for part, drift in scaled(self.reducer.parts(), sums[Tail.WEIGHT] or 1.0):  # without weight no model drifted
            self.anchor[part] += drift
        self.reducer.settle()
        for replica in self.replicas.values():
            replica.data[:] = self.anchor
            replica.sums.fill(0)

    def consensus(self) -> np.ndarray:
        sums = self._sum_drifts()
        for part, drift in self.reducer.parts():
            divide(drift, sums[Tail.WEIGHT] or 1.0)
            namespace(drift).add(self.anchor[part], drift, out=self.mean[part])
        self.reducer.settle()
        self.arena.point(data=self.mean)
        return sums

    def settle(self) -> None:
        self.reducer.settle()

    def _sum_drifts(self) -> np.ndarray:
        """Sum all workers' drifts from the anchor, each times its weight, and return the sums of their tails."""
        n = self.arena.n
        for replica in self.replicas.values():
            vector = self.reducer.buffer()
            namespace(vector).subtract(replica.data, self.anchor, out=vector[:n])
            vector[:n] *= replica.sums[Tail.WEIGHT]
            vector[n:] = replica.sums
            self.reducer.add()
        return self.reducer.finish()

    def shared_state(self) -> Arrays:
        return {"anchor": self.anchor}

    def worker_state(self, worker: int) -> Arrays:
        replica = self.replicas[worker]
        return {"data": replica.data, "slots": replica.slots, "sums": replica.sums}
