"""Backup workers: the first to come count, once, whatever the order; the others are dropped and counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.comm.alone import Alone
from hpcml.errors import ConfigError
from hpcml.nn import Tail
from hpcml.optim import SGD
from hpcml.sync import EveryStep
from hpcml.sync.arrivals import Drawn, Recorded
from tests.laws import Job, SynchroniserLaws

V, RATE = 6, 0.1


class BackupJob(Job):
    """A job that leaves out what comes too late, as the trainer does."""

    def rows(self, step, worker):
        return 0 if self.sync.drops(worker, step) else super().rows(step, worker)


class TestBackupWorkers(SynchroniserLaws):
    def make(self, sum):
        return EveryStep(sum, spare=2, arrivals=Drawn(3))

    def job(self, comm, sum=None, rule=None):
        return BackupJob(self.make(sum) if sum else EveryStep(spare=2, arrivals=Drawn(3)), comm, self.workers, rule or self.rule)


orders = st.lists(st.permutations(range(V)), min_size=4, max_size=4)


@settings(max_examples=40)
@given(orders, st.integers(0, V - 1))
def test_each_step_moves_by_the_mean_over_those_who_came_in_time_and_nothing_is_used_twice(orders, spare):
    plan = EveryStep(spare=spare, arrivals=Recorded(tuple(map(tuple, orders))))
    run, judge = BackupJob(plan, Alone(), V, SGD(RATE)), Job(EveryStep(), Alone(), V, SGD(RATE))
    x = run.arena.data.copy()
    for step, order in enumerate(orders):
        total, rows = np.zeros_like(x), 0
        for worker in order[: V - spare]:
            judge.arena.point(data=x.copy())
            judge._differentiate(step, worker)
            total += judge.arena.grad[: len(x)]
            rows += judge.rows(step, worker)
        x = x - RATE * total / max(rows, 1)
        (sums,) = run.steps(step, step + 1)
        assert sums[Tail.ROWS] == rows
        np.testing.assert_allclose(run.weights(), x, rtol=1e-11, atol=1e-13)


def test_without_backup_workers_it_is_synchronous_sgd_to_the_bit():
    one, other = (BackupJob(plan, Alone(), V, SGD(RATE, 0.9)) for plan in (EveryStep(spare=0, arrivals=Drawn(9)), EveryStep()))
    one.steps(0, 6)
    other.steps(0, 6)
    np.testing.assert_array_equal(one.weights(), other.weights())


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 100), st.data())
def test_a_drawn_order_names_everybody_once_and_the_slow_last(workers, seed, step, data):
    slow = tuple(data.draw(st.lists(st.integers(0, workers - 1), unique=True)))
    order = Drawn(seed, slow).order(step, workers)
    assert sorted(order) == list(range(workers))
    assert tuple(order[workers - len(slow) :]) == slow
    assert order == Drawn(seed, slow).order(step, workers)


def test_everybody_comes_last_at_some_step():
    assert {Drawn(1).order(step, V)[-1] for step in range(100)} == set(range(V))


def test_a_record_is_read_back_and_told_apart_by_its_digest(tmp_path):
    path = tmp_path / "arrivals.jsonl"
    path.write_text("[2, 0, 1]\n[0, 1, 2]\n")
    record = Recorded.read(path)
    assert record.order(1, 3) == [0, 1, 2]
    assert record == Recorded(((2, 0, 1), (0, 1, 2)))
    assert repr(record) != repr(Recorded(((0, 2, 1), (0, 1, 2))))
    assert "2, 0" not in repr(record)


def test_a_record_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "arrivals.jsonl"
    path.write_text("[0, 1]\n3\n")
    for wrong, part in {
        lambda: Recorded.read(path): r"line 2 is no list of workers such as \[2, 0, 1\]",
        lambda: Recorded.read(tmp_path / "absent"): "no readable record",
        lambda: Recorded(((0, 1),)).order(1, 2): "has 1 steps, step 1 is asked for",
        lambda: Recorded(((0, 0),)).order(0, 2): "each of 2 workers once",
        lambda: EveryStep(spare=-1): "sync.spare is -1",
        lambda: Job(EveryStep(spare=6), Alone(), V, SGD(RATE)): "give 5 or fewer",
        lambda: Job(EveryStep(spare=1, arrivals=Drawn(slow=(6,))), Alone(), V, SGD(RATE)): "workers 0 to 5",
    }.items():
        with pytest.raises(ConfigError, match=part):
            wrong()
