from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, log_softmax

from hpcml.arrays import to_host
from hpcml.errors import DataError, ShapeError
from hpcml.nn import (
    LOSSES as NAMED,
)
from hpcml.nn import (
    Workspace,
    binary_cross_entropy,
    contrastive,
    cross_entropy,
    hinge,
    huber,
    softmax_cross_entropy,
    squared_error,
)
from tests.nn.gradients import assert_slopes_equal, central_differences
from tests.nn.torching import close, torch

LOSSES = NAMED | {
    "smoothed cross-entropy": cross_entropy(label_smoothing=0.1),
    "cross-entropy of unequal classes": cross_entropy(class_weights=[1, 2, 0.5, 3]),
    "both": cross_entropy(label_smoothing=0.2, class_weights=[1, 2, 0.5, 3]),
    "binary cross-entropy with all options": binary_cross_entropy(0.2, (0.5, 3)),
    "huber of a small delta": huber(0.3),
    "hinge of a large margin": hinge(2.5),
    "contrastive of a large margin": contrastive(6),
}


def case(name, xp, rows=6, outputs=4):
    """A prediction and a fitting target."""
    random = np.random.default_rng([3, rows, outputs])
    places = (3,) if LOSSES[name].each_position else ()
    prediction = random.standard_normal((rows, *places, outputs)) * 3
    kind = LOSSES[name].name
    if kind == "contrastive":
        target = random.integers(0, 2, rows)
    elif kind == "binary-cross-entropy":
        target = random.random((rows, outputs))
    else:
        whole = LOSSES[name].integer_target
        target = random.integers(0, outputs, (rows, *places)) if whole else random.standard_normal((rows, outputs))
    return xp.asarray(prediction), xp.asarray(target)


each_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.mark.parametrize(
    ("name", "outputs"), [(name, 4) for name in LOSSES] + [(name, 1) for name in NAMED if name != "contrastive"] + [("contrastive", 2)]
)
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
    assert slope.shape == prediction.shape


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


@each_loss
def test_a_rows_weight_multiplies_its_loss_and_its_slope(name, xp):
    prediction, target = case(name, xp)
    weights = xp.asarray(np.array([0, 1, 2, 0.5, 1, 3]))
    value, slope = LOSSES[name](prediction.copy(), target, None, weights)
    rows = [LOSSES[name](prediction[k : k + 1].copy(), target[k : k + 1]) for k in range(6)]
    np.testing.assert_allclose(float(value), sum(float(w) * float(v) for w, (v, _) in zip(weights, rows, strict=True)), rtol=1e-13)
    expected = np.concatenate([float(w) * to_host(s) for w, (_, s) in zip(weights, rows, strict=True)])
    np.testing.assert_allclose(to_host(slope), expected, rtol=1e-12, atol=1e-15)


def pytorchs(name):
    """The same loss in PyTorch, summed: (prediction, target) -> ()."""
    library = torch()
    functional, unequal = library.nn.functional, library.tensor([1, 2, 0.5, 3], dtype=library.float64)

    def pairs(prediction, target, margin):
        distance = library.pairwise_distance(*prediction.reshape(-1, 2, 2).unbind(1), eps=0)
        return ((target * distance**2 + (1 - target) * library.relu(margin - distance) ** 2) / 2).sum()

    def binary(prediction, target):
        smooth = 0.8 * target + 0.1
        raw = functional.binary_cross_entropy_with_logits(prediction, smooth, pos_weight=library.tensor([6.0]), reduction="sum")
        return raw / 2

    def entropy(**keys):
        return lambda p, t: functional.cross_entropy(p, t, reduction="sum", **keys)

    return {
        "softmax-cross-entropy": entropy(),
        "smoothed cross-entropy": entropy(label_smoothing=0.1),
        "cross-entropy of unequal classes": entropy(weight=unequal),
        "both": entropy(weight=unequal, label_smoothing=0.2),
        "binary-cross-entropy": lambda p, t: functional.binary_cross_entropy_with_logits(p, t, reduction="sum"),
        "binary cross-entropy with all options": binary,
        "squared-error": lambda p, t: functional.mse_loss(p, t, reduction="sum") / 2,
        "huber": lambda p, t: functional.huber_loss(p, t, reduction="sum"),
        "huber of a small delta": lambda p, t: functional.huber_loss(p, t, reduction="sum", delta=0.3),
        "hinge": lambda p, t: functional.multi_margin_loss(p, t, reduction="sum"),
        "hinge of a large margin": lambda p, t: functional.multi_margin_loss(p, t, reduction="sum", margin=2.5),
        "contrastive": lambda p, t: pairs(p, t, 1),
        "contrastive of a large margin": lambda p, t: pairs(p, t, 6),
        "token-cross-entropy": lambda p, t: functional.cross_entropy(p.flatten(0, 1), t.flatten(), reduction="sum") / p.shape[1],
    }[name]


