"""Ensembles without communication: a model a worker, never averaged in training; their predictions are combined when asked for.

Letters: V members, one a worker; s_m (B, k) what member m's outputs mean: probabilities, or numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array, span
from hpcml.nn.arena import Arena
from hpcml.optim import Rule
from hpcml.sync.local_steps import LocalSteps
from hpcml.sync.meetings import Once
from hpcml.sync.nodes import Nodes
from hpcml.sync.synchroniser import Adopting, Arrays, ExactTree, Quiet, Sum


@dataclass(frozen=True, slots=True)
class Judgement:
    """How the members did on rows that they were not trained on, summed over rows and outputs.

    Args:
        losses: (V,) each member's mean loss.
        products: (V, V) s_m times s_n.
        targets: (V,) s_m times the target, which for classes is 1 for the right one.
    """

    losses: np.ndarray
    products: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, slots=True)
class Combine:
    """How predictions become one: a weighted sum of what the members' outputs mean, or of their votes.

    Args:
        name: of the way.
        votes: each member gives its class all of its weight.
        weigh: judgement -> (V,) weights; None where all weigh alike and nothing is judged.
    """

    name: str
    votes: bool = False
    weigh: Callable[[Judgement], np.ndarray] | None = field(default=None, repr=False)


RIDGE = 1e-3
"""Of stacking, as a share of the mean of the products' diagonal: members that agree share their weight."""


def _best(judged: Judgement) -> np.ndarray:
    """Return all weight for the member with the smallest loss."""
    return np.eye(len(judged.losses))[int(judged.losses.argmin())]


def _stacked(judged: Judgement) -> np.ndarray:
    """Return the weights whose sum of predictions is nearest to the targets, in least squares with a ridge."""
    members = len(judged.losses)
    ridge = RIDGE * np.trace(judged.products) / members
    return np.linalg.solve(judged.products + (ridge or 1.0) * np.eye(members), judged.targets)


COMBINES = {
    "mean": Combine("mean"),
    "vote": Combine("vote", votes=True),
    "best": Combine("best", weigh=_best),
    "stack": Combine("stack", weigh=_stacked),
}
"""Every way to combine, by name: the mean, the vote, a bucket of models of which the best is kept, stacking."""


@dataclass(frozen=True, slots=True)
class Members:
    """The models (n,) of hosted workers, how all workers' predictions become one, and their weights, to be overwritten.

    Each worker has as many models as any other; weights are in the order of the workers, then of their models.
    """

    models: dict[int, Sequence[Array]]
    combine: Combine
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Train one model a worker; predict by all of them. The weights that a checkpoint names are the models' mean.

    References:
        Breiman, Bagging predictors, 1996; Wolpert, Stacked generalization, 1992; Verbraeken et al., survey, 2020, section 3.3.
    """

    combine: Combine = COMBINES["mean"]
    sum: Sum = field(default_factory=ExactTree)

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory."""
        return _Running(self, arena, nodes, workers, rule)


class _Running(Quiet):
    def __init__(self, plan: Ensemble, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.alone = LocalSteps(Once(), plan.sum).start(arena, nodes, workers, rule)
        self.combine, run = plan.combine, span(workers, nodes.order.size, nodes.order.rank)
        self.hosted, self.weights = range(run.start, run.stop), np.full(workers, 1.0 / workers)

    def enter(self, worker: int) -> None:
        self.alone.enter(worker)

    def leave(self, worker: int, step: int) -> None:
        self.alone.leave(worker, step)

    def exchange(self, step: int) -> None:
        """Exchange nothing."""

    def update(self, step: int, sums: np.ndarray) -> None:
        """Do nothing: nothing was exchanged."""

    def members(self) -> Members:
        return Members({worker: [self.alone.worker_state(worker)["data"]] for worker in self.hosted}, self.combine, self.weights)

    def consensus(self) -> np.ndarray:
        return self.alone.consensus()

    def adopt(self, data: Array, slots: Array) -> None:
        self.alone.adopt(data, slots)

    def settle(self) -> None:
        self.alone.settle()

    def shared_state(self) -> Arrays:
        return {**self.alone.shared_state(), "member_weights": self.weights}

    def worker_state(self, worker: int) -> Arrays:
        return self.alone.worker_state(worker)
