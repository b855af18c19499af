from __future__ import annotations

import numpy as np
import pytest

from hpcml.nn import Hopfield, Model


def learned(patterns, **options):
    """A network that has seen the patterns (n, d) of 0 and 1, half of them at a time, under SGD with rate 1."""
    model = Model([Hopfield(**options)], patterns.shape[1:], dtype=np.float64)
    for step, rows in enumerate(np.array_split(patterns, 2)):
        model.context.train(seed=0, step=step, worker=0)
        model.backward(model.forward(rows))
        model.arena.data -= model.arena.grad[: model.arena.n] / len(patterns)
    model.context.evaluate()
    return model


@pytest.fixture
def patterns():
    return np.random.default_rng(3).integers(0, 2, (6, 100)).astype(float)


def flipped(patterns, share, seed=4):
    return np.where(np.random.default_rng(seed).random(patterns.shape) < share, 1 - patterns, patterns)


def test_its_weights_are_the_mean_outer_product_without_the_diagonal(patterns):
    states = 2 * patterns - 1
    expected = states.T @ states / states.size
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(learned(patterns).arena.data.reshape(100, 100), expected, atol=1e-15)


def test_patterns_below_the_capacity_are_recalled_from_noisy_ones(patterns):
    model = learned(patterns, sweeps=5)
    np.testing.assert_array_equal(model.forward(patterns), patterns)
    noisy = flipped(patterns, 0.12)
    assert (noisy != patterns).any(axis=1).all()
    np.testing.assert_array_equal(model.forward(noisy), patterns)


def test_patterns_far_above_the_capacity_are_not():
    many = np.random.default_rng(5).integers(0, 2, (60, 100)).astype(float)
    assert (learned(many, sweeps=5).forward(many) != many).any(axis=1).mean() > 0.9


def test_a_recall_never_raises_the_energy_and_comes_to_rest(patterns):
    model, state = learned(patterns), np.random.default_rng(6).integers(0, 2, (20, 100)).astype(float)
    energies = [model.layers[0].energy(state)]
    for _ in range(20):
        state = model.forward(state).copy()
        energies.append(model.layers[0].energy(state))
    assert (np.diff(energies, axis=0) <= 1e-12).all()
    assert (energies[1] < energies[0]).all()
    np.testing.assert_array_equal(model.forward(state), state)


def test_a_network_that_has_learned_nothing_gives_back_the_states_of_the_rows():
    model = Model([Hopfield(highest=4.0)], (3,))
    np.testing.assert_array_equal(model.forward(np.array([[0, 1.9, 2.1], [4, 2, 0]], np.float32)), [[0, 0, 4], [4, 0, 0]])
