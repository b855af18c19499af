"""Laws of the layers that learn by rules of their own, whatever the slope."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from hpcml.errors import ShapeError, TargetError
from hpcml.nn import Hopfield, Model, RestrictedBoltzmann, SelfOrganisingMap

LAYERS = {
    "rbm": lambda: RestrictedBoltzmann(5, steps=2, highest=2.0),
    "som": lambda: SelfOrganisingMap([3, 2], kept=0.3),
    "hopfield": lambda: Hopfield(2, highest=2.0),
}
DRAWS = ("rbm",)
"""Layers whose rows share a stream of random numbers, so that a row's part depends on those before it."""


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    found = Model([LAYERS[name]()], (6,), seed=3, dtype=np.float64)
    found.arena.data += np.random.default_rng(1).random(found.arena.n) / 2
    return found


@pytest.fixture
def rows():
    return np.random.default_rng(2).random((7, 6)) * 2


def learn(model, rows, weights=None, slope=0.0):
    """The gradient of one training pass, the outputs, and what backward returns."""
    weight = len(rows) if weights is None else weights.sum()
    model.context.train(seed=5, step=1, worker=2, weight=weight, weights=weights)
    out = model.forward(rows).copy()
    back = model.layers[0].backward(np.full(rows.shape, slope))
    return model.arena.grad[: model.arena.n].copy(), out, back


def test_it_gives_as_many_numbers_as_a_row_has_and_leaves_the_row_alone(model, rows):
    kept = rows.copy()
    for part in (rows, rows[:1], rows[:0]):
        assert model.forward(part).shape == part.shape
    assert np.array_equal(rows, kept)


def test_the_slope_decides_nothing_and_layers_below_get_zeros(model, rows):
    grad, out, back = learn(model, rows)
    other, again, _ = learn(model, rows, slope=3.0)
    assert np.array_equal(grad, other)
    assert np.array_equal(out, again)
    assert grad.any()
    assert not back.any()


def test_a_batch_gives_the_same_after_a_larger_one(model, rows):
    before = learn(model, rows[:3])[:2]
    learn(model, rows)
    for a, b in zip(before, learn(model, rows[:3])[:2], strict=True):
        assert np.array_equal(a, b)


def test_rows_of_weight_one_count_as_rows_without_weights(model, rows):
    np.testing.assert_allclose(learn(model, rows, np.ones(7))[0], learn(model, rows)[0], rtol=1e-12)


def test_a_weight_counts_like_that_many_rows(name, model, rows):
    if name in DRAWS:
        weights = np.array([2.0, 2, 2, 2, 2, 2, 2])
        np.testing.assert_allclose(learn(model, rows, weights)[0], 2 * learn(model, rows)[0], rtol=1e-12)
        return
    weights = np.array([1.0, 2, 0, 1, 3, 1, 1])
    repeated = rows.repeat(weights.astype(int), axis=0)
    np.testing.assert_allclose(learn(model, rows, weights)[0], learn(model, repeated)[0], rtol=1e-10, atol=1e-12)


def test_steps_keep_no_memory(model, rows):
    learn(model, rows)
    tracemalloc.start()
    try:
        learn(model, rows)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            learn(model, rows)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 4096


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_keep_the_dtype_of_the_model(name, dtype, rows):
    model = Model([LAYERS[name]()], (6,), dtype=dtype)
    grad, out, _ = learn(model, rows.astype(dtype))
    assert out.dtype == grad.dtype == dtype
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["rbm", "hopfield"], indirect=True)
@pytest.mark.parametrize(("wrong", "shown"), [(-1.0, "-1"), (2.5, "2.5"), (np.nan, "nan")])
def test_a_number_that_no_unit_can_hold_is_named_with_its_row(model, rows, wrong, shown):
    rows[3, 1] = wrong
    with pytest.raises(TargetError, match=rf"takes numbers from 0 \(off\) to 2 \(on\), a row holds {shown}; set model.highest") as caught:
        model.forward(rows)
    assert caught.value.row == 3


def test_rows_of_several_axes_are_refused_with_the_remedy(name):
    with pytest.raises(ShapeError, match=r"takes rows of one axis, got rows of shape \(2, 3\); put Flatten\(\) before it"):
        Model([LAYERS[name]()], (2, 3))
