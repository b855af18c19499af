"""Elastic averaging: its limits, and the equations of its paper over all groups at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.arrays import spans
from hpcml.comm import simulated
from hpcml.comm.alone import Alone
from hpcml.errors import ConfigError
from hpcml.optim import SGD
from hpcml.sync import Elastic, EveryStep, WarmStart
from tests.laws import Job

V, RATE = 6, 0.1


def models(run):
    """Every worker's model, (V, n)."""
    return np.array([run.sync.worker_state(worker)["data"] for worker in run.hosted])


def job(plan, rule=None, comm=None):
    return Job(plan, comm or Alone(), V, rule or SGD(RATE))


def mean_gradient(judge, step, workers, x):
    """The mean gradient of some workers' rows at x."""
    total, rows = np.zeros(judge.arena.n), 0
    for worker in range(workers.start, workers.stop):
        judge.arena.point(data=x.copy())
        judge._differentiate(step, worker)
        total += judge.arena.grad[: judge.arena.n]
        rows += judge.rows(step, worker)
    return total / max(rows, 1)


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
def test_it_takes_the_papers_steps(groups):
    moving, every, cut = 0.7, 2, spans(V, groups)
    run, judge = job(Elastic(every, groups, moving)), job(EveryStep())
    centre = run.sync.shared_state()["centre"].copy()
    x = np.array([centre] * groups)
    for step in range(7):
        x = np.array([one - RATE * mean_gradient(judge, step, group, one) for one, group in zip(x, cut, strict=True)])
        if (step + 1) % every == 0:
            pull = moving / groups * (x - centre)
            x, centre = x - pull, centre + pull.sum(axis=0)
        run.steps(step, step + 1)
        np.testing.assert_allclose(run.weights(), centre, rtol=1e-11, atol=1e-13)
        of = [number for number, group in enumerate(cut) for _ in range(group.start, group.stop)]
        np.testing.assert_allclose(models(run), x[of], rtol=1e-11, atol=1e-13)


def meet(plan, seed):
    """The centre and the groups' models before and after a meeting in which nobody had rows, all drawn at random."""
    run = job(plan)
    random, state = np.random.default_rng(seed), run.state()
    state[None, "centre"] = random.standard_normal(run.arena.n)
    groups = spans(V, plan.groups or V)
    for group in groups:
        state |= {(worker, "data"): x for x in [random.standard_normal(run.arena.n)] for worker in range(group.start, group.stop)}
    run.restore(state)
    read = lambda: (run.weights(), models(run)[[group.start for group in groups]])  # noqa: E731
    before = read()
    run.sync.update(0, run.sync.meet())
    return before, read()