@each_loss
@pytest.mark.parametrize("rows", [1, 7])
def test_value_and_slope_are_pytorchs(name, rows):
    prediction, target = case(name, np, rows)
    tensor = torch().tensor(prediction.copy(), requires_grad=True)
    expected = pytorchs(name)(tensor, torch().tensor(target))
    expected.backward()
    value, slope = LOSSES[name](prediction, target)
    close(value, expected)
    close(slope, tensor.grad)


def test_the_hinge_of_one_output_is_that_of_two_classes():
    prediction, target = np.array([[0.5], [2.0], [-0.3], [-4.0]]), np.array([1, 1, 0, 0])
    value, slope = hinge()(prediction.copy(), target)
    assert float(value) == pytest.approx(0.5 + 0 + 0.7 + 0)
    np.testing.assert_array_equal(slope, [[-1], [0], [1], [0]])
    assert int(hinge().hits(prediction, np.array([1, 0, 1, 0]))) == 2


def test_equal_points_of_an_unlike_pair_cost_the_margin_and_have_no_direction():
    value, slope = contrastive(2)(np.ones((1, 2, 3)), np.array([0]))
    assert float(value) == 2
    assert (slope == 0).all()


def test_binary_cross_entropy_stays_finite_for_large_predictions():
    value, slope = binary_cross_entropy()(np.array([[1000.0], [-1000.0]], np.float32), np.array([0, 1], np.float32))
    assert float(value) == 2000
    np.testing.assert_array_equal(slope, [[1], [-1]])


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_a_probability_outside_0_and_1_is_refused_with_its_row(wrong):
    with pytest.raises(DataError, match=r"is not between 0 and 1; mend the data") as caught:
        binary_cross_entropy()(np.zeros((3, 1)), np.array([0, wrong, 1]))
    assert caught.value.row == 1


def test_outputs_mean_probabilities_and_classes():
    outputs = np.array([[1.0, 3.0], [2.0, -1.0]])
    np.testing.assert_allclose(softmax_cross_entropy.link(outputs), np.exp(log_softmax(outputs, axis=1)))
    np.testing.assert_array_equal(softmax_cross_entropy.decide(outputs), [1, 0])
    np.testing.assert_allclose(binary_cross_entropy().link(outputs), expit(outputs))
    np.testing.assert_array_equal(binary_cross_entropy().decide(outputs), [[1, 1], [1, 0]])
    np.testing.assert_array_equal(binary_cross_entropy().decide(outputs[:, 1:]), [1, 0])
    np.testing.assert_array_equal(hinge().decide(outputs[:, 1:]), [1, 0])
    np.testing.assert_array_equal(squared_error.link(outputs), outputs)
    assert squared_error.decide is None


def test_pairs_need_an_even_count_of_numbers():
    with pytest.raises(ShapeError, match="two vectors a row"):
        contrastive()(np.zeros((2, 3)), np.zeros(2, int))


def test_class_weights_are_one_for_each_class():
    with pytest.raises(ShapeError, match=r"train\.class_weights has 2 numbers, the model 3 outputs"):
        cross_entropy(class_weights=[1, 2])(np.zeros((2, 3)), np.zeros(2, int))


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


def test_cross_entropy_refuses_what_is_no_class():
    with pytest.raises(ShapeError, match=r"integer classes of shape \(3,\)"):
        softmax_cross_entropy(np.zeros((3, 4)), np.zeros((3, 1), int))


@pytest.mark.parametrize("target", [np.zeros(3), np.zeros((3, 1))])
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
