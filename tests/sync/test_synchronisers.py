from __future__ import annotations

import numpy as np
import pytest

from hpcml.arrays import Device
from hpcml.comm.alone import Alone
from hpcml.comm.topologies import ONE_PEER, RING, matrix, pairs
from hpcml.errors import ConfigError
from hpcml.nn import Tail
from hpcml.optim import LAMB, LARS, SGD, AdamW, Clipped, Steps
from hpcml.sync import (
    COMBINES,
    SUMS,
    Adaptive,
    BlockMomentum,
    Delayed,
    Elastic,
    Ensemble,
    EveryStep,
    ExactTree,
    Gossip,
    LocalSteps,
    OuterRule,
    WarmStart,
    slow_momentum,
)
from tests.laws import Job, SynchroniserLaws


class TestEveryStep(SynchroniserLaws):
    def make(self, sum):
        return EveryStep(sum)


class TestEveryStepWithAdam(TestEveryStep):
    rule = AdamW(0.01)


class TestEveryStepWithClippedLARS(TestEveryStep):
    rule = Clipped(LARS(0.1, decay=0.01), 0.5)


class TestEveryStepWithClippedLAMB(TestEveryStep):
    rule = Clipped(LAMB(0.02), 0.5)


class TestModelsAveragedEveryStep(SynchroniserLaws):
    def make(self, sum):
        return LocalSteps(1, sum)


class TestModelsAveragedEveryThirdStep(SynchroniserLaws):
    def make(self, sum):
        return LocalSteps(3, sum)


class TestModelsAveragedEveryThirdStepWithAdam(TestModelsAveragedEveryThirdStep):
    rule = AdamW(0.01)


class TestModelsThatMeetOnlyAtTheEnd(SynchroniserLaws):
    def make(self, sum):
        return LocalSteps(100, sum)


class TestDiLoCo(SynchroniserLaws):
    rule = AdamW(0.01)

    def make(self, sum):
        return LocalSteps(3, sum, OuterRule(SGD(0.7, momentum=0.9, nesterov=True)))


class TestBlockMomentum(SynchroniserLaws):
    def make(self, sum):
        return LocalSteps(2, sum, BlockMomentum())


class TestSlowMomentum(SynchroniserLaws):
    rule = SGD(Steps(0.1, every=3), momentum=0.9)

    def make(self, sum):
        return LocalSteps(2, sum, slow_momentum(0.9, 0.5))


class TestAnOuterRuleThatLooksAtWholeVectors(SynchroniserLaws):
    def make(self, sum):
        return LocalSteps(2, sum, OuterRule(Clipped(AdamW(0.05), 0.01), paced=True))


class TestAdaptivePeriods(SynchroniserLaws):
    def make(self, sum):
        return LocalSteps(Adaptive(4), sum)


class TestPostLocal(SynchroniserLaws):
    def make(self, sum):
        return WarmStart(3, LocalSteps(2, sum))


class TestBlockMomentumAfterAWarmStartWithAdam(SynchroniserLaws):
    rule = AdamW(0.01)

    def make(self, sum):
        return WarmStart(4, LocalSteps(3, sum, BlockMomentum(0.5)))


class TestElasticAveraging(SynchroniserLaws):
    def make(self, sum):
        return Elastic(2, sum=sum)


class TestFourElasticGroupsOfUnequalSize(SynchroniserLaws):
    rule = Clipped(SGD(0.1, momentum=0.9, nesterov=True), 0.5)

    def make(self, sum):
        return Elastic(3, groups=4, moving=0.5, sum=sum)


class TestTwoElasticGroupsAfterAWarmStartWithAdam(SynchroniserLaws):
    rule = AdamW(0.01)

    def make(self, sum):
        return WarmStart(2, Elastic(2, groups=2, sum=sum))


class TestGossipOnARing(SynchroniserLaws):
    def make(self, sum):
        return Gossip(RING, sum=sum)


class TestGossipWithRandomPartnersEverySecondStep(SynchroniserLaws):
    rule = AdamW(0.01)

    def make(self, sum):
        return Gossip(pairs(5), every=2, sum=sum)


class TestDecentralisedSGDWithOnePeerAfterAWarmStart(SynchroniserLaws):
    def make(self, sum):
        return WarmStart(3, Gossip(ONE_PEER, earlier=True, sum=sum))


