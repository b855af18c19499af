"""Workers' own models: each steps by itself on its own rows, until the synchroniser lets them meet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcml.arrays import Array, namespace, span, to_host
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, Scratch, apply_whole, norm
from hpcml.sync.conits import Conits, Measured, gather
from hpcml.sync.nodes import Nodes
from hpcml.sync.reducers import TreeSum
from hpcml.sync.synchroniser import Arrays, divide


class Replica:
    """One worker's own model: parameters, optimizer state, and the sums of its tails since it last told them."""

    def __init__(self, arena: Arena, rule: Rule) -> None:
        """Begin with the arena's parameters."""
        self.data: Array = arena.vector()
        self.data[:] = arena.data
        self.slots = namespace(arena.data).zeros((rule.slots, arena.n), arena.dtype)
        self.sums = namespace(arena.data).zeros(len(Tail), arena.dtype)
        self.measured = Measured()


class Replicas:
    """The models of the workers that this rank hosts; iterates over them in the order of the workers."""

    def __init__(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        """Give each hosted worker a model with the arena's parameters."""
        self.arena, self.rule, self.grad = arena, rule, arena.grad
        hosted = span(workers, nodes.order.size, nodes.order.rank)
        self.hosted = range(hosted.start, hosted.stop)
        self._all = {worker: Replica(arena, rule) for worker in self.hosted}
        self._scratch = Scratch(arena.data, arena.parts(), arena.trained)
        self._comm = nodes.order
        self._tails = TreeSum(nodes.order, workers, 0, len(Tail), arena.dtype, namespace(arena.data))

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._all.values())

    def __getitem__(self, worker: int) -> Replica:
        return self._all[worker]

    def enter(self, worker: int) -> None:
        """Point the arena at this worker's model and at the memory for its gradient, which all replicas share."""
        self.arena.point(data=self._all[worker].data, grad=self.grad)

    def step(self, worker: int, step: int, gap: int | None = None) -> None:
        """Move this worker's model by the gradient in the arena, unless it has a fault or weighs nothing.

        Args:
            worker: one of those hosted here.
            step: number of the step, from 0.
            gap: how many steps of some other worker its model lacks; left out, as many as it took since its last meeting.
        """
        replica, n = self._all[worker], self.arena.n
        replica.measured.add_step(gap)
        replica.sums += self.grad[n:]
        tail = to_host(self.grad[n:])
        if tail[Tail.WEIGHT] > 0 and not tail[Tail.FAULTS]:
            grad = self.grad[:n]
            divide(grad, tail[Tail.WEIGHT])
            apply_whole(self.rule, replica.data, grad, replica.slots, step, self._scratch)

    def adopt(self, data: Array, slots: Array) -> None:
        """Overwrite every model and its optimizer state with these."""
        for replica in self:
            replica.data[:], replica.slots[:] = data, slots

    def sum_tails(self) -> np.ndarray:
        """Return the sums of all workers' tails since they last told them, on every rank; nothing is forgotten."""
        for replica in self:
            self._tails.buffer()[:] = replica.sums
            self._tails.add()
        return self._tails.finish()

    def conits(self, common: Array | None = None) -> Conits:
        """Return what all workers measured, and their distances now from a common model (n,) if there is one; every rank calls it."""
        distances, apart = [], self.grad[: self.arena.n]
        for replica in self if common is not None else ():
            namespace(apart).subtract(replica.data, common, out=apart)
            distances.append(norm(apart))
        return gather([replica.measured for replica in self], self._comm, distances)

    def state(self, worker: int) -> Arrays:
        """Return the arrays of one hosted worker; the run's own memory."""
        replica = self._all[worker]
        return {"data": replica.data, "slots": replica.slots, "sums": replica.sums, "conits": replica.measured.numbers}
