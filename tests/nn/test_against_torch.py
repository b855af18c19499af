"""Layers of transformers against PyTorch's, values and gradients; cases that torch has no word for against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from hpcml import nn
from hpcml.arrays.special import normal_cdf
from hpcml.errors import DataError, ShapeError
from hpcml.nn import Model
from tests.nn.torching import assert_as_torch, close, torch

SMOOTH = {
    "sigmoid": (nn.Sigmoid, lambda t, x: t.sigmoid(x)),
    "silu": (nn.SiLU, lambda t, x: t.nn.functional.silu(x)),
    "gelu": (nn.GELU, lambda t, x: t.nn.functional.gelu(x, approximate="tanh")),
    "gelu by erf": (lambda: nn.GELU(tanh=False), lambda t, x: t.nn.functional.gelu(x)),
    "tanh": (nn.Tanh, lambda t, x: t.tanh(x)),
    "relu": (nn.ReLU, lambda t, x: t.relu(x)),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_an_activation_is_torchs(name, shape):
    make, oracle = SMOOTH[name]
    wide = np.linspace(-9, 9, 7 * math.prod(shape)).reshape(7, *shape)
    assert_as_torch([make()], shape, lambda x: oracle(torch(), x), rows=7, inputs=wide)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_activation_of_many_numbers_is_that_of_each(name, dtype):
    """More than one piece; no number too large."""
    x = np.random.default_rng(0).standard_normal((3, 30_001)).astype(dtype) * 5
    x[0, :4] = [-1e4, 1e4, -88, 88]
    layer, other = SMOOTH[name][0](), SMOOTH[name][0]()
    out = layer.forward(x)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[:, :100], other.forward(np.ascontiguousarray(x[:, :100])))
    slope = layer.backward(np.ones_like(x))
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[:, :100], other.backward(np.ones((3, 100), dtype)))


@pytest.mark.parametrize(("dtype", "relative"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_the_normal_distribution_function_is_scipys(dtype, relative):
    x = np.linspace(-9, 9, 10_001).astype(dtype)
    out, scratch = np.empty_like(x), np.empty_like(x)
    normal_cdf(x, out, scratch)
    np.testing.assert_allclose(out, ndtr(x.astype(np.float64)), rtol=relative * 10 if dtype == np.float32 else relative)


def test_softmax_is_torchs():
    assert_as_torch([nn.Softmax()], (3, 6), lambda x: torch().softmax(x, -1))


def test_layer_norm_is_torchs():
    assert_as_torch([nn.LayerNorm()], (3, 6), lambda x, gain, bias: torch().nn.functional.layer_norm(x, (6,), gain, bias))


def test_rms_norm_is_torchs():
    assert_as_torch([nn.RMSNorm()], (3, 6), lambda x, gain: torch().nn.functional.rms_norm(x, (6,), gain, 1e-5))


def test_a_norm_of_many_positions_is_torchs():
    """More than one piece."""
    oracle = torch().nn.functional.layer_norm
    assert_as_torch([nn.LayerNorm()], (40, 1100), lambda x, gain, bias: oracle(x, (1100,), gain, bias))


def test_dense_over_positions_is_torchs():
    assert_as_torch([nn.Dense(4, positions=True)], (3, 6), lambda x, weight, bias: x @ weight + bias)


def test_batch_norm_is_torchs_in_training_and_evaluation():
    library, random = torch(), np.random.default_rng(4)
    model = Model([nn.BatchNorm()], (5, 3), dtype=np.float64)
    twin = library.nn.BatchNorm1d(3, dtype=library.float64)
    model.layers[0].needs_input_slope = True
    for step in range(3):
        x, slope = random.standard_normal((2, 4, 5, 3)) * 2 + 1
        tx = library.tensor(x, requires_grad=True)
        expected = twin(tx.swapaxes(1, 2)).swapaxes(1, 2)
        expected.backward(library.tensor(slope))
        model.context.train(seed=0, step=step, worker=0)
        close(model.forward(x), expected)
        model.backward(back := slope.copy())
        close(back, tx.grad)
        for name, tensor in (("gain", twin.weight), ("bias", twin.bias)):
            close(model.arena.view(f"0.batchnorm.{name}").grad, tensor.grad)
        twin.zero_grad()
        trained = slice(model.arena.trained, model.arena.n)
        model.arena.data[trained] -= model.arena.grad[trained] / len(x)
        close(model.arena.view("0.batchnorm.mean").data, twin.running_mean)
        close(model.arena.view("0.batchnorm.variance").data, twin.running_var)
    model.context.evaluate()
    twin.eval()
    close(model.forward(x), twin(library.tensor(x).swapaxes(1, 2)).swapaxes(1, 2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("T", "heads", "width"), [(5, 1, 4), (7, 3, 6), (130, 2, 4), (300, 4, 8)])
def test_attention_is_torchs(causal, T, heads, width):
    def oracle(x):
        q, k, v = (part.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for part in x.split(width, -1))
        mixed = torch().nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return mixed.swapaxes(1, 2).reshape(*x.shape[:2], width)

    assert_as_torch([nn.DotProduct(heads, causal=causal)], (T, 3 * width), oracle)


def test_attention_with_projections_is_torchs():
    library = torch()

    def oracle(x, weight, bias, weight_out, bias_out):
        mask = library.nn.Transformer.generate_square_subsequent_mask(5, dtype=library.float64)
        found, _ = library.nn.functional.multi_head_attention_forward(
            *[x.swapaxes(0, 1)] * 3,
            6,
            2,
            weight.T,
            bias,
            None,
            None,
            False,
            0.0,
            weight_out.T,
            bias_out,
            attn_mask=mask,
            need_weights=False,
        )
        return found.swapaxes(0, 1)

    assert_as_torch([nn.Attention(6, 2, causal=True)], (5, 6), oracle)


@given(T=st.integers(1, 12), tile=st.integers(1, 5), scores=st.integers(1, 200), rows=st.integers(1, 4), causal=st.booleans())
@settings(max_examples=60)
def test_tiles_of_any_size_give_the_same(T, tile, scores, rows, causal):
    import hpcml.nn.layers.attention as attention

    x, slope = np.random.default_rng([T, rows]).standard_normal((2, rows, T, 12))
    slope = slope[:, :, :4].copy()

    def run():
        layer = nn.DotProduct(2, causal=causal)
        return layer.forward(x).copy(), layer.backward(slope.copy())

    expected = run()
    kept = attention.QUERIES["cpu"], attention.SCORES["cpu"]
    try:
        attention.QUERIES["cpu"], attention.SCORES["cpu"] = tile, scores
        for a, b in zip(run(), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    finally:
        attention.QUERIES["cpu"], attention.SCORES["cpu"] = kept


def test_the_memory_of_attention_grows_with_the_context_not_its_square():
    def held(T):
        layer = nn.DotProduct(1, causal=True)
        layer.forward(x := np.zeros((1, T, 24), np.float32))
        layer.backward(np.zeros((1, T, 8), np.float32))
        return sum(buffer.nbytes for buffer in [*layer.work, *layer.context.scratch]) + x.nbytes

    assert held(4096) < 2.5 * held(2048)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_seen_by_nobody_and_a_query_that_sees_nothing_gets_zeros(causal):
    library, random = torch(), np.random.default_rng(1)
    x, slope = random.standard_normal((3, 5, 12)), random.standard_normal((3, 5, 4))
    keep = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]], bool)
    layer = nn.DotProduct(2, causal=causal)
    layer.context.keep = keep
    out, back = layer.forward(x).copy(), layer.backward(slope.copy())
    tx = library.tensor(x, requires_grad=True)
    q, k, v = (part.reshape(3, 5, 2, 2).swapaxes(1, 2) for part in tx.split(4, -1))
    seen = library.tensor(keep)[:, None, None, :].expand(3, 2, 5, 5)
    seen = seen & library.ones(5, 5, dtype=library.bool).tril() if causal else seen
    expected = library.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).swapaxes(1, 2).reshape(3, 5, 4)
    blind = ~seen.any(-1)[:, 0].numpy()
    expected = library.where(library.tensor(blind)[..., None], 0.0, expected)
    close(out, expected)
    assert (out[blind] == 0).all()
    expected.backward(library.tensor(slope))
    close(back, library.nan_to_num(tx.grad))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, np.int64])
def test_an_embedding_is_torchs_and_names_the_rows_touched(kind):
    library = torch()
    tokens = np.array([[3, 1, 3], [0, 3, 6]])
    model = Model([nn.Embedding(9, 4)], (3,), dtype=np.float64, seed=2)
    table = library.tensor(model.arena.data.reshape(9, 4).copy(), requires_grad=True)
    slope = np.random.default_rng(0).standard_normal((2, 3, 4))
    expected = library.nn.functional.embedding(library.tensor(tokens), table)
    close(model.forward(tokens.astype(kind)), expected)
    expected.backward(library.tensor(slope))
    model.arena.grad.fill(np.nan)
    model.backward(slope)
    close(model.arena.view("0.embedding.table").grad, table.grad)
    assert model.layers[0].touched.tolist() == [0, 1, 3, 6]


@pytest.mark.parametrize(
    ("token", "message"), [(9, "token 9 at position 1 is outside the vocabulary 0 to 8"), (-1, "token -1"), (1.5, "whole")]
)
def test_a_token_that_is_none_is_refused(token, message):
    model = Model([nn.Embedding(9, 4)], (3,), dtype=np.float64)
    with pytest.raises(DataError, match=message):
        model.forward(np.array([[0, 1, 2], [3, token, 5.0]]))


def test_a_context_leaves_out_what_follows():
    model = Model([nn.Embedding(9, 4, context=2)], (3,), dtype=np.float64)
    assert model.outputs == (2, 4)
    np.testing.assert_array_equal(model.forward(np.array([[1.0, 2, 7]])), model.arena.data.reshape(9, 4)[[1, 2]][None])


def test_padding_tokens_do_not_change_what_others_get():
    model = Model([nn.Embedding(9, 4, padding=0, init=nn.layers.normal(1.0)), nn.Attention(4, 2)], (4,), dtype=np.float64)
    table = model.arena.view("0.embedding.table").data
    x = np.array([[3.0, 5, 0, 0]])
    before = model.forward(x)[0, :2].copy()
    table[0] += 1
    np.testing.assert_array_equal(model.forward(x)[0, :2], before)
    assert (model.forward(np.array([[3.0, 5, 1, 1]]))[0, :2] != before).any()


def test_dropout_keeps_the_mean_and_about_its_share():
    model = Model([nn.Dropout(0.25)], (50_000,))
    x = np.ones((2, 50_000), np.float32)
    model.context.train(seed=1, step=0, worker=0)
    out = model.forward(x)
    assert set(np.unique(out)) == {0, np.float32(1 / 0.75)}
    assert abs(float((out == 0).mean()) - 0.25) < 0.01
    assert abs(float(out.mean()) - 1) < 0.01
    model.context.evaluate()
    assert model.forward(x) is x


def test_recomputed_blocks_have_the_bits_of_the_chain_and_less_memory():
    def blocks():
        return [nn.Residual(nn.LayerNorm(), nn.Dense(64), nn.GELU(), nn.Dropout(0.2), nn.Dense(8)) for _ in range(4)]

    plain = Model([nn.Dense(8), *blocks(), nn.Dense(2)], (3,), seed=1)
    again = Model([nn.Dense(8), nn.Recompute(*blocks()), nn.Dense(2)], (3,), seed=1)
    again.arena.data[:] = plain.arena.data
    x, slope = np.random.default_rng(0).standard_normal((2, 300, 3)).astype(np.float32)
    for model in (plain, again):
        model.context.train(seed=1, step=0, worker=0)
        model.forward(x)
        model.backward(slope[:, :2].copy())
    np.testing.assert_array_equal(again.arena.grad, plain.arena.grad)
    assert _held(again) < _held(plain) / 2


def _held(model):
    works, pending = {}, list(model.layers)
    while pending:
        layer = pending.pop()
        works[id(layer.work)] = sum(buffer.nbytes for buffer in layer.work)
        pending += [child for _, child in layer.children]
    return sum(works.values()) + sum(buffer.nbytes for buffer in model.context.scratch)


REFUSED = {
    "Embedding takes rows of tokens": lambda: Model([nn.Embedding(3, 2)], (2, 2)),
    "context is 4 tokens, rows have 3": lambda: Model([nn.Embedding(3, 2, context=4)], (3,)),
    "takes vectors of the embedding's 2 numbers": lambda: Model(
        [e := nn.Embedding(3, 2), nn.Dense(4, positions=True), nn.TiedHead(e)], (3,)
    ),
    "Positions takes rows of shape": lambda: Model([nn.Positions()], (3,)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_when_built(message):
    with pytest.raises(ShapeError, match=message):
        REFUSED[message]()
