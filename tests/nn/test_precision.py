"""Products in 16 bits: operands rounded as PyTorch rounds them, sums in float32, everything else and evaluation untouched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hpcml.errors import ConfigError, ShapeError
from hpcml.nn import BFLOAT16, FLOAT16, LSTM, Attention, Conv, Dense, Flatten, LayerNorm, Model, ReLU, TiedHead
from hpcml.nn.layers.embedding import Embedding
from hpcml.nn.workspace import Scratch
from tests.nn.torching import torch

PRECISIONS = {"bfloat16": BFLOAT16, "float16": FLOAT16}
UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""The largest relative error of a rounding."""

FLOATS = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(width=32))


def rounded(precision, x):
    return precision.round(x, "x", Scratch()).copy()


@pytest.mark.parametrize("name", PRECISIONS)
@given(x=FLOATS)
def test_rounding_is_idempotent_odd_and_keeps_order(name, x):
    once = rounded(PRECISIONS[name], x)
    np.testing.assert_array_equal(rounded(PRECISIONS[name], once), once)
    np.testing.assert_array_equal(rounded(PRECISIONS[name], -x), -once)
    order = np.argsort(x, axis=None)
    kept = once.reshape(-1)[order]
    assert not np.any(kept[1:] < kept[:-1])
    np.testing.assert_array_equal(np.isnan(once), np.isnan(x))


@pytest.mark.parametrize("name", PRECISIONS)
@given(bits=arrays.arrays(np.uint32, 64))
def test_any_bits_round_as_torch_rounds_them(name, bits):
    torch_ = torch()
    x = bits.view(np.float32)
    expected = torch_.from_numpy(x.copy()).to(getattr(torch_, name)).float().numpy()
    np.testing.assert_array_equal(rounded(PRECISIONS[name], x), expected)


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_layout_of_an_operand_does_not_matter(name):
    x = np.random.default_rng(0).standard_normal((4, 6, 10)).astype(np.float32)
    expected = rounded(PRECISIONS[name], x)
    for view, back in ((x.transpose(0, 2, 1), lambda r: r.transpose(0, 2, 1)), (x[:, ::2, 1:7], None)):
        found = rounded(PRECISIONS[name], view)
        if back is None:
            np.testing.assert_array_equal(found, expected[:, ::2, 1:7])
        else:
            np.testing.assert_array_equal(back(found), expected)


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_dense_layer_multiplies_what_torch_would(name):
    torch_ = torch()
    kind, random = getattr(torch_, name), np.random.default_rng(1)
    model = Model([Dense(7)], (5,), seed=2)
    model.round(PRECISIONS[name])
    model.context.train(seed=0, step=0, worker=0)
    x, slope = random.standard_normal((6, 5)).astype(np.float32), random.standard_normal((6, 7)).astype(np.float32)
    weight = model.arena.view("0.dense.weight")
    half = [torch_.from_numpy(a.copy()).to(kind).float() for a in (x, weight.data, slope)]
    np.testing.assert_allclose(model.forward(x), (half[0] @ half[1]).numpy(), rtol=1e-6, atol=1e-6)
    model.backward(slope.copy())
    np.testing.assert_allclose(weight.grad, (half[0].T @ half[2]).numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.arena.view("0.dense.bias").grad, slope.sum(0), rtol=1e-6)


def _tokens(dropout=0.0):
    embedding = Embedding(11, 8)
    return [embedding, Attention(8, 2, causal=True, dropout=dropout), LayerNorm(), TiedHead(embedding)]


MODELS = {
    "convolution": (lambda: [Conv(4, 3, padding=1), ReLU(), Flatten(), Dense(3)], (6, 6, 2)),
    "recurrent": (lambda: [LSTM(6), Dense(3)], (5, 4)),
    "attention": (_tokens, (7,)),
    "attention with dropout": (lambda: _tokens(0.4), (7,)),
}


def inputs(kind):
    """Return four rows for the model of that kind."""
    random, shape = np.random.default_rng(3), (4, *MODELS[kind][1])
    return random.integers(0, 11, shape) if kind.startswith("attention") else random.standard_normal(shape).astype(np.float32)


def gradients(kind, precision=None):
    """Return the output and the gradient of one pass of training of the model of that kind."""
    make, shape = MODELS[kind]
    model = Model(make(), shape, seed=5)
    if precision is not None:
        model.round(precision)
    model.context.train(seed=0, step=0, worker=0)
    out = model.forward(inputs(kind)).copy()
    model.backward(np.sin(np.arange(out.size, dtype=np.float32)).reshape(out.shape))
    return out, model.arena.grad[: model.arena.n].copy()


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_near_those_of_float32_and_differ_only_when_training(kind, name):
    make, shape = MODELS[kind]
    x = inputs(kind)
    whole, half = Model(make(), shape, seed=5), Model(make(), shape, seed=5)
    half.round(PRECISIONS[name])
    np.testing.assert_array_equal(whole.forward(x), half.forward(x))
    found = gradients(kind), gradients(kind, PRECISIONS[name])
    for one, other in zip(*found, strict=True):
        assert not np.array_equal(one, other)
        assert np.abs(one - other).max() < 25 * UNITS[name] * np.abs(one).max()


def test_only_float32_without_fused_steps_can_be_rounded():
    with pytest.raises(ShapeError, match=r"rounded to 'bfloat16', which is no precision; give hpcml\.nn\.BFLOAT16"):
        Model([Dense(2)], (3,)).round("bfloat16")
    with pytest.raises(ConfigError, match=r"the parameters are float64; set model\.dtype"):
        Model([Dense(2)], (3,), dtype="float64").round(BFLOAT16)
    model = Model([Dense(2)], (3,))
    model.context.fast = object()
    with pytest.raises(ConfigError, match="fused steps do not round"):
        model.round(FLOAT16)
