from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from hpcml.arrays import to_host
from hpcml.errors import DataError, ShapeError
from hpcml.nn import LOSSES, Workspace, softmax_cross_entropy, squared_error
from tests.nn.gradients import assert_slopes_equal, central_differences


def case(name, xp, rows=6, outputs=4):
    """A prediction and a fitting target."""
    random = np.random.default_rng([3, rows, outputs])
    prediction = random.standard_normal((rows, outputs)) * 3
    target = random.integers(0, outputs, rows) if LOSSES[name].integer_target else random.standard_normal((rows, outputs))
    return xp.asarray(prediction), xp.asarray(target)


each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
@pytest.mark.parametrize("outputs", [1, 4])
def test_the_slope_is_that_of_finite_differences(name, outputs, xp):
    prediction, target = case(name, xp, outputs=outputs)
    expected = central_differences(lambda: LOSSES[name](prediction.copy(), target)[0], prediction)
    value, slope = LOSSES[name](prediction.copy(), target)
    assert_slopes_equal(slope, expected)
    assert value.shape == ()


@each_loss
def test_the_value_of_many_rows_is_the_sum_over_single_rows(name, xp):
    prediction, target = case(name, xp)
    value, slope = LOSSES[name](prediction.copy(), target)
    rows = [LOSSES[name](prediction[k : k + 1].copy(), target[k : k + 1]) for k in range(6)]
    np.testing.assert_allclose(float(value), sum(float(v) for v, _ in rows), rtol=1e-13)
    np.testing.assert_allclose(to_host(slope), np.concatenate([to_host(s) for _, s in rows]), rtol=1e-12, atol=1e-15)


@each_loss
def test_no_rows_cost_nothing(name, xp):
    prediction, target = case(name, xp, rows=0)
    value, slope = LOSSES[name](prediction, target)
    assert float(value) == 0
    assert slope.shape == (0, 4)


@each_loss
def test_a_workspace_changes_no_bits_whatever_was_in_it(name, xp):
    work = Workspace()
    for rows in (3, 9, 6, 6):
        prediction, target = case(name, xp, rows)
        value, slope = LOSSES[name](prediction.copy(), target, work)
        fresh_value, fresh_slope = LOSSES[name](prediction.copy(), target)
        assert float(value) == float(fresh_value)
        np.testing.assert_array_equal(to_host(slope), to_host(fresh_slope))


@each_loss
def test_the_slope_overwrites_the_prediction(name, xp):
    prediction, target = case(name, xp)
    _, slope = LOSSES[name](prediction, target)
    assert bool((prediction == slope).all())


@each_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_shows_in_the_value(name, bad):
    prediction, target = case(name, np)
    prediction[2, 1] = bad
    with np.errstate(all="ignore"):
        value, _ = LOSSES[name](prediction, target)
    assert not math.isfinite(value)


def test_cross_entropy_is_minus_the_log_of_scipys_softmax(xp):
    prediction, target = case("softmax-cross-entropy", xp)
    value, _ = softmax_cross_entropy(prediction.copy(), target)
    host = to_host(prediction)
    np.testing.assert_allclose(float(value), -log_softmax(host, axis=1)[np.arange(6), to_host(target)].sum(), rtol=1e-13)


def test_cross_entropy_stays_finite_for_large_predictions():
    value, slope = softmax_cross_entropy(np.array([[1000.0, 0.0], [0.0, -1000.0]], np.float32), np.array([1, 0]))
    assert float(value) == 1000
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_classes_of_every_integer_dtype_mean_the_same(dtype):
    random = np.random.default_rng(1)
    prediction, target = random.standard_normal((300, 4)), random.integers(0, 4, 300)
    expected, slope = softmax_cross_entropy(prediction.copy(), target)
    found, other = softmax_cross_entropy(prediction.copy(), target.astype(dtype))
    assert float(found) == float(expected)
    np.testing.assert_array_equal(other, slope)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_class_that_the_model_has_no_output_for_is_refused(wrong):
    with pytest.raises(DataError, match=rf"targets \[{wrong}\] are outside the classes 0 to 3"):
        softmax_cross_entropy(np.zeros((3, 4)), np.array([0, wrong, 3]))


@pytest.mark.parametrize("target", [np.zeros(3), np.zeros((3, 1), int), np.zeros(2, int)])
def test_cross_entropy_refuses_what_is_no_class(target):
    with pytest.raises(ShapeError, match=r"integer classes of shape \(3,\)"):
        softmax_cross_entropy(np.zeros((3, 4)), target)


@pytest.mark.parametrize("target", [np.zeros(3), np.zeros((3, 1)), np.zeros((2, 4))])
def test_squared_error_refuses_targets_of_another_shape(target):
    with pytest.raises(ShapeError, match=r"targets of shape \(3, 4\)"):
        squared_error(np.zeros((3, 4)), target)


def test_one_output_takes_targets_with_and_without_their_axis():
    prediction, target = np.arange(3.0)[:, None], np.array([1.0, 1.0, 5.0])
    value, slope = squared_error(prediction.copy(), target)
    assert float(value) == (1 + 0 + 9) / 2
    np.testing.assert_array_equal(slope, squared_error(prediction.copy(), target[:, None])[1])


def test_hits_are_rows_whose_largest_output_is_the_class(xp):
    prediction, target = case("softmax-cross-entropy", xp, rows=50)
    assert int(softmax_cross_entropy.hits(prediction, target)) == int((to_host(prediction).argmax(1) == to_host(target)).sum())
    assert squared_error.hits is None
