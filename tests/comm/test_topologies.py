"""Topologies: weights that sum as they must, graphs that connect, and the speed at which models agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.comm.topologies import (
    COMPLETE,
    EXPONENTIAL,
    ONE_PEER,
    RING,
    TOPOLOGIES,
    contraction,
    matrix,
    metropolis,
    pairs,
    require_mixing,
    torus_shape,
)
from hpcml.errors import ConfigError

ALL = {**TOPOLOGIES, "pairs": pairs(3)}
workers = st.integers(1, 40)


@given(st.sampled_from(sorted(ALL)), workers, st.integers(0, 50))
def test_every_round_keeps_equal_models_equal_and_the_sum_of_all(name, v, round):
    weights = ALL[name].weights(v, round)
    assert weights.shape == (v, v)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


@given(st.sampled_from(sorted(ALL)), workers)
def test_every_topology_is_accepted_for_any_number_of_workers(name, v):
    require_mixing(ALL[name], v)


@given(st.sampled_from(sorted(TOPOLOGIES)), workers, st.integers(0, 20))
def test_rounds_repeat_after_the_period(name, v, round):
    topology = TOPOLOGIES[name]
    np.testing.assert_array_equal(topology.weights(v, round), topology.weights(v, round + topology.period(v)))


@pytest.mark.parametrize("v", [1, 2, 4, 8, 16])
def test_one_peer_finds_the_exact_mean_after_log_v_rounds_of_a_power_of_two(v):
    product = np.eye(v)
    for round in range(ONE_PEER.period(v)):
        product = ONE_PEER.weights(v, round) @ product
    np.testing.assert_array_equal(product, np.full((v, v), 1 / v))


def test_the_complete_graph_agrees_at_once_and_richer_graphs_agree_sooner():
    assert contraction(COMPLETE.weights(9, 0)) == pytest.approx(0, abs=1e-12)
    speeds = [contraction(TOPOLOGIES[name].weights(16, 0)) for name in ("ring", "torus", "exponential", "complete")]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] == pytest.approx((1 + 2 * np.cos(2 * np.pi / 16)) / 3)  # the circulant's second eigenvalue


@given(st.sampled_from(sorted(ALL)), st.integers(2, 24), st.integers(0, 5))
def test_a_round_shrinks_the_distance_from_the_mean_by_the_contraction_at_least(name, v, round):
    weights = ALL[name].weights(v, round)
    x = np.random.default_rng(v).standard_normal(v)
    before, after = (np.linalg.norm(y - x.mean()) for y in (x, weights @ x))
    assert after <= contraction(weights) * before + 1e-12


def test_neighbours_are_those_of_the_name():
    hears = lambda topology, v, worker: sorted(set(np.flatnonzero(topology.weights(v, 0)[worker])) - {worker})  # noqa: E731
    assert hears(RING, 6, 0) == [1, 5]
    assert hears(TOPOLOGIES["torus"], 12, 0) == [1, 3, 4, 8]
    assert hears(EXPONENTIAL, 8, 0) == [4, 6, 7]
    assert hears(TOPOLOGIES["directed-ring"], 5, 0) == [4]
    assert [torus_shape(v) for v in (1, 7, 12, 16)] == [(1, 1), (1, 7), (3, 4), (4, 4)]


@given(workers, st.integers(0, 2**31), st.integers(0, 1000))
def test_random_pairs_are_pairs_and_depend_on_seed_and_round_alone(v, seed, round):
    weights = pairs(seed).weights(v, round)
    partner = (weights - 0.5 * np.eye(v)).argmax(axis=1)
    np.testing.assert_array_equal(partner[partner], np.arange(v))
    assert (partner == np.arange(v)).sum() == v % 2
    np.testing.assert_array_equal(weights, pairs(seed).weights(v, round))
    assert pairs(seed) == pairs(seed) != pairs(seed + 1)


@given(st.integers(1, 12), st.integers(0, 1000))
def test_metropolis_weights_of_any_undirected_graph_are_symmetric_and_sum_to_one(v, seed):
    linked = np.random.default_rng(seed).random((v, v)) < 0.4
    weights = metropolis(linked | linked.T)
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert (weights >= -1e-15).all()


WRONG = {
    "not square": ([[0.5, 0.5]], "1 x 2, there are 2 workers"),
    "ragged": ([[0.5, 0.5], [1.0]], "no square of numbers"),
    "negative": ([[1.5, -0.5], [-0.5, 1.5]], "negative"),
    "not finite": ([[float("nan"), 0.5], [0.5, 0.5]], "not finite"),
    "column": ([[0.5, 0.5], [0.6, 0.4]], "column 0 sums to 1.1"),
    "row": ([[0.5, 0.6], [0.5, 0.4]], "row 0 sums to 1.1.*push-sum"),
    "islands": ([[1.0, 0.0], [0.0, 1.0]], "worker 0 never hears of worker 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_matrix_that_does_not_mix_is_refused_with_the_reason(name):
    rows, part = WRONG[name]
    with pytest.raises(ConfigError, match=part):
        require_mixing(matrix(rows), 2)


def test_push_sum_needs_columns_alone_but_still_a_way_from_everybody_to_everybody():
    require_mixing(matrix([[0.5, 0.6], [0.5, 0.4]]), 2, columns_only=True)
    with pytest.raises(ConfigError, match="worker 0 never hears of worker 1"):
        require_mixing(matrix([[0.5, 0.0], [0.5, 1.0]]), 2, columns_only=True)


def test_a_users_matrix_is_told_apart_by_its_numbers():
    assert matrix([[1.0]]) != matrix([[0.5]])
    assert matrix([[0.5, 0.5], [0.5, 0.5]]) == matrix([(0.5, 0.5), (0.5, 0.5)])


@given(st.integers(2, 6), st.data())
def test_models_that_are_handed_round_for_ever_are_refused_and_the_nearest_choice_is_taken(v, data):
    orders = data.draw(st.lists(st.permutations(range(v)), min_size=1, max_size=2))
    weights = np.mean([np.eye(v)[order] for order in orders], axis=0)
    mixes = np.linalg.norm(np.linalg.matrix_power(weights, 4000) - 1 / v) < 1e-6
    if mixes:
        require_mixing(matrix(weights.tolist()), v)
        return
    with pytest.raises(ConfigError, match=r"not connected|never mix"):
        require_mixing(matrix(weights.tolist()), v)
    circle = np.roll(np.eye(v), 1, axis=0)
    with pytest.raises(ConfigError, match="let each keep a share of its own"):
        require_mixing(matrix(circle.tolist()), v)
    require_mixing(matrix(((np.eye(v) + circle) / 2).tolist()), v)
