"""Synchronous SGD: one model, and the mean of all workers' gradients at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule
from hpcml.sync.model import SharedModel
from hpcml.sync.nodes import Nodes
from hpcml.sync.synchroniser import Adopting, Arrays, ExactTree, Sum, scaled


@dataclass(frozen=True, slots=True)
class EveryStep:
    """Make the gradients of every step their weighted mean over all workers (bulk synchronous parallel SGD).

    References:
        Valiant, A bridging model for parallel computation, CACM 1990; Verbraeken et al., survey, 2020, section 3.4.
    """

    sum: Sum = field(default_factory=ExactTree)

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Running:
    def __init__(self, plan: EveryStep, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena = arena
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=SharedModel.vectors(rule))
        self.model = SharedModel(arena, rule, self.reducer)
        arena.point(data=self.model.data, grad=self.reducer.buffer())

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.model.data, grad=self.reducer.buffer())

    def ready(self, span: slice) -> None:
        self.reducer.ready(span)

    def leave(self, worker: int, step: int) -> None:
        self.reducer.add()

    def exchange(self, step: int) -> np.ndarray:
        return self.reducer.finish()

    def update(self, step: int, sums: np.ndarray) -> None:
        if sums[Tail.WEIGHT]:  # else no row counted: all weigh nothing, or all were left out
            self.model.move(scaled(self.reducer.parts(), sums[Tail.WEIGHT]), step)
        self.reducer.settle()

    def consensus(self) -> np.ndarray:
        self.arena.point(data=self.model.data)
        return np.zeros(len(Tail))

    def adopt(self, data: Array, slots: Array) -> None:
        self.model.adopt(data, slots)

    def settle(self) -> None:
        self.reducer.settle()

    def conits(self) -> None:
        return None

    def shared_state(self) -> Arrays:
        return {"weights": self.model.data, "slots": self.model.slots}

    def worker_state(self, worker: int) -> Arrays:
        return {}
