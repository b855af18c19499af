"""L-BFGS over the virtual workers: each pass over the training rows is one evaluation of the loss and of its gradient.

Workers add up their own gradients over the pass at parameters that stay; then one exact sum gives the gradient. From there on each rank
works on slices in float64: history, direction and gradient lie 1 / P with each. Whole are only the parameters, twice, and the sums of
gradients, since a model needs them. Dots are summed over fixed blocks, so the bits are the same on any number of ranks; a pass sends one
sum of gradients, the new parameters, and a few numbers.
Letters: n parameters, V workers, P ranks, m pairs of history; a rank keeps (2 m + 5) n / P float64.

References:
    Liu and Nocedal, On the limited memory BFGS method for large scale optimization, 1989;
    Dean et al., Large scale distributed deep networks, NIPS 2012, section 4.2 (full batches by many workers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import namespace, span
from hpcml.comm.communicator import everywhere
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import SGD, Constant, Rule, rate_at
from hpcml.sync.lbfgs import Bracket, VectorFree, Verdict
from hpcml.sync.nodes import Nodes
from hpcml.sync.reducers import TreeSum
from hpcml.sync.slices import Slices
from hpcml.sync.synchroniser import Arrays, ExactTree, Quiet, Sum, Synchroniser, scaled

TRIES = 10
"""Passes along one direction; then the history is forgotten, and the search goes on straight down."""


@dataclass(frozen=True, slots=True)
class LBFGS:
    """Move once a pass over all rows, by L-BFGS with a line search that satisfies the strong Wolfe conditions.

    The rule must be SGD without momentum at a constant rate: its rate is the length of the very first step, its decay the L2 penalty.
    The model that is judged and saved is the best that a pass has looked at; the loss must be a function of the parameters alone.

    Args:
        every: steps of a pass.
        memory: m, 1 or more.
        sum: how to sum over the workers.
    """

    every: int
    memory: int = 10
    sum: Sum = field(default_factory=ExactTree)

    def __post_init__(self) -> None:
        """Refuse a pass without steps, and no history."""
        if self.every < 1 or self.memory < 1:
            raise ConfigError(
                f"L-BFGS over passes of {self.every} steps with sync.memory = {self.memory}; each is 1 or more (10 pairs are usual)"
            )

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory.

        Raises:
            ConfigError: on every rank, for a rule or a model that does not fit.
        """
        for problem in _misfits(arena, rule):
            raise everywhere(ConfigError(problem))
        return _Running(self, arena, nodes, workers, rule)


def _misfits(arena: Arena, rule: Rule) -> Iterator[str]:
    if not isinstance(rule, SGD) or rule.momentum or not isinstance(rule.rate, int | float | Constant):
        yield 'L-BFGS finds its own steps: set optimizer.name = "sgd" without momentum, clipping, warm-up or a changing rate'
    if arena.trained != arena.n:
        yield 'L-BFGS needs a loss of the parameters alone, and running statistics change it; choose sync.name = "every-step"'
    if namespace(arena.data) is not np:
        yield 'L-BFGS keeps its history in host memory; set run.device = "cpu"'


class _Running(Quiet):
    def __init__(self, plan: LBFGS, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        assert isinstance(rule, SGD)
        self.arena, self.plan, self.grad = arena, plan, arena.grad
        self.first, self.decay = rate_at(rule, 0), rule.decay
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=1)
        self.total = self.reducer.vector()
        run = span(workers, nodes.order.size, nodes.order.rank)
        self.sums = {worker: arena.vector(tail=True) for worker in range(run.start, run.stop)}
        self._tails = TreeSum(nodes.order, workers, 0, len(Tail), arena.dtype)
        self.trial, self.best = arena.vector(), arena.vector()
        self.trial[:] = self.best[:] = arena.data
        self.begun = np.zeros(1, np.int64)
        self.slices = Slices(nodes.order, arena.n, workers)
        mine = self.slices.own.stop - self.slices.own.start
        self.gradient, self.way = np.zeros(mine), np.zeros(mine)
        self.history = VectorFree(self.slices.dots, mine, plan.memory)
        self.bracket = Bracket(rounding=8 * float(np.finfo(arena.dtype).eps), tries=TRIES)
        arena.point(data=self.best)

    def enter(self, worker: int) -> None:
        self.arena.point(data=self.trial, grad=self.grad)

    def leave(self, worker: int, step: int) -> None:
        self.sums[worker] += self.grad

    def exchange(self, step: int) -> np.ndarray | None:
        """Sum what all workers added up, at the last step of a pass."""
        if (step + 1) % self.plan.every:
            return None
        for sums in self.sums.values():
            self.reducer.buffer()[:] = sums
            self.reducer.add()
            sums.fill(0)
        return self.reducer.finish()

    def update(self, step: int, sums: np.ndarray) -> None:
        """Take the loss and the gradient of the pass, and choose where the next one looks."""
        if sums[Tail.WEIGHT]:
            for part, block in scaled(self.reducer.parts(), sums[Tail.WEIGHT]):
                self.total[part] = block
        self.reducer.settle()
        if sums[Tail.WEIGHT]:
            here = self.trial[self.slices.own].astype(np.float64)
            gradient = self.total[self.slices.own] + self.decay * here
            square, slope = self.slices.dots([(here, here), (gradient, self.way)])
            self._search(float(sums[Tail.LOSS] / sums[Tail.WEIGHT] + 0.5 * self.decay * square), float(slope), gradient)
        self.reducer.settle()  # nobody overwrites a gradient that another still reads

    def _search(self, loss: float, slope: float, gradient: np.ndarray) -> None:
        """Accept the trial, or look elsewhere along the way, or begin anew straight down from the best."""
        verdict, own = self.bracket.judge(loss, slope) if self.begun[0] else Verdict.TAKEN, self.slices.own
        if verdict is Verdict.TAKEN:
            if self.begun[0]:
                self.history.push(np.subtract(self.trial[own], self.best[own], dtype=np.float64), gradient - self.gradient)
            self.best[:], self.gradient[:] = self.trial, gradient
            self._turn(loss)
        elif verdict is Verdict.GIVEN_UP:
            self.history.forget()
            self._turn(self.bracket.start)
        self.begun[0] = 1
        self.trial[own] = self.best[own] + self.bracket.step * self.way
        self.slices.gather(self.trial)

    def _turn(self, loss: float) -> None:
        """Take the direction at the best model, and go its whole length; without a history, as far as the rate says."""
        downhill = self.history.find(self.gradient, self.way)
        first = 1.0 if self.history.pairs else self.first / max(float(np.sqrt(-downhill)), 1e-300)
        self.bracket.begin(loss, downhill, first)

    def consensus(self) -> np.ndarray:
        for sums in self.sums.values():
            self._tails.buffer()[:] = sums[self.arena.n :]
            self._tails.add()
        self.arena.point(data=self.best)
        return self._tails.finish()

    def shared_state(self) -> Arrays:
        own = {"trial": self.trial, "best": self.best, "begun": self.begun}
        return own | {"bracket": self.bracket.numbers} | self.history.state()

    def worker_state(self, worker: int) -> Arrays:
        part = self.slices.part(worker)
        own = {"sums": self.sums[worker], "gradient": self.gradient[part], "way": self.way[part]}
        return own | {"steps": self.history.steps[:, part], "changes": self.history.changes[:, part]}
