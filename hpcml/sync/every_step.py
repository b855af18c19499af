"""Synchronous SGD: one model, and the mean of all workers' gradients at every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, Scratch, apply
from hpcml.sync.nodes import Nodes
from hpcml.sync.reducers import Part
from hpcml.sync.synchroniser import Arrays, ExactTree, Sum, Synchroniser, scaled


@dataclass(frozen=True, slots=True)
class EveryStep:
    """Make the gradients of every step their weighted mean over all workers (bulk synchronous parallel SGD).

    References:
        Valiant, A bridging model for parallel computation, CACM 1990; Verbraeken et al., survey, 2020, section 3.4.
    """

    sum: Sum = field(default_factory=ExactTree)

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Running:
    def __init__(self, plan: EveryStep, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena, self.rule = arena, rule
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=1 + rule.slots + rule.looks)
        self.data, self.slots = self.reducer.vector(), self.reducer.vector(rule.slots)
        self.mean = self.reducer.vector() if rule.looks else None
        self.scratch = Scratch(arena.data, arena.parts(), arena.trained)
        self.data[:] = arena.data
        self.reducer.settle()
        arena.point(data=self.data, grad=self.reducer.buffer())

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.data, grad=self.reducer.buffer())

    def ready(self, span: slice) -> None:
        self.reducer.ready(span)

    def leave(self, worker: int, step: int) -> None:
        self.reducer.add()

    def exchange(self, step: int) -> np.ndarray:
        return self.reducer.finish()

    def update(self, step: int, sums: np.ndarray) -> None:
        if not sums[Tail.WEIGHT]:  # no row counted: all weigh nothing, or all were left out
            self.reducer.settle()
            return
        blocks = scaled(self.reducer.parts(), sums[Tail.WEIGHT])
        if self.mean is None:
            apply(self.rule, self.data, blocks, self.slots, step, self.scratch)
        else:
            self._look_and_apply(step, self.mean, blocks)
        self.reducer.settle()

    def _look_and_apply(self, step: int, mean: Array, blocks: Iterator[Part]) -> None:
        """Apply a rule that looks at whole vectors: each rank first shows its part of the mean gradient to all."""
        for span, g in blocks:
            mean[span] = g
        self.reducer.settle()
        trained = slice(0, self.arena.trained)
        look = self.rule.look(self.data[trained], mean[trained], self.scratch.parts)
        self.reducer.settle()  # nobody moves a parameter that another still looks at
        owned = ((span, mean[span]) for part in self.reducer.owned for span in self.scratch.spans(part))
        apply(self.rule, self.data, owned, self.slots, step, self.scratch, look)

    def consensus(self) -> np.ndarray:
        self.arena.point(data=self.data)
        return np.zeros(len(Tail))

    def settle(self) -> None:
        self.reducer.settle()

    def shared_state(self) -> Arrays:
        return {"weights": self.data, "slots": self.slots}

    def worker_state(self, worker: int) -> Arrays:
        return {}
