"""Fused steps beside their numpy twins: the same numbers, or the same but for a few roundings; no growth; one call to ask for them."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml import nn
from hpcml.errors import ConfigError

pytest.importorskip("numba", reason="numba is not installed; pip install 'hpcml[fast]' for fused steps")

FEW = settings(max_examples=30, deadline=None)


def both(layers, shape, x, slope, dtype=np.float32):
    """Return (outputs, gradient, input slope) by numpy in this dtype, and by fused steps in float32, from the same first weights."""
    found = []
    for fused in (False, True):
        made = layers()
        model = nn.Model(made, shape, seed=3, dtype=np.float32 if fused else dtype)
        for layer in made:
            layer.needs_input_slope = True
        if fused:
            model.fuse()
        model.context.train(seed=0, step=0, worker=0)
        kind = model.arena.dtype
        out, back = model.forward(x.astype(kind)).copy(), slope.astype(kind)
        for layer in reversed(made):
            back = layer.backward(back)
        found.append((out, model.arena.grad[: model.arena.n].copy(), back.copy()))
    return found


def assert_near(layers, shape, rows=5):
    """Compare fused steps in float32 with numpy in float64."""
    random = np.random.default_rng(0)
    outputs = nn.Model(layers(), shape).outputs
    x, slope = random.standard_normal((rows, *shape)), random.standard_normal((rows, *outputs))
    for found, expected in zip(*reversed(both(layers, shape, x, slope, np.float64)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, float(np.abs(expected).max(initial=0))))


@FEW
@given(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 40), st.integers(0, 99))
def test_pooling_gives_the_same_numbers_also_where_some_are_equal_or_none(rows, height, width, channels, seed):
    random = np.random.default_rng(seed)
    x = random.integers(-2, 3, (rows, 2 * height, 2 * width, channels)).astype(np.float32)
    x[random.random(x.shape) < 0.05] = np.nan
    slope = random.standard_normal((rows, height, width, channels)).astype(np.float32)
    plain, fused = both(lambda: [nn.MaxPool(2)], x.shape[1:], x, slope)
    np.testing.assert_array_equal(plain[0], fused[0])
    whole = ~np.isnan(plain[0]).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(plain[2][whole], fused[2][whole])


@FEW
@given(
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(2, 4),
    st.integers(2, 4),
    st.sampled_from([16, 19, 32]),
    st.sampled_from([16, 24, 33]),
    st.booleans(),
)
def test_a_convolution_by_tiles_is_one_by_windows(top, left, height, width, channels, outputs, bias):
    layers = lambda: [nn.Conv(outputs, 3, padding=(top, left), bias=bias)]  # noqa: E731
    made = nn.Model(layers(), (2 * height, 2 * width, channels))
    assert made.layers[0]._tiles
    assert_near(layers, (2 * height, 2 * width, channels))


def test_blocks_of_tiles_are_the_images_one_by_one(monkeypatch):
    layers, shape = lambda: [nn.Conv(16, 3, padding=1)], (4, 4, 16)
    random = np.random.default_rng(0)
    x, slope = random.standard_normal((7, *shape)), random.standard_normal((7, *shape))
    whole = both(layers, shape, x, slope)[1]
    monkeypatch.setattr("hpcml.nn.layers.winograd.FEWEST_TILES", 6)  # 12 tiles at once: 3 images
    monkeypatch.setattr("hpcml.nn.layers.winograd.IN_CACHE", 1)
    for a, b in zip(whole, both(layers, shape, x, slope)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


LAYERS = {
    "layer norm": (lambda: [nn.LayerNorm()], (7, 37)),
    "layer norm, wide": (lambda: [nn.LayerNorm(1e-3)], (256,)),
    "gelu": (lambda: [nn.GELU()], (3, 41)),
    "attention": (lambda: [nn.DotProduct(2, causal=True)], (37, 18)),
    "attention to all": (lambda: [nn.DotProduct(1)], (5, 9)),
    "gelu over a dense layer": (lambda: [nn.Dense(21), nn.GELU(), nn.Dense(3)], (9,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_fused_layer_is_its_twin_but_for_rounding(name):
    assert_near(*LAYERS[name])


@pytest.mark.parametrize("scale", [1e-3, 1, 10, 1e4])
def test_gelu_holds_far_from_zero_too(scale):
    x = np.linspace(-scale, scale, 501)[None]
    (out, _, bend), (fused, _, fused_bend) = both(lambda: [nn.GELU()], (501,), x, np.ones_like(x), np.float64)
    np.testing.assert_allclose(fused, out, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fused_bend, bend, rtol=1e-5, atol=1e-5)


def test_attention_tells_what_is_no_number_as_numpy_does():
    x = np.random.default_rng(0).standard_normal((1, 70, 6)).astype(np.float32)
    x[0, 40, 2] = np.nan  # a key
    plain, fused = (np.isnan(found[0]) for found in both(lambda: [nn.DotProduct(1, causal=True)], (70, 6), x, np.ones((1, 70, 2))))
    assert plain[0, 40:].all()
    np.testing.assert_array_equal(plain, fused)


@pytest.mark.parametrize("scale", [1e-3, 1, 80])
def test_the_exponential_is_numpys_to_a_unit_of_the_last_digit(scale):
    fast = nn.model.load_fused()
    x = np.linspace(-scale, 0, 1003, dtype=np.float32)[None]
    p, slope, nothing = x.copy(), np.ones_like(x), np.zeros(1, np.float32)
    fast.softmax_slope(p, nothing, slope, nothing)
    np.testing.assert_allclose(p, np.exp(x.astype(np.float64)), rtol=2.5e-7)
    np.testing.assert_array_equal(p, slope)


MODELS = {
    "lenet": (lambda: nn.lenet((8, 8, 16), [16, 24], [], 3), (6, 8, 8, 16)),
    "resnet": (lambda: nn.resnet((8, 8, 2), [16, 16], 1, 3), (6, 8, 8, 2)),
    "transformer": (lambda: nn.transformer(9, layers=2, width=8, heads=2, vocabulary=11), (3, 9)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_fused_steps_repeats_its_bits_and_allocates_nothing_more(name):
    make, shape = MODELS[name]
    random = np.random.default_rng(0)
    x = random.integers(0, 11, shape) if name == "transformer" else random.standard_normal(shape).astype(np.float32)
    model = make()
    model.fuse()
    model.context.train(seed=0, step=0, worker=0)
    slope = random.standard_normal((len(x), *model.outputs)).astype(np.float32)

    def step():
        model.forward(x)
        model.backward(slope.copy())

    step()
    first = model.arena.grad.copy()
    step()
    np.testing.assert_array_equal(model.arena.grad, first)
    tracemalloc.start()
    try:
        for _ in range(3):
            step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            step()
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()


def test_float64_goes_by_numpy():
    layers, shape = lambda: [nn.Conv(16, 3), nn.MaxPool(2), nn.LayerNorm(), nn.GELU()], (6, 6, 16)
    x = np.random.default_rng(0).standard_normal((3, *shape))
    outs = []
    for fused in (False, True):
        model = nn.Model(layers(), shape, seed=1, dtype=np.float64)
        if fused:
            model.fuse()
        outs.append(model.forward(x).copy())
    np.testing.assert_array_equal(*outs)


def test_without_numba_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hpcml.arrays.fast", None)
    monkeypatch.delattr("hpcml.arrays.fast", raising=False)
    with pytest.raises(ConfigError, match=r"hpcml\[fast\]"):
        nn.mlp([2, 2]).fuse()