UNBALANCED = matrix(
    [
        [0.5, 0, 0, 0, 0, 0.25],
        [0.5, 0.5, 0, 0, 0, 0.25],
        [0, 0.5, 0.5, 0, 0, 0],
        [0, 0, 0.5, 1 / 3, 0, 0.25],
        [0, 0, 0, 1 / 3, 0.5, 0.25],
        [0, 0, 0, 1 / 3, 0.5, 0],
    ]
)
"""A directed graph of 6 workers who hear of unequal many; columns sum to 1, rows do not."""


class TestPushSum(SynchroniserLaws):
    def make(self, sum):
        return Gossip(UNBALANCED, pushed=True, sum=sum)


class TestAnEnsemble(SynchroniserLaws):
    def make(self, sum):
        return Ensemble(COMBINES["stack"], sum)


class TestAnEnsembleAfterAWarmStart(SynchroniserLaws):
    rule = AdamW(0.01)

    def make(self, sum):
        return WarmStart(2, Ensemble(sum=sum))


class TestGradientsOneStepLate(SynchroniserLaws):
    def make(self, sum):
        return Delayed(sum)


class TestGradientsOneStepLateWithClippedAdam(SynchroniserLaws):
    rule = Clipped(AdamW(0.01), 0.5)

    def make(self, sum):
        return Delayed(sum)


class EqualRows(Job):
    """A job whose workers all have the same rows: momentum is linear only under constant weights."""

    def rows(self, step, worker):
        return 4


@pytest.mark.parametrize(
    ("job", "rule"), [(Job, SGD(0.1)), (EqualRows, SGD(0.1, momentum=0.9)), (EqualRows, SGD(0.1, momentum=0.9, nesterov=True))]
)
def test_averaging_every_step_is_synchronous_sgd_to_rounding(on_every_rank, job, rule):
    def program(comm):
        one, other = job(EveryStep(), comm, 6, rule), job(LocalSteps(1), comm, 6, rule)
        for step in range(8):
            one.steps(step, step + 1)
            other.steps(step, step + 1)
            np.testing.assert_allclose(other.weights(), one.weights(), rtol=1e-11, atol=1e-13)

    on_every_rank(program)


def test_one_worker_alone_is_plain_sgd():
    job = EqualRows(EveryStep(), Alone(), 1, SGD(0.1))
    plain = EqualRows(EveryStep(), Alone(), 1, SGD(0.1))
    expected = plain.arena.data.copy()
    for step in range(4):
        plain.arena.data[:] = expected
        plain.sync.enter(0)
        plain._differentiate(step, 0)
        expected -= 0.1 * plain.arena.grad[: plain.arena.n] / 4
        job.steps(step, step + 1)
    np.testing.assert_allclose(job.weights(), expected, rtol=1e-13)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_models_meet_exactly_every_so_many_steps(every):
    job = Job(LocalSteps(every), Alone(), 6, SGD(0.1))
    for step in range(10):
        met = bool(job.steps(step, step + 1))
        assert met == ((step + 1) % every == 0)
        replicas = {job.sync.worker_state(worker)["data"].tobytes() for worker in job.hosted}
        assert (len(replicas) == 1) == met


def test_a_period_below_one_step_is_refused():
    with pytest.raises(ConfigError, match=r"sync\.every is 0"):
        LocalSteps(0)


def test_a_worker_with_a_fault_does_not_move_and_the_fault_is_counted():
    job = Job(LocalSteps(2), Alone(), 6, SGD(0.1))
    job.sync.enter(3)
    before = job.arena.data.copy()
    job.arena.grad.fill(0)
    job.arena.tail[Tail.FAULTS] = 1
    job.sync.leave(3, 0)
    np.testing.assert_array_equal(job.sync.worker_state(3)["data"], before)
    assert job.sync.consensus()[Tail.FAULTS] == 1


def test_plans_are_equal_where_they_are_written_equal():
    assert EveryStep() == EveryStep(ExactTree()) == EveryStep(SUMS["tree"])
    assert LocalSteps(3) != LocalSteps(4)
    assert repr(EveryStep(SUMS["ring"])) == repr(EveryStep(SUMS["ring"]))
    assert "0x" not in repr(LocalSteps(8, SUMS["ring"]))


@pytest.mark.gpu
@pytest.mark.parametrize("plan", [EveryStep(), LocalSteps(3)])
def test_a_gpu_follows_the_cpu_to_rounding(plan):
    rule = SGD(0.1, momentum=0.9)
    cpu, gpu = Job(plan, Alone(), 6, rule), Job(plan, Alone(), 6, rule, Device(0))
    cpu.steps(0, 7)
    gpu.steps(0, 7)
    np.testing.assert_allclose(gpu.weights(), cpu.weights(), rtol=1e-10, atol=1e-12)
