"""L-BFGS as a strategy: the minimum of a convex loss, what a pass sends, and what is refused.

Letters: n parameters, V workers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hpcml.comm import simulated
from hpcml.comm.alone import Alone
from hpcml.errors import ConfigError
from hpcml.nn import BatchNorm, Dense, Model, Tail, mlp
from hpcml.optim import LARS, SGD, AdamW, Cosine
from hpcml.sync import LBFGS, Nodes
from tests.laws import SynchroniserLaws

V, STEPS = 3, 2


class TestLBFGS(SynchroniserLaws):
    rule = SGD(0.1, decay=0.01)

    def make(self, sum):
        return LBFGS(3, memory=2, sum=sum)


class Bowls:
    """A quadratic a worker and step, of different weights: with the penalty, their weighted mean has one minimum."""

    def __init__(self, n: int, decay: float) -> None:
        random = np.random.default_rng(5)
        halves = random.standard_normal((V, STEPS, n, n))
        self.hessians = halves @ halves.swapaxes(-1, -2) * np.logspace(-1, 1, n)
        self.hessians = (self.hessians + self.hessians.swapaxes(-1, -2)) / 2 + n * np.eye(n)
        self.centres, self.rows = random.standard_normal((V, STEPS, n)), random.integers(1, 9, (V, STEPS))
        shares = (self.rows / self.rows.sum())[..., None, None]
        self.hessian = (shares * self.hessians).sum((0, 1)) + decay * np.eye(n)
        self.minimum = np.linalg.solve(self.hessian, (shares[..., 0] * (self.hessians @ self.centres[..., None])[..., 0]).sum((0, 1)))

    def differentiate(self, arena, worker, step):
        away, rows = arena.data - self.centres[worker, step], self.rows[worker, step]
        arena.grad[: arena.n] = rows * (self.hessians[worker, step] @ away)
        arena.tail[:] = 0
        arena.tail[Tail.WEIGHT] = arena.tail[Tail.ROWS] = rows
        arena.tail[Tail.LOSS] = rows * 0.5 * away @ self.hessians[worker, step] @ away


def descend(comm, passes, decay=0.3):
    """Return the best model after some passes, the losses of all trials, and the bowls."""
    arena = mlp([4, 3], dtype=np.float64).arena
    bowls, nodes = Bowls(arena.n, decay), Nodes(comm)
    sync = LBFGS(STEPS).start(arena, nodes, V, SGD(1.0, decay=decay))
    losses = []
    for step in range(passes * STEPS):
        for worker in sync.sums:
            sync.enter(worker)
            bowls.differentiate(arena, worker, step % STEPS)
            sync.leave(worker, step)
        sums = sync.exchange(step)
        assert (sums is None) == (step % STEPS != STEPS - 1)
        if sums is not None:
            sync.update(step, sums)
            losses.append(sync.bracket.start)
    sync.consensus()
    best = arena.data.copy()
    nodes.close()
    return best, losses, bowls


def test_it_finds_the_minimum_of_a_convex_loss_with_its_penalty_and_never_goes_up():
    best, losses, bowls = descend(Alone(), 60)
    np.testing.assert_allclose(best, bowls.minimum, rtol=1e-8, atol=1e-8)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))


def test_the_bits_are_those_of_one_rank():
    expected = descend(Alone(), 20)[0].tobytes()
    for ranks in (2, 3):
        assert set(simulated.run(ranks, lambda comm: descend(comm, 20)[0].tobytes())) == {expected}


@pytest.mark.parametrize("rule", [SGD(0.1, momentum=0.9), SGD(Cosine(0.1, 10)), AdamW(0.1), LARS(0.1)])
def test_a_rule_with_steps_of_its_own_is_refused(rule):
    with pytest.raises(ConfigError, match="finds its own steps"):
        LBFGS(3).start(mlp([4, 3]).arena, Nodes(Alone()), 2, rule)


def test_running_statistics_and_passes_or_histories_of_nothing_are_refused():
    arena = Model([Dense(3), BatchNorm()], (4,)).arena
    with pytest.raises(ConfigError, match="running statistics"):
        LBFGS(3).start(arena, Nodes(Alone()), 2, SGD(0.1))
    for every, memory in ((0, 10), (3, 0)):
        with pytest.raises(ConfigError, match="1 or more"):
            LBFGS(every, memory)
