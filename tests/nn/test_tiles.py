"""Convolutions by numpy's passes over tiles beside the same by windows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml import nn
from hpcml.nn.layers import winograd
from hpcml.nn.precision import Precision
from tests.nn.torching import assert_as_torch, torch


def passes(layer, shape, rows, *, tiles, dtype=np.float64):
    """Return (outputs, gradient, input slope) of a convolution by tiles or by windows, from the same first weights."""
    model = nn.Model([layer], shape, seed=1, dtype=dtype)
    layer.needs_input_slope, layer._tiles = True, layer._tiles and tiles
    x = np.random.default_rng(0).standard_normal((rows, *shape)).astype(dtype)
    assert layer._by_tiles(x) == (tiles, None)
    out = model.forward(x).copy()
    back = layer.backward(np.cos(np.arange(out.size)).reshape(out.shape).astype(dtype))
    return out, model.arena.grad[: model.arena.n].copy(), back.copy()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2), st.integers(0, 2), st.integers(2, 4), st.integers(2, 4), st.integers(16, 19), st.integers(16, 19), st.integers(1, 5)
)
def test_a_convolution_by_tiles_is_one_by_windows(top, left, height, width, channels, outputs, rows):
    shape, make = (2 * height, 2 * width, channels), lambda: nn.Conv(outputs, 3, padding=(top, left))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "LONG", 0)
        for found, expected in zip(*(passes(make(), shape, rows, tiles=tiles) for tiles in (True, False)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_in_float32_it_is_pytorchs_to_1e_5_of_the_largest_number():
    conv = torch().nn.functional.conv2d

    def oracle(x, weight, bias):
        return conv(x.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), bias, padding=1).permute(0, 2, 3, 1)

    assert_as_torch([nn.Conv(32, 3, padding=1)], (8, 8, 32), oracle, 2)
    expected = passes(nn.Conv(64, 3, padding=1), (8, 8, 32), 9, tiles=True)
    for found, true in zip(passes(nn.Conv(64, 3, padding=1), (8, 8, 32), 9, tiles=True, dtype=np.float32), expected, strict=True):
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-5 * np.abs(true).max())


@pytest.mark.parametrize(("fewest", "unpacked"), [(1, 1), (12, 1), (1, 20 * 32 * 32), (1000, 1)])
def test_blocks_of_images_change_nothing(monkeypatch, fewest, unpacked):
    expected = passes(nn.Conv(32, 3, padding=1), (8, 8, 32), 7, tiles=False)
    monkeypatch.setattr(winograd, "FEWEST_TILES", fewest)
    monkeypatch.setattr("hpcml.nn.layers.tiles.UNPACKED", unpacked)
    for found, true in zip(passes(nn.Conv(32, 3, padding=1), (8, 8, 32), 7, tiles=True), expected, strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-11, atol=1e-11)


def test_a_step_allocates_nothing_after_the_first():
    model, x = nn.Model([nn.Conv(32, 3, padding=1), nn.Conv(32, 3)], (16, 16, 32)), np.ones((40, 16, 16, 32), np.float32)
    assert all(layer._by_tiles(x)[0] for layer in model.layers)
    slope = np.ones_like(model.forward(x))
    model.backward(slope)
    tracemalloc.start()
    try:
        for _ in range(3):
            model.forward(x)
            model.backward(slope)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000  # the batch is 1.3 MB; numpy's own buffers are up to four times 8192 numbers


def test_short_rows_of_tiles_go_by_windows_and_so_do_products_that_are_rounded():
    layers = {"digits-cnn": (nn.Conv(64, 3, padding=1), (4, 4, 32)), "digits-resnet": (nn.Conv(16, 3, padding=1), (8, 8, 16))}
    for layer, shape in layers.values():
        nn.Model([layer], shape)
        assert layer._tiles
        assert not layer._by_tiles(np.zeros((1, *shape), np.float32))[0]
    layer = nn.Conv(32, 3)
    model = nn.Model([layer], (16, 16, 32))
    x = np.zeros((1, 16, 16, 32), np.float32)
    assert layer._by_tiles(x)[0]
    assert not layer._by_tiles(x.astype(np.float16))[0]
    model.round(Precision("bfloat16"))
    assert not layer._by_tiles(x)[0]
