"""Dropout of attention's weights: the formula with the mask written out, the same for tiles of any size, and seeded by place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml import nn
from hpcml.arrays import stream
from hpcml.nn.layers import attention
from hpcml.nn.layers.chain import numbered, walk
from tests.nn.torching import close, torch

PLACE = {"seed": 5, "step": 2, "worker": 3}
HEADS = 2


def training(**options):
    """A layer in training, with the numbers of PLACE."""
    layer = nn.DotProduct(HEADS, **options)
    layer.context.train(**PLACE)
    return layer


def numbers(rows, T, seed=0):
    """Queries, keys and values of two heads of two numbers, and a slope."""
    x, slope = np.random.default_rng([seed, rows, T]).standard_normal((2, rows, T, 12))
    return x, slope[:, :, :4].copy()


def written_out(rows, T, probability):
    """(B, h, T, T): what a weight is multiplied by; each query draws an even number of float32."""
    drawn = stream(PLACE["seed"], "attention", PLACE["step"], PLACE["worker"], 0, 0).random((rows, HEADS, T, T + T % 2), np.float32)
    return (drawn[..., :T] >= np.float32(probability)) / (1 - probability)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("T", [5, 70])
def test_it_is_the_formula_with_the_mask_written_out_in_values_and_slopes(causal, T):
    library, (x, slope) = torch(), numbers(3, T)
    layer = training(causal=causal, dropout=0.3)
    out, back = layer.forward(x).copy(), layer.backward(slope.copy())
    tx = library.tensor(x, requires_grad=True)
    q, k, v = (part.reshape(3, T, HEADS, 2).swapaxes(1, 2) for part in tx.split(4, -1))
    scores = q @ k.swapaxes(-1, -2) / 2**0.5
    if causal:
        scores = scores.masked_fill(~library.ones(T, T, dtype=library.bool).tril(), -float("inf"))
    weights = library.softmax(scores, -1) * library.tensor(written_out(3, T, 0.3))
    expected = (weights @ v).swapaxes(1, 2).reshape(3, T, 4)
    close(out, expected)
    (expected * library.tensor(slope)).sum().backward()
    close(back, tx.grad)


@given(T=st.integers(1, 12), tile=st.integers(1, 5), scores=st.integers(1, 200), rows=st.integers(1, 4), causal=st.booleans())
@settings(max_examples=40)
def test_tiles_of_any_size_drop_the_same(T, tile, scores, rows, causal):
    x, slope = numbers(rows, T)

    def run():
        layer = training(causal=causal, dropout=0.5)
        return layer.forward(x).copy(), layer.backward(slope.copy())

    expected = run()
    kept = attention.QUERIES["cpu"], attention.SCORES["cpu"]
    try:
        attention.QUERIES["cpu"], attention.SCORES["cpu"] = tile, scores
        for a, b in zip(run(), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    finally:
        attention.QUERIES["cpu"], attention.SCORES["cpu"] = kept


def test_the_mean_over_many_steps_is_attention_without_dropout():
    layer, (x, _) = training(dropout=0.5), numbers(2, 6)
    total = np.zeros((2, 6, 4))
    for step in range(4000):
        layer.context.train(seed=1, step=step, worker=0)
        total += layer.forward(x)
    layer.context.evaluate()
    np.testing.assert_allclose(total / 4000, layer.forward(x), atol=0.1)


def test_each_step_worker_and_layer_drops_others_and_evaluation_none():
    x, _ = numbers(2, 6)
    layers = [nn.DotProduct(HEADS, dropout=0.5) for _ in range(2)]
    layers[1].number = 1
    seen = []
    for layer in layers:
        for step, worker in ((0, 0), (1, 0), (0, 1)):
            layer.context.train(seed=1, step=step, worker=worker)
            seen.append(layer.forward(x).copy())
    assert all(not np.array_equal(a, b) for k, a in enumerate(seen) for b in seen[:k])
    layers[0].context.evaluate()
    np.testing.assert_array_equal(layers[0].forward(x), nn.DotProduct(HEADS).forward(x))


def test_none_dropped_is_the_layer_without_to_the_last_bit():
    x, slope = numbers(2, 6)
    found = [(layer.forward(x).copy(), layer.backward(slope.copy())) for layer in (training(dropout=0.0), nn.DotProduct(HEADS))]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_recomputed_activations_drop_the_same():
    x, found = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.float32), []
    for recompute in (False, True):
        model = nn.transformer(7, layers=2, width=8, heads=2, vocabulary=11, attention_dropout=0.3, recompute=recompute, seed=3)
        _number_leaves(model)
        model.context.train(**PLACE)
        _, slope = nn.token_cross_entropy(model.forward(x), x.astype(np.int64))
        model.backward(slope)
        found.append(model.arena.grad.copy())
    np.testing.assert_array_equal(*found)


def _number_leaves(model):
    """Number layers without those that hold others, of which one model has more."""
    for number, layer in enumerate(layer for _, layer in walk(numbered(model.layers)) if not layer.children):
        layer.number = number
