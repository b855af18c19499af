"""Periodic averaging and its outer optimizers: their limits, and the equations of their papers taken literally."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.comm.alone import Alone
from hpcml.errors import ConfigError
from hpcml.nn import Tail
from hpcml.optim import SGD, Steps
from hpcml.sync import Adaptive, BlockMomentum, EveryStep, LocalSteps, Once, OuterRule, WarmStart, slow_momentum
from hpcml.sync.meetings import STATE, Every
from tests.laws import Job

V = 6


class EqualRows(Job):
    """A job whose workers all have the same rows."""

    def rows(self, step, worker):
        return 4


def job(plan, rule=None, kind=EqualRows):
    """A tiny job on one rank."""
    return kind(plan, Alone(), V, rule or SGD(0.1))


def weights_after(plan, steps, rule=None, kind=EqualRows):
    """The mean model after some steps."""
    run = job(plan, rule, kind)
    run.steps(0, steps)
    return run.weights()


@pytest.mark.parametrize(
    "outer",
    [BlockMomentum(0.0), BlockMomentum(0.0, nesterov=False), slow_momentum(1.0, 0.0), OuterRule(SGD(1.0, momentum=0.0))],
    ids=["BMUF with momentum 0", "the same without look-ahead", "SlowMo with momentum 0", "SGD with rate 1"],
)
def test_without_momentum_every_outer_optimizer_is_plain_averaging(outer):
    np.testing.assert_allclose(weights_after(LocalSteps(3, outer=outer), 9), weights_after(LocalSteps(3), 9), rtol=1e-12, atol=1e-14)


def drifting(plan, meetings=7, period=2):
    """The anchors of a run from meeting to meeting, and the mean drift of each period, found by a second run that is put at the anchor."""
    run, anchors, drifts = job(plan), [], []
    anchors.append(run.sync.shared_state()["anchor"].copy())
    for k in range(meetings):
        run.steps(k * period, k * period + period - 1)
        last = k * period + period - 1
        for worker in run.hosted:
            run.sync.enter(worker)
            run._differentiate(last, worker)
            run.sync.leave(worker, last)
        mean = np.mean([run.sync.worker_state(worker)["data"] for worker in run.hosted], axis=0)
        drifts.append(mean - anchors[-1])
        run.sync.update(last, run.sync.exchange(last))
        anchors.append(run.sync.shared_state()["anchor"].copy())
    return anchors, drifts


@pytest.mark.parametrize("nesterov", [False, True])
def test_block_momentum_takes_the_papers_steps(nesterov):
    anchors, drifts = drifting(LocalSteps(2, outer=BlockMomentum(0.6, 0.9, nesterov)))
    w, d = anchors[0], 0.0
    for k, g in enumerate(drifts):
        d = 0.6 * d + 0.9 * g
        w = w + d
        np.testing.assert_allclose(anchors[k + 1], w + 0.6 * d if nesterov else w, rtol=1e-12, atol=1e-14)


def test_slow_momentum_takes_the_papers_steps():
    anchors, drifts = drifting(LocalSteps(2, outer=slow_momentum(0.8, 0.5)))
    x, u = anchors[0], 0.0
    for k, g in enumerate(drifts):
        u = 0.5 * u - g / 0.1
        x = x - 0.8 * 0.1 * u
        np.testing.assert_allclose(anchors[k + 1], x, rtol=1e-12, atol=1e-14)


def test_slow_momentum_counts_in_the_rate_of_the_step_so_that_a_rate_that_falls_does_not_stretch_old_drifts():
    rule = SGD(Steps(0.1, every=2, factor=0.1))
    slow, block = (LocalSteps(2, outer=outer) for outer in (slow_momentum(1.0, 0.9), OuterRule(SGD(1.0, 0.9))))
    start = weights_after(slow, 2, rule)
    far, near = np.linalg.norm(weights_after(block, 4, rule) - start), np.linalg.norm(weights_after(slow, 4, rule) - start)
    assert near < far / 5
    np.testing.assert_allclose(weights_after(slow, 6), weights_after(block, 6), rtol=1e-12, atol=1e-14)


def test_the_long_run_gain_of_block_momentum_is_the_number_of_workers():
    outer = BlockMomentum().at(V)
    assert outer.resets
    p, v = np.zeros(1), np.zeros((1, 1))
    for _ in range(400):
        before = p.copy()
        outer.rule.update(p, -np.ones(1), v, 1.0, 0, np.zeros(1))
    assert p - before == pytest.approx(V)
    assert BlockMomentum().at(1).rule == SGD(1.0, 0.0)


def test_block_momentum_resets_the_workers_own_momentum():
    run = job(LocalSteps(2, outer=BlockMomentum(0.5)), SGD(0.1, momentum=0.9))
    run.steps(0, 3)
    assert all(run.sync.worker_state(worker)["slots"].any() for worker in run.hosted)
    run.steps(3, 4)
    assert not any(run.sync.worker_state(worker)["slots"].any() for worker in run.hosted)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_block_momentum_that_grows_without_end_is_refused(momentum):
    with pytest.raises(ConfigError, match="below 1"):
        BlockMomentum(momentum)


def test_one_shot_averaging_is_the_mean_of_workers_that_never_met():
    run = job(LocalSteps(Once()))
    assert run.steps(0, 9) == []
    alone = [run.sync.worker_state(worker)["data"] for worker in run.hosted]
    assert len({x.tobytes() for x in alone}) == V
    np.testing.assert_allclose(run.weights(), np.mean(alone, axis=0), rtol=1e-12)


def test_post_local_is_synchronous_to_the_bit_until_its_step_then_averages():
    run, plain = job(WarmStart(5, LocalSteps(3)), SGD(0.1, momentum=0.9)), job(EveryStep(), SGD(0.1, momentum=0.9))
    assert len(run.steps(0, 5)) == 5
    plain.steps(0, 5)
    np.testing.assert_array_equal(run.weights(), plain.weights())
    assert [len(run.steps(step, step + 1)) for step in range(5, 12)] == [1, 0, 0, 1, 0, 0, 1]  # every third step of the run


def test_workers_begin_with_the_optimizer_state_of_the_warm_start():
    run = job(WarmStart(3, LocalSteps(50)), SGD(0.1, momentum=0.9))
    run.steps(0, 3)
    for worker in run.hosted:
        np.testing.assert_array_equal(run.sync.worker_state(worker)["slots"], run.sync.shared_state()["first_slots"])


def test_a_warm_start_without_a_step_is_refused():
    with pytest.raises(ConfigError, match="comes to 0 steps"):
        WarmStart(0, LocalSteps(3))


def tail(loss, weight=1.0):
    sums = np.zeros(len(Tail))
    sums[Tail.WEIGHT], sums[Tail.LOSS] = weight, loss * weight
    return sums


def periods(plan, losses):
    """The steps at which workers meet, if the n-th meeting brings the n-th loss."""
    met, state, step = [], np.zeros(STATE), 0
    losses = list(losses)
    while losses:
        if plan.is_due(step, state):
            met.append(step)
            plan.note(step, tail(losses.pop(0)), state)
        step += 1
    return np.diff([-1, *met]).tolist()


def test_adaptive_periods_fall_with_the_root_of_the_loss_and_never_rise_above_the_first():
    assert periods(Adaptive(8), [4.0, 4.0, 1.0, 0.25, 0.0, 16.0, 1.0]) == [8, 8, 8, 4, 2, 1, 8]


@given(st.integers(1, 12), st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_adaptive_periods_are_between_one_and_the_first(first, losses):
    assert all(1 <= period <= first for period in periods(Adaptive(first), losses))


@given(st.integers(1, 12), st.floats(1e-3, 10), st.integers(1, 20))
def test_adaptive_periods_are_fixed_ones_while_the_loss_stays(first, loss, meetings):
    assert periods(Adaptive(first), [loss] * meetings) == periods(Every(first), [loss] * meetings)


def test_a_meeting_without_weight_keeps_the_period():
    state = np.zeros(STATE)
    Adaptive(4).note(3, tail(1.0, 0.0), state)
    assert [step for step in range(4, 9) if Adaptive(4).is_due(step, state)] == [7, 8]


@pytest.mark.parametrize("every", [1, 3, 5])
def test_conits_are_counted_as_models_part_and_meet(on_every_rank, every):
    def program(comm):
        run = Job(LocalSteps(every), comm, V, SGD(0.1))
        run.steps(0, 2 * every)
        return run.sync.conits(), run.sync.worker_state

    alone = job(LocalSteps(every), kind=Job)
    distances = []
    for period in range(2):
        run = job(LocalSteps(every), kind=Job)
        run.steps(0, period * every)
        anchor = run.sync.shared_state()["anchor"].copy()
        run.sync.meetings = Once()
        run.steps(period * every, (period + 1) * every)
        distances += [np.linalg.norm(run.sync.worker_state(worker)["data"] - anchor) for worker in run.hosted]
    alone.steps(0, 2 * every)
    expected = alone.sync.conits()
    assert expected.staleness == dict.fromkeys(range(every), 2 * V)
    assert expected.order == every
    assert expected.value == pytest.approx(max(distances), rel=1e-9)
    assert expected.mean_staleness == pytest.approx((every - 1) / 2)
    for found, _ in on_every_rank(program):
        assert found == expected


def test_workers_that_never_meet_still_tell_how_far_they_are_apart(on_every_rank):
    def program(comm):
        run = Job(LocalSteps(Once()), comm, V, SGD(0.1))
        run.steps(0, 5)
        before = run.state()
        found = run.sync.conits()
        for name, x in run.state().items():
            np.testing.assert_array_equal(x, before[name])
        return found, [np.linalg.norm(run.sync.worker_state(worker)["data"] - before[None, "anchor"]) for worker in run.hosted]

    for found, mine in on_every_rank(program):
        assert found.value >= max(mine, default=0) * (1 - 1e-12)
        assert found.value > 0


def test_synchronous_workers_have_nothing_to_tell():
    assert job(EveryStep()).sync.conits() is None
