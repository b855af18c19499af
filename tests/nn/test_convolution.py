from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.errors import ShapeError
from hpcml.nn import AveragePool, Bias, Conv, MaxPool, Model, ReLU
from hpcml.nn.layers import patches
from tests.nn.torching import assert_as_torch, torch

FEW = settings(max_examples=60, deadline=None)


@st.composite
def images(draw, axes=2):
    """(shape of a row, outputs, keys of a Conv) that fit together."""
    groups = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    keys = {
        "size": size,
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(axes)),
        "padding": tuple(draw(st.integers(0, 3)) for _ in range(axes)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    shape = tuple(draw(st.integers(length, 6)) for length in size)
    return (*shape, groups * draw(st.integers(1, 3))), groups * draw(st.integers(1, 3)), keys


def torch_conv(keys, axes):
    """F.conv on channels-last tensors and filters (size..., C / g, k)."""
    functional = torch().nn.functional
    conv = {1: functional.conv1d, 2: functional.conv2d}[axes]

    def oracle(x, weight, bias=None):
        out = conv(
            x.movedim(-1, 1), weight.movedim((-1, -2), (0, 1)).contiguous(), bias, keys["stride"], keys["padding"], 1, keys["groups"]
        )
        return out.movedim(1, -1)

    return oracle


@FEW
@given(images(), st.integers(1, 5))
def test_a_convolution_of_images_is_pytorchs(case, rows):
    shape, outputs, keys = case
    assert_as_torch([Conv(outputs, **keys)], shape, torch_conv(keys, 2), rows)


@FEW
@given(images(axes=1), st.integers(1, 5))
def test_a_convolution_of_sequences_is_pytorchs(case, rows):
    shape, outputs, keys = case
    assert_as_torch([Conv(outputs, **keys)], shape, torch_conv(keys, 1), rows)


@pytest.mark.parametrize("keys", [{"size": 3, "padding": 1}, {"size": 3, "stride": 2}, {"size": 2, "groups": 2, "padding": 1}])
def test_blocks_of_images_change_nothing(monkeypatch, keys):
    x = np.random.default_rng(0).standard_normal((7, 9, 8, 4))
    results = []
    for limit in (1, 5_000, 1 << 30):
        monkeypatch.setattr(patches, "IN_CACHE", limit)
        model = Model([ReLU(), Conv(4, **keys), Bias(), Conv(2, **keys)], (9, 8, 4), seed=1, dtype=np.float64)
        out = model.forward(x).copy()
        model.backward(np.cos(out))
        results.append((out, model.arena.grad[: model.arena.n].copy()))
    for out, grad in results[1:]:
        np.testing.assert_allclose(out, results[0][0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(grad, results[0][1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keys", [{}, {"stride": 2}, {"groups": 4}, {"groups": 4, "stride": 2}])
def test_a_step_allocates_nothing_after_the_first(keys):
    layers = [
        Conv(8, 3, padding=1),
        MaxPool(2),
        Bias(),
        Conv(8, 3, padding=1, **keys),
        AveragePool(3, stride=1),
    ]
    model, x = Model(layers, (16, 16, 3)), np.ones((256, 16, 16, 3), np.float32)
    slope = np.ones_like(model.forward(x))
    used = slope.copy()

    def step():
        used[...] = slope
        model.forward(x)
        model.backward(used)

    step()
    tracemalloc.start()
    try:
        for _ in range(3):
            step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The batch behind the first convolution is 2 MB; numpy's own buffers are up to four times 8192 numbers.
    assert peak < 200_000


def test_a_convolution_with_one_pixel_is_a_dense_layer_of_each_pixel():
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
    model = Model([Conv(6, 1)], (4, 5, 2), seed=1, dtype=np.float64)
    weight, bias = (p.data for p in model.arena)
    np.testing.assert_allclose(model.forward(x), x @ weight[0, 0] + bias, rtol=1e-13)


def test_moving_the_image_moves_the_outputs():
    model = Model([Conv(3, 3)], (9, 9, 2), seed=1)
    x = np.random.default_rng(0).standard_normal((2, 9, 9, 2)).astype(np.float32)
    out = model.forward(x).copy()
    np.testing.assert_allclose(model.forward(np.roll(x, (1, 2), (1, 2)))[:, 1:, 2:], out[:, :-1, :-2], rtol=1e-5, atol=1e-6)


def test_the_bias_layer_adds_to_each_channel():
    assert_as_torch([Bias()], (3, 2, 4), lambda x, bias: x + bias)


def test_the_first_filters_have_the_variance_of_their_windows():
    model = Model([Conv(64, 5, bias=False)], (8, 8, 16))
    assert abs(float(model.arena.data.var()) * 25 * 16 / 2 - 1) < 0.03


def test_float16_is_right_to_its_rounding():
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 4))
    one, half = (Model([Conv(4, 3, padding=1), ReLU(), Conv(2, 3, stride=2)], (6, 6, 4), seed=1, dtype=d) for d in ("float64", "float16"))
    expected, found = one.forward(x).copy(), half.forward(x.astype(np.float16)).copy()
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=0.03)
    one.backward(np.ones_like(expected))
    half.backward(np.ones_like(found))
    np.testing.assert_allclose(half.arena.grad, one.arena.grad, atol=0.01 * np.abs(one.arena.grad).max())


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (Conv(4, 3), (64,), r"takes rows \(length, channels\) or \(height, width, channels\), got \(64,\); put Reshape"),
        (Conv(4, 5), (4, 8, 1), r"a window of 5 does not fit on rows of shape \(4, 8, 1\) with padding 0"),
        (Conv(4, 5), (4, 1), r"a window of 5 does not fit on rows of shape \(4, 1\)"),
        (Conv(4, 3, groups=2), (8, 8, 3), "2 groups must divide 3 input channels and 4 outputs"),
        (Conv(3, 3, groups=2), (8, 8, 4), "2 groups must divide 4 input channels and 3 outputs"),
        (Conv(4, (3, 3)), (8, 4), r"size is \(3, 3\); give a whole number of at least 1, or one for each of the 1 axes"),
        (Conv(4, 3, stride=0), (8, 8, 4), "stride is 0; give a whole number of at least 1"),
        (Conv(4, 3, padding=-1), (8, 8, 4), "padding is -1; give a whole number of at least 0"),
    ],
)
def test_what_does_not_fit_is_said_when_the_model_is_built(layer, shape, words):
    with pytest.raises(ShapeError, match=words):
        Model([layer], shape)
