from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.errors import ShapeError
from hpcml.nn import AveragePool, MaxPool, Model, Reshape
from tests.nn.torching import assert_as_torch, torch

FEW = settings(max_examples=60, deadline=None)


@st.composite
def images(draw, axes=2):
    """(shape of a row, keys of a pool) that fit together."""
    size = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    keys = {
        "size": size,
        "stride": tuple(draw(st.integers(1, 5)) for _ in range(axes)),
        "padding": tuple(draw(st.integers(0, length // 2)) for length in size),
    }
    return (*(draw(st.integers(length, 7)) for length in size), draw(st.integers(1, 3))), keys


def torch_pool(kind, keys, axes):
    """F.max_pool or F.avg_pool on channels-last tensors."""
    pool = getattr(torch().nn.functional, f"{kind}_pool{axes}d")
    return lambda x: pool(x.movedim(-1, 1), keys["size"], keys["stride"], keys["padding"]).movedim(1, -1)


POOLS = pytest.mark.parametrize(("layer", "kind"), [(MaxPool, "max"), (AveragePool, "avg")])


@POOLS
@FEW
@given(case=images(), rows=st.integers(1, 4))
def test_pooling_of_images_is_pytorchs(layer, kind, case, rows):
    shape, keys = case
    assert_as_torch([layer(**keys)], shape, torch_pool(kind, keys, 2), rows)


@POOLS
@FEW
@given(case=images(axes=1), rows=st.integers(1, 4))
def test_pooling_of_sequences_is_pytorchs(layer, kind, case, rows):
    shape, keys = case
    assert_as_torch([layer(**keys)], shape, torch_pool(kind, keys, 1), rows)


@FEW
@given(case=images(), seed=st.integers(0, 1000))
def test_of_equal_numbers_the_first_takes_the_slope_as_in_pytorch(case, seed):
    shape, keys = case
    numbers = np.random.default_rng(seed).integers(0, 2, (3, *shape))
    assert_as_torch([MaxPool(**keys)], shape, torch_pool("max", keys, 2), seed=seed, inputs=numbers)


@pytest.mark.parametrize("shape", [(4, 5, 3), (6, 3)])
def test_without_a_size_the_whole_image_is_pooled(shape):
    axes = tuple(range(1, len(shape)))
    assert_as_torch([AveragePool()], shape, lambda x: x.mean(axes))
    assert_as_torch([MaxPool()], shape, lambda x: x.amax(axes))
    assert Model([MaxPool()], shape).outputs == shape[-1:]


def test_a_number_that_is_not_one_stays_visible():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2] = np.nan
    for layer in (MaxPool(2), AveragePool(2)):
        assert np.isnan(Model([layer], (4, 4, 1)).forward(x)).sum() == 1


def test_a_smaller_batch_after_a_larger_one_is_as_good_as_a_fresh_layer():
    random = np.random.default_rng(0)
    x, slope = random.standard_normal((2, 5, 5, 2)), random.standard_normal((2, 2, 2, 2))
    used, fresh = (Model([MaxPool(3, stride=2)], (5, 5, 2), dtype=np.float64) for _ in range(2))
    used.forward(random.standard_normal((4, 5, 5, 2)))
    used.layers[0].backward(random.standard_normal((4, 2, 2, 2)))
    for model in (used, fresh):
        model.forward(x)
    np.testing.assert_array_equal(used.layers[0].backward(slope.copy()), fresh.layers[0].backward(slope.copy()))


def test_a_padding_of_more_than_half_a_window_is_refused():
    with pytest.raises(ShapeError, match="padding is 2, windows are 3; padding may be half a window at most"):
        Model([MaxPool(3, padding=2)], (8, 8, 1))


def test_reshape_gives_rows_another_shape():
    assert_as_torch([Reshape(2, 3, 1)], (6,), lambda x: x.reshape(-1, 2, 3, 1))
    with pytest.raises(ShapeError, match=r"Reshape to \(8, 8\) takes rows of 64 numbers, got 60 in \(60,\)"):
        Model([Reshape(8, 8)], (60,))
