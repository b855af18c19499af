"""Synchronous SGD: one model, and the mean of all workers' gradients at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array
from hpcml.comm.communicator import everywhere
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule
from hpcml.sync.arrivals import Arrivals, Drawn
from hpcml.sync.model import SharedModel
from hpcml.sync.nodes import Nodes
from hpcml.sync.synchroniser import Adopting, Arrays, ExactTree, Quiet, Sum, scaled


@dataclass(frozen=True, slots=True)
class EveryStep:
    """Make the gradients of every step their weighted mean over all workers (bulk synchronous parallel SGD).

    Args:
        sum: how to sum over the workers.
        spare: k backup workers: the gradients of the last k to come are dropped, and their rows counted as too late.
        arrivals: which those are, a function of the step, so that the run can be repeated on any number of ranks.

    References:
        Valiant, A bridging model for parallel computation, CACM 1990; Verbraeken et al., survey, 2020, section 3.4;
        Chen, Pan, Monga, Bengio and Jozefowicz, Revisiting distributed synchronous SGD, 2016 (backup workers).
    """

    sum: Sum = field(default_factory=ExactTree)
    spare: int = 0
    arrivals: Arrivals = field(default_factory=Drawn)

    def __post_init__(self) -> None:
        """Refuse a negative number of backup workers."""
        if self.spare < 0:
            raise ConfigError(f"sync.spare is {self.spare}; there are 0 or more backup workers")

    def late(self, step: int, workers: int) -> set[int]:
        """Return the workers that do not count at a step.

        Raises:
            ConfigError: on every rank, if the arrivals do not know.
        """
        try:
            return set(self.arrivals.order(step, workers)[workers - self.spare :])
        except ConfigError as error:
            raise everywhere(error) from None

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory.

        Raises:
            ConfigError: on every rank, if no worker would be left to count, or the arrivals are of others.
        """
        if self.spare >= workers:
            text = f"sync.spare is {self.spare}; of {workers} workers at least one must count"
            raise everywhere(ConfigError(f"{text}: give {workers - 1} or fewer"))
        self.late(0, workers)
        return _Running(self, arena, nodes, workers, rule)


class _Running(Quiet):
    def __init__(self, plan: EveryStep, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena, self.plan, self.workers = arena, plan, workers
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=SharedModel.vectors(rule))
        self.model = SharedModel(arena, rule, self.reducer)
        self.late: tuple[int, set[int]] = (-1, set())
        arena.point(data=self.model.data, grad=self.reducer.buffer())

    def drops(self, worker: int, step: int) -> bool:
        if not self.plan.spare:
            return False
        if self.late[0] != step:
            self.late = step, self.plan.late(step, self.workers)
        return worker in self.late[1]

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

    def shared_state(self) -> Arrays:
        return {"weights": self.model.data, "slots": self.model.slots}
