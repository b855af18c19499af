from __future__ import annotations

import numpy as np
import pytest

from hpcml.nn import Model, SelfOrganisingMap
from hpcml.nn.layers.self_organising_map import INERTIA

GRID, RADIUS, HALVING = (4, 3), 2.0, 3


def sums(model, rows, step, worker=0):
    model.context.train(seed=0, step=step, worker=worker)
    model.backward(model.forward(rows))
    return model.arena.grad[: model.arena.n].copy()


def train(model, rows, steps, workers=1):
    """Batch steps as the update takes them: the workers' sum over the weight is taken from the statistics."""
    for step in range(steps):
        parts = [sums(model, part, step, worker) for worker, part in enumerate(np.array_split(rows, workers))]
        model.arena.data -= sum(parts) / len(rows)


def places(model):
    statistics = {p.name.partition(".")[2].rpartition(".")[2]: p.data for p in model.arena}
    return statistics["sums"] / statistics["counts"][:, None]


def plain(start, rows, steps):
    """A batch map in plain numpy."""
    unit = np.array([(i, j) for i in range(GRID[0]) for j in range(GRID[1])], float)
    apart, w = np.linalg.norm(unit[:, None] - unit, axis=2), start.copy()
    for step in range(steps):
        radius = max(0.5, RADIUS / 2 ** (step / HALVING))
        winner = np.linalg.norm(rows[:, None] - w, axis=2).argmin(axis=1)
        h = np.exp(-(apart[winner] ** 2) / (2 * radius**2))
        w = (h.T @ rows / len(rows) + INERTIA * w) / (h.sum(axis=0) / len(rows) + INERTIA)[:, None]
    return w


@pytest.fixture
def rows():
    return np.random.default_rng(1).random((60, 2)) * 3


@pytest.fixture
def model():
    return Model([SelfOrganisingMap(GRID, RADIUS, HALVING)], (2,), seed=2, dtype=np.float64)


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_it_is_the_batch_map_of_plain_numpy_over_any_number_of_workers(workers, model, rows):
    expected = plain(places(model), rows, 12)
    train(model, rows, 12, workers)
    np.testing.assert_allclose(places(model), expected, rtol=1e-9)


def test_no_number_of_it_is_moved_by_an_optimizer(model):
    assert model.arena.trained == 0
    assert model.arena.n == 12 * 3


def test_a_row_is_given_the_place_of_its_nearest_unit(model, rows):
    found = model.forward(rows).copy()
    nearest = np.linalg.norm(rows[:, None] - places(model), axis=2).argmin(axis=1)
    assert np.array_equal(model.layers[0].winners(rows), nearest)
    np.testing.assert_array_equal(found, places(model)[nearest])


def test_the_quantisation_error_falls_and_neighbours_on_the_grid_lie_near_each_other(model, rows):
    def error():
        model.context.evaluate()
        return ((model.forward(rows) - rows) ** 2).sum(axis=1).mean()

    before = error()
    train(model, rows, 30)
    assert error() < before / 5
    w = places(model).reshape(*GRID, 2)
    neighbours = np.linalg.norm(np.diff(w, axis=0), axis=2).mean()
    assert neighbours < np.linalg.norm(w[:2] - w[2:], axis=2).mean()


def test_units_that_no_row_is_near_stay_where_they_are(rows):
    model = Model([SelfOrganisingMap([100], radius=0.5)], (2,), seed=2, dtype=np.float64)
    before = places(model).copy()
    train(model, rows[:1], 3)
    winner = int(model.layers[0].winners(rows[:1])[0])
    after, far = places(model), np.abs(np.arange(100) - winner) > 10
    np.testing.assert_allclose(after[far], before[far], rtol=1e-9)
    np.testing.assert_allclose(after[winner], rows[0], atol=1e-5)


def test_a_part_of_the_sums_can_be_kept(rows):
    kept, fresh = (Model([SelfOrganisingMap(GRID, kept=m)], (2,), seed=2, dtype=np.float64) for m in (0.75, 0.0))
    start = kept.arena.data.copy()
    for model in (kept, fresh):
        train(model, rows, 1)
    np.testing.assert_allclose(kept.arena.data, 0.75 * start + 0.25 * fresh.arena.data, rtol=1e-12)
