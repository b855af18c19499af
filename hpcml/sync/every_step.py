"""Synchronous SGD: one model, and the mean of all workers' gradients at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import namespace
from hpcml.comm.communicator import Communicator
from hpcml.nn.arena import Arena, Tail
from hpcml.optim.rules import Rule, Scratch
from hpcml.sync.reducers import divide
from hpcml.sync.synchroniser import Arrays, ExactTree, Sum, Synchroniser, host_tail, state_vectors


@dataclass(frozen=True, slots=True)
class EveryStep:
    """Make the gradients of every step their weighted mean over all workers (bulk synchronous parallel SGD).

    References:
        Valiant, A bridging model for parallel computation, CACM 1990; Verbraeken et al., survey, 2020, section 3.4.
    """

    sum: Sum = field(default_factory=ExactTree)

    def start(self, arena: Arena, comm: Communicator, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, comm, workers, rule)


class _Running:
    def __init__(self, plan: EveryStep, arena: Arena, comm: Communicator, workers: int, rule: Rule) -> None:
        self.arena, self.rule, self.data = arena, rule, arena.data
        self.reducer = plan.sum.reducer(comm, workers, arena.length, arena.dtype, namespace(arena.data))
        self.slots = state_vectors(rule, arena)
        self.scratch = Scratch(arena.data, arena.parts())

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.data, grad=self.reducer.buffer())

    def leave(self, worker: int, step: int) -> None:
        self.reducer.add()

    def exchange(self, step: int) -> np.ndarray:
        self.arena.point(grad=self.reducer.total())
        return host_tail(self.arena.grad, self.arena.n)

    def update(self, step: int, sums: np.ndarray) -> None:
        n, grad = self.arena.n, self.arena.grad
        if not sums[Tail.WEIGHT]:
            return  # no row counted: all weigh nothing, or all were left out
        divide(grad, n, sums[Tail.WEIGHT])
        self.rule.update(self.data, grad[:n], self.slots, step, self.scratch)

    def consensus(self) -> np.ndarray:
        self.arena.point(data=self.data)
        return np.zeros(len(Tail))

    def shared_state(self) -> Arrays:
        return {"weights": self.data, "slots": self.slots}

    def worker_state(self, worker: int) -> Arrays:
        return {}
