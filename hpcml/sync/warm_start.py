"""Synchronous steps first, another strategy afterwards: post-local SGD, and the warm start of strategies with replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena
from hpcml.optim import Rule
from hpcml.sync.conits import Conits
from hpcml.sync.ensemble import Members
from hpcml.sync.every_step import EveryStep
from hpcml.sync.nodes import Nodes
from hpcml.sync.synchroniser import AdoptingPlan, Arrays, Sum, Synchroniser


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Synchronous SGD for the first `steps` steps, then `then`, whose workers begin with the common model and optimizer state.

    The memory of both is held for the whole run: one model and optimizer state more.

    References:
        Lin, Stich, Patel and Jaggi, Don't use large mini-batches, use local SGD, ICLR 2020 (post-local SGD).
    """

    steps: int
    then: AdoptingPlan
    sum: Sum = field(init=False)

    def __post_init__(self) -> None:
        """Refuse a warm start without a step; sum as `then` does."""
        if self.steps < 1:
            raise ConfigError(f"sync.warm_epochs comes to {self.steps} steps; a warm start needs 1 or more, or leave it out")
        object.__setattr__(self, "sum", self.then.sum)

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Running:
    def __init__(self, plan: WarmStart, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.then = plan.then.start(arena, nodes, workers, rule)
        self.first = EveryStep(plan.sum).start(arena, nodes, workers, rule)
        self.steps, self.warm = plan.steps, np.zeros(1, np.uint8)

    @property
    def now(self) -> Synchroniser:
        return self.then if self.warm[0] else self.first

    def enter(self, worker: int) -> None:
        self.now.enter(worker)

    def drops(self, worker: int, step: int) -> bool:
        return self.now.drops(worker, step)

    @property
    def losable(self) -> bool:
        return self.now.losable

    def lost(self, worker: int, step: int) -> bool:
        return self.now.lost(worker, step)

    def ready(self, span: slice) -> None:
        self.now.ready(span)

    def leave(self, worker: int, step: int) -> None:
        self.now.leave(worker, step)

    def exchange(self, step: int) -> np.ndarray | None:
        return self.now.exchange(step)

    def update(self, step: int, sums: np.ndarray) -> None:
        self.now.update(step, sums)
        if step + 1 == self.steps:
            state = self.first.shared_state()
            self.then.adopt(state["weights"], state["slots"])
            self.warm[0] = 1

    def consensus(self) -> np.ndarray:
        return self.now.consensus()

    def settle(self) -> None:
        self.first.settle()
        self.then.settle()

    def members(self) -> Members | None:
        return self.now.members()

    def conits(self) -> Conits | None:
        return self.then.conits()

    def shared_state(self) -> Arrays:
        both = {f"first_{name}": x for name, x in self.first.shared_state().items()}
        return {**both, **self.then.shared_state(), "warm": self.warm}

    def worker_state(self, worker: int) -> Arrays:
        return self.then.worker_state(worker)
