"""Decentralised averaging: its limits, and the equations of its papers over all workers at once."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.comm.alone import Alone
from hpcml.comm.topologies import COMPLETE, ONE_PEER, RING, TOPOLOGIES, matrix, pairs
from hpcml.errors import ConfigError
from hpcml.optim import SGD
from hpcml.sync import EveryStep, Gossip
from tests.laws import Job

V, RATE = 6, 0.1


class EqualRows(Job):
    """A job whose workers all have the same rows."""

    def rows(self, step, worker):
        return 4


def models(run):
    """Every worker's model, (V, n)."""
    return np.array([run.sync.worker_state(worker)["data"] for worker in run.hosted])


def gradients(run, step, x):
    """Every worker's mean gradient at its row of x, (V, n)."""
    found = []
    for worker in run.hosted:
        run.arena.point(data=x[worker].copy())
        run._differentiate(step, worker)
        found.append(run.arena.grad[: run.arena.n] / max(run.rows(step, worker), 1))
    return np.array(found)


def follow(plan, textbook, steps=7):
    """Compare every worker's model with a textbook, step by step, from (V, n) and the gradients at any (V, n)."""
    run, judge = Job(plan, Alone(), V, SGD(RATE)), Job(EveryStep(), Alone(), V, SGD(RATE))
    state = models(run)
    for step in range(steps):
        state = textbook(step, state, lambda x, step=step: gradients(judge, step, x))
        run.steps(step, step + 1)
        np.testing.assert_allclose(models(run), state, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("topology", [*TOPOLOGIES.values(), pairs(2)], ids=lambda topology: topology.name)
def test_a_step_then_a_round(topology):
    follow(Gossip(topology), lambda step, x, g: topology.weights(V, step) @ (x - RATE * g(x)))


def test_rounds_that_come_every_other_step():
    def textbook(step, x, g):
        x = x - RATE * g(x)
        return ONE_PEER.weights(V, step // 2) @ x if step % 2 else x

    follow(Gossip(ONE_PEER, every=2), textbook)


def test_d_psgd_mixes_the_models_before_the_step():
    follow(Gossip(ONE_PEER, earlier=True), lambda step, x, g: ONE_PEER.weights(V, step) @ x - RATE * g(x))


def columns(seed):
    """A strongly connected directed graph with random weights whose columns sum to 1."""
    weights = np.random.default_rng(seed).random((V, V)) * (np.random.default_rng(seed + 1).random((V, V)) < 0.4)
    weights += np.eye(V) + np.roll(np.eye(V), 1, axis=0)
    return weights / weights.sum(axis=0)


def test_push_sum_is_stochastic_gradient_push():
    weights = columns(4)
    shares = [np.ones(V)]
    vectors = []

    def textbook(step, z, g):
        x = (vectors[-1] if vectors else z) - RATE * g(z)
        vectors.append(weights @ x)
        shares.append(weights @ shares[-1])
        return vectors[-1] / shares[-1][:, None]

    follow(Gossip(matrix(weights.tolist()), pushed=True), textbook)


def still(plan):
    """A run whose workers have no rows, beginning with models far apart."""

    class NoRows(Job):
        def rows(self, step, worker):
            return 0

    run = NoRows(plan, Alone(), V, SGD(RATE))
    state = run.state()
    for worker in run.hosted:
        for name in {"data", "beside"} & set(run.sync.worker_state(worker)):
            state[worker, name] = np.random.default_rng(worker).standard_normal(run.arena.n)
    run.restore(state)
    return run


@pytest.mark.parametrize(
    "plan", [Gossip(RING), Gossip(pairs(1)), Gossip(matrix(columns(8).tolist()), pushed=True)], ids=["ring", "pairs", "push-sum"]
)
def test_without_gradients_all_models_become_the_mean_of_the_first_ones(plan):
    run = still(plan)
    mean = models(run).mean(axis=0)
    run.steps(0, 150)
    np.testing.assert_allclose(models(run), np.tile(mean, (V, 1)), atol=1e-9)
    np.testing.assert_allclose(run.weights(), mean, atol=1e-12)


def test_without_gradients_one_peer_finds_the_exact_mean_in_three_rounds_of_eight():
    run = Job(Gossip(ONE_PEER), Alone(), 8, SGD(0.0))
    state = run.state()
    for worker in run.hosted:
        state[worker, "data"] = np.full(run.arena.n, float(2**worker))
    run.restore(state)
    run.steps(0, 3)
    assert len({run.sync.worker_state(worker)["data"].tobytes() for worker in run.hosted}) == 1
    np.testing.assert_array_equal(run.weights(), np.full(run.arena.n, 255 / 8))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_on_the_complete_graph_it_is_synchronous_sgd(on_every_rank, momentum):
    def program(comm):
        rule = SGD(RATE, momentum)
        one, other = EqualRows(Gossip(COMPLETE), comm, V, rule), EqualRows(EveryStep(), comm, V, rule)
        for step in range(6):
            one.steps(step, step + 1)
            other.steps(step, step + 1)
            np.testing.assert_allclose(one.weights(), other.weights(), rtol=1e-11, atol=1e-13)

    on_every_rank(program)


def test_a_worker_alone_is_plain_sgd():
    runs = [EqualRows(plan, Alone(), 1, SGD(RATE, 0.9)) for plan in (Gossip(RING), Gossip(RING, earlier=True), EveryStep())]
    for run in runs:
        run.steps(0, 5)
    np.testing.assert_allclose(runs[0].weights(), runs[2].weights(), rtol=1e-12)
    np.testing.assert_allclose(runs[1].weights(), runs[2].weights(), rtol=1e-12)


def news(topology, steps, every=1, earlier=False):
    """The clock gaps at the beginning of each step, by the rule itself: what worker i knows of worker j, told on."""
    known, gaps = np.zeros((V, V), int), []
    for step in range(steps):
        for worker in range(V):
            gaps.append(step - known[worker].min(initial=step, where=~np.eye(V, dtype=bool)[worker]))
        before = known.copy()
        np.fill_diagonal(known, step + 1)
        if (step + 1) % every == 0:
            told = before if earlier else known
            linked = topology.weights(V, step // every) > 0
            known = np.array([told[linked[worker]].max(axis=0) for worker in range(V)])
            np.fill_diagonal(known, step + 1)
    return gaps


@pytest.mark.parametrize(("every", "earlier"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("topology", [RING, ONE_PEER, COMPLETE, pairs(7)], ids=lambda topology: topology.name)
def test_staleness_is_that_of_news_told_on_from_neighbour_to_neighbour(topology, every, earlier):
    run = EqualRows(Gossip(topology, every, earlier), Alone(), V, SGD(RATE))
    run.steps(0, 10)
    gaps = news(topology, 10, every, earlier)
    assert run.sync.conits().staleness == {gap: gaps.count(gap) for gap in sorted(set(gaps))}


@pytest.mark.parametrize(
    "plan",
    [Gossip(RING), Gossip(RING, 3), Gossip(RING, 5, earlier=True), Gossip(matrix(columns(4).tolist()), pushed=True)],
    ids=["ring", "ring, every 3", "D-PSGD, every 5", "push-sum"],
)
def test_no_model_is_farther_from_the_mean_than_reported(plan):
    run = Job(plan, Alone(), V, SGD(RATE))
    run.steps(0, 5)
    mean = run.weights().copy()
    farthest = max(np.linalg.norm(run.sync.worker_state(worker)["data"] - mean) for worker in run.hosted)
    assert farthest > 0.01
    assert run.sync.conits().value >= farthest * (1 - 1e-12)


def test_forms_that_exclude_each_other_are_refused():
    with pytest.raises(ConfigError, match="leave one out"):
        Gossip(RING, earlier=True, pushed=True)
    with pytest.raises(ConfigError, match=r"sync\.every is 0"):
        Gossip(RING, every=0)


def test_a_matrix_that_does_not_mix_is_refused_on_every_rank(world):
    def program(comm):
        with pytest.raises(ConfigError, match="there are 6 workers") as caught:
            Job(Gossip(matrix([[1.0]])), comm, V, SGD(RATE))
        return caught.value.everywhere

    assert world(2, program) == [True, True]
