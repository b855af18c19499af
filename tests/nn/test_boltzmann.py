from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpcml.nn import Model, RestrictedBoltzmann
from hpcml.nn.checking import differences


def machine(visible, hidden, **options):
    """A model of one machine with weights of some size, in float64."""
    model = Model([RestrictedBoltzmann(hidden, **options)], (visible,), dtype=np.float64)
    model.arena.data[:] = np.random.default_rng(4).standard_normal(model.arena.n) / 2
    return model


def learn(model, rows, weights=None, **where):
    model.context.train(**{"seed": 1, "step": 0, "worker": 0, **where}, weights=weights)
    slope = model.forward(rows)
    chain = model.layers[0]._last.copy()
    model.backward(slope)
    return model.arena.grad[: model.arena.n].copy(), chain


def all_states(count):
    return np.array(list(itertools.product([0.0, 1.0], repeat=count)))


def test_the_free_energy_is_that_of_all_hidden_states_together():
    model = machine(4, 3)
    weight, visible, hidden = (p.data for p in model.arena)
    states, rows = all_states(3), all_states(4)
    energies = -(rows @ weight @ states.T) - (rows @ visible)[:, None] - states @ hidden
    np.testing.assert_allclose(model.layers[0].free_energy(rows), -np.log(np.exp(-energies).sum(axis=1)), rtol=1e-12)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.5, 2.0, 0.0, 1.0])])
def test_the_gradient_is_that_of_the_free_energies_of_rows_and_chain(weights):
    model, rows = machine(4, 3, steps=2, highest=2.0), np.random.default_rng(5).random((5, 4)) * 2
    grad, chain = learn(model, rows, weights)
    free, each = model.layers[0].free_energy, np.ones(5) if weights is None else weights
    expected = differences(lambda: (each * (free(rows) - free(2 * chain))).sum(), model.arena.data)
    np.testing.assert_allclose(grad, expected, atol=1e-8)
    assert set(np.unique(chain)) <= {0.0, 1.0}


def test_a_long_chain_gives_the_gradient_of_the_likelihood_by_enumeration():
    model, everything = machine(4, 3, steps=40), all_states(4)
    rows = everything[np.random.default_rng(6).integers(0, 5, 20000)]
    free = model.layers[0].free_energy

    def negative_log_likelihood():
        return free(rows).mean() + np.log(np.exp(-free(everything)).sum())

    expected = differences(negative_log_likelihood, model.arena.data)
    np.testing.assert_allclose(learn(model, rows)[0] / len(rows), expected, atol=0.02)
    assert np.abs(expected).max() > 0.2


def test_the_chain_depends_on_step_and_worker_and_on_nothing_else():
    model, rows = machine(6, 5), np.random.default_rng(7).random((9, 6))
    first = learn(model, rows)[1]
    assert np.array_equal(first, learn(model, rows)[1])
    for where in ({"step": 1}, {"worker": 1}, {"part": 1}, {"seed": 2}):
        assert not np.array_equal(first, learn(model, rows, **where)[1])


def test_an_evaluation_draws_nothing():
    model, rows = machine(6, 5), np.random.default_rng(8).random((3, 6))
    weight, visible, hidden = (p.data for p in model.arena)
    model.context.evaluate()
    up = 1 / (1 + np.exp(-(rows @ weight + hidden)))
    np.testing.assert_allclose(model.forward(rows), 1 / (1 + np.exp(-(up @ weight.T + visible))), rtol=1e-12)


def test_it_comes_to_prefer_the_rows_that_it_is_shown():
    model = Model([RestrictedBoltzmann(4)], (6,), dtype=np.float64)
    rows = np.repeat(np.array([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]), 20, axis=0)
    for step in range(400):
        model.arena.data -= 0.5 * learn(model, rows, step=step)[0] / len(rows)
    free = model.layers[0].free_energy
    shown = np.exp(-free(rows[::20])).sum() / np.exp(-free(all_states(6))).sum()
    assert shown > 0.8
