"""Gradients one step late: the equation, and what is on its way."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.comm.alone import Alone
from hpcml.nn import Tail
from hpcml.optim import SGD, Steps
from hpcml.sync import Delayed, EveryStep
from tests.laws import Job

V = 6


def test_each_step_uses_the_gradient_of_the_step_before_at_the_rate_of_that_step():
    rate = Steps(0.1, every=3, factor=0.5)
    run, judge = Job(Delayed(), Alone(), V, SGD(rate)), Job(EveryStep(), Alone(), V, SGD(rate))
    x = run.arena.data.copy()
    late = np.zeros_like(x)
    for step in range(8):
        total, rows = np.zeros_like(x), 0
        for worker in range(V):
            judge.arena.point(data=x.copy())
            judge._differentiate(step, worker)
            total += judge.arena.grad[: len(x)]
            rows += judge.rows(step, worker)
        if step:
            x = x - rate(step - 1) * late
        late = total / rows
        run.steps(step, step + 1)
        np.testing.assert_allclose(run.weights(), x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("asked", [False, True])
def test_the_last_gradient_is_counted_as_waiting_once_whether_or_not_somebody_asks(asked):
    run = Job(Delayed(), Alone(), V, SGD(0.1))
    counted = []
    for step in range(5):
        counted += run.steps(step, step + 1)
        if asked:
            assert run.sync.consensus()[Tail.ROWS] == run.sync.consensus()[Tail.ROWS] > 0
    assert len(counted) == 4
    assert sum(counted)[Tail.ROWS] + run.sync.consensus()[Tail.ROWS] == sum(run.rows(s, w) for s in range(5) for w in range(V))


def test_staleness_is_one_step_after_the_first():
    run = Job(Delayed(), Alone(), V, SGD(0.1))
    run.steps(0, 5)
    assert run.sync.conits().staleness == {0: V, 1: 4 * V}