@settings(max_examples=30)
@given(st.integers(2, V), st.floats(0.01, 1.2), st.integers(0, 1000))
def test_centre_and_models_keep_their_sum_and_the_centre_goes_the_moving_part_of_the_way(groups, moving, seed):
    (c, x), (after, moved) = meet(Elastic(1, groups, moving), seed)
    np.testing.assert_allclose(after + moved.sum(axis=0), c + x.sum(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(after, (1 - moving) * c + moving * x.mean(axis=0), rtol=1e-10, atol=1e-12)


def test_when_groups_are_lost_centre_and_models_stay_and_the_springs_are_those_of_the_groups_left():
    moving, every, cut, losses = 0.7, 2, spans(V, 3), ((3, 1), (5, 2))
    run, judge = job(Elastic(every, 3, moving, losses=losses)), job(EveryStep())
    centre = run.sync.shared_state()["centre"].copy()
    x = {number: centre.copy() for number in range(3)}
    for step in range(9):
        x = {number: one for number, one in x.items() if (number, step) not in ((1, 3), (2, 5))}
        x = {number: one - RATE * mean_gradient(judge, step, cut[number], one) for number, one in x.items()}
        if (step + 1) % every == 0:
            before = centre + sum(x.values())
            pull = {number: moving / len(x) * (one - centre) for number, one in x.items()}
            x, centre = {number: one - pull[number] for number, one in x.items()}, centre + sum(pull.values())
            np.testing.assert_allclose(centre + sum(x.values()), before, rtol=1e-12)
        run.steps(step, step + 1)
        np.testing.assert_allclose(run.weights(), centre, rtol=1e-11, atol=1e-13)
        for number, one in x.items():
            np.testing.assert_allclose(run.sync.worker_state(cut[number].start)["data"], one, rtol=1e-11, atol=1e-13)


def test_losses_have_the_same_bits_on_any_number_of_ranks(on_every_rank):
    plan = Elastic(2, 3, losses=((4, 0),))
    alone = job(plan)
    alone.steps(0, 7)
    expected = alone.weights()

    def program(comm):
        mine = job(plan, comm=comm)
        mine.steps(0, 7)
        np.testing.assert_array_equal(mine.weights(), expected)

    on_every_rank(program)


def test_a_loss_after_the_end_changes_nothing():
    one, other = job(Elastic(2, 3, losses=((5, 1),))), job(Elastic(2, 3))
    one.steps(0, 5)
    other.steps(0, 5)
    np.testing.assert_array_equal(one.weights(), other.weights())


def test_one_group_is_synchronous_sgd_to_the_bit(on_every_rank):
    def program(comm):
        rule = SGD(RATE, momentum=0.9)
        one, other = job(Elastic(3, groups=1), rule, comm), job(EveryStep(), rule, comm)
        one.steps(0, 5)
        other.steps(0, 5)
        np.testing.assert_array_equal(one.weights(), other.weights())

    on_every_rank(program)


def test_as_many_groups_as_workers_is_a_group_a_worker():
    one, other = job(Elastic(2, groups=V)), job(Elastic(2))
    one.steps(0, 5)
    other.steps(0, 5)
    np.testing.assert_array_equal(models(one), models(other))
    assert len({x.tobytes() for x in models(one)}) == V


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(2, V), st.integers(1, 3))
def test_whatever_ranks_host_which_part_of_a_group_the_bits_are_the_same(ranks, groups, every):
    plan = Elastic(every, groups, 0.5)
    expected = job(plan)
    expected.steps(0, 4)

    def program(comm):
        run = job(plan, comm=comm)
        run.steps(0, 4)
        return run.weights(), dict(zip(run.hosted, models(run), strict=True))

    for weights, hosted in simulated.run(ranks, program):
        np.testing.assert_array_equal(weights, expected.weights())
        for worker, x in hosted.items():
            np.testing.assert_array_equal(x, models(expected)[worker])


def test_workers_of_a_group_hold_one_model_and_its_conits_count_from_meeting_to_meeting():
    run = job(WarmStart(2, Elastic(3, groups=2)))
    run.steps(0, 9)
    assert len({x.tobytes() for x in models(run)}) == 2
    assert run.sync.conits().staleness == {0: 3 * V, 1: 2 * V, 2: 2 * V}  # met after steps 3, 6, 9, the first soon after the warm start
    assert run.sync.conits().value > 0


WRONG = {
    "no period": (lambda: Elastic(0), "sync.every is 0"),
    "no group": (lambda: Elastic(2, groups=0), "sync.groups is 0"),
    "no movement": (lambda: Elastic(2, moving=0.0), "sync.moving is 0"),
    "too many groups": (lambda: job(Elastic(2, groups=7)), "there are 6 workers; give 6 groups or fewer"),
    "a centre that swings": (lambda: job(Elastic(2, groups=3, moving=1.5)), "swing apart from 1.5 on"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused(name):
    make, part = WRONG[name]
    with pytest.raises(ConfigError, match=part):
        make()


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_at_the_bound_of_the_moving_rate_centre_and_models_swing_and_below_they_settle(groups):
    def spread(moving):
        c, x = 1.0, np.zeros(groups)
        for _ in range(400):
            pull = moving / groups * (x - c)
            x, c = x - pull, c + pull.sum()
        return abs(x - c).max()

    most = 2 / (1 + 1 / groups)
    assert spread(most * 0.97) < 1e-3
    assert spread(most) > 0.5
