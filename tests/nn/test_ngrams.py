"""Hashed n-grams and recalled tokens: loops over dictionaries say what is looked up, PyTorch what the gradients are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from hpcml import nn
from hpcml.errors import DataError, ShapeError
from hpcml.nn import Model, token_cross_entropy, transformer
from tests.nn.torching import close, torch

TOKENS = np.array([[1, 0, 3, 1, 0], [2, 2, 2, 2, 2], [1, 2, 1, 2, 1]])
rows_of_tokens = some.tuples(some.integers(1, 4), some.integers(1, 24), some.integers(1, 5), some.integers(0, 1 << 30)).map(
    lambda t: np.random.default_rng(t[3]).integers(0, t[2], (t[0], t[1]))
)
lengths = some.lists(some.integers(1, 6), min_size=1, max_size=3)


def followed(row, n, vocabulary):
    """What followed the last n tokens when they last came, or `vocabulary`, for each position."""
    seen, found = {}, []
    for t in range(len(row)):
        gram = tuple(row[t - n + 1 : t + 1]) if t >= n - 1 else None
        found.append(int(row[seen[gram] + 1]) if gram in seen else vocabulary)
        if gram:
            seen[gram] = t
    return found


@given(rows_of_tokens, lengths)
def test_recall_finds_what_a_dictionary_finds(tokens, sizes):
    found = nn.Recall(5, len(sizes), sizes).find(tokens)
    for k, n in enumerate(sizes):
        assert (found[..., k] - 6 * k).tolist() == [followed(row.tolist(), n, 5) for row in tokens]


@given(rows_of_tokens, lengths)
def test_equal_ngrams_share_a_vector_and_others_do_not(tokens, sizes):
    """Among 2^40 buckets no two of a few hundred n-grams meet."""
    found = nn.NGrams(5, len(sizes), sizes, 1 << 40).find(tokens)
    for k, n in enumerate(sizes):
        named = {}
        for row, places in zip(tokens.tolist(), found[..., k].tolist(), strict=True):
            for t, place in enumerate(places):
                assert named.setdefault(tuple(row[max(0, t - n + 1) : t + 1]), place) == place
                assert k << 40 <= place < (k + 1) << 40
        assert len(set(named.values())) == len(named)


def test_hashes_fill_their_buckets_evenly():
    pairs = np.array([[a, b] for a in range(256) for b in range(64)])
    filled = np.bincount(nn.NGrams(256, 1, [2], 64).find(pairs)[:, 1, 0], minlength=64)
    assert (filled > 150).all()  # 256 are expected, and 16 is the deviation
    assert (filled < 370).all()


@pytest.mark.parametrize("make", [lambda: nn.NGrams(4, 6, [2, 3, 1], 7, context=4), lambda: nn.Recall(4, 6, [1, 2], context=4)])
def test_values_and_gradients_are_torchs_embeddings(make):
    library = torch()
    model = Model([make()], (5,), dtype=np.float64, seed=2)
    layer, (table,) = model.layers[0], model.arena
    tensor = library.tensor(table.data.copy(), requires_grad=True)
    slope = np.random.default_rng(0).standard_normal((3, 4, 6))
    out = model.forward(TOKENS)
    expected = library.nn.functional.embedding(library.tensor(layer.find(TOKENS[:, :4]).copy()), tensor).reshape(3, 4, 6)
    close(out, expected)
    expected.backward(library.tensor(slope))
    model.arena.grad.fill(np.nan)
    model.backward(slope)
    close(table.grad, tensor.grad)
    assert layer.touched.tolist() == sorted(set(layer.find(TOKENS[:, :4]).reshape(-1).tolist()))


def test_sums_by_products_are_those_by_sorting(monkeypatch):
    """A device's way, in numpy: several products, the last one smaller."""
    monkeypatch.setattr("hpcml.nn.layers.lookup.ROWS_AT_ONCE", 3)
    random = np.random.default_rng(6)
    model = Model([nn.NGrams(4, 4, [2, 3], 9)], (5,), dtype=np.float64)
    layer, (table,) = model.layers[0], model.arena
    model.forward(TOKENS)
    model.backward(slope := random.standard_normal((3, 5, 4)))
    expected, touched = table.grad.copy(), layer.touched.copy()
    table.grad.fill(0)
    layer._sum_products(table.grad, slope.reshape(-1, 2), layer.find(TOKENS).reshape(-1))
    np.testing.assert_allclose(table.grad, expected, rtol=1e-12)
    np.testing.assert_array_equal(layer.touched, touched)


@pytest.mark.parametrize("make", [lambda: nn.NGrams(4, 4, [2, 5], 3), lambda: nn.Recall(4, 4, [1, 2]), lambda: nn.Recall(4, 2, [9])])
def test_they_keep_what_a_layer_promises(make):
    nn.check(make(), (5,), x=TOKENS, input_slope=False)


def test_a_transformer_with_both_sees_nothing_of_what_comes_after():
    random = np.random.default_rng(4)
    model = transformer(13, layers=1, width=8, heads=2, vocabulary=3, ngrams=[2, 3], buckets=32, recall=[1, 2], seed=3)
    model.arena.data[:] += random.standard_normal(model.arena.n).astype(np.float32) / 5
    x = random.integers(0, 3, (6, 13))
    before = model.forward(x).copy()
    for place in range(12):
        changed = x.copy()
        changed[:, place + 1 :] = (changed[:, place + 1 :] + 1) % 3
        np.testing.assert_array_equal(model.forward(changed)[:, : place + 1], before[:, : place + 1])


def test_gradients_of_a_transformer_with_both_are_finite_differences():
    model, x = transformer(6, layers=1, width=4, heads=1, vocabulary=4, ngrams=[2], buckets=5, recall=[1, 2], dtype="float64"), TOKENS
    model.arena.data[:] += np.random.default_rng(1).standard_normal(model.arena.n) / 3
    x = np.concatenate([x, x[:, ::-1][:, :1]], axis=1)
    _, slope = token_cross_entropy(model.forward(x), x)
    model.backward(slope)
    expected = nn.checking.differences(lambda: token_cross_entropy(model.forward(x), x)[0], model.arena.data)
    np.testing.assert_allclose(model.arena.grad[: model.arena.n], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("Recall cannot make 4 numbers of 3 equal parts", lambda: Model([nn.Recall(4, 4, [1, 2, 3])], (5,))),
        (r"NGrams takes rows of tokens", lambda: Model([nn.NGrams(4, 4, [2], 8)], (5, 2))),
    ],
)
def test_sizes_that_cannot_be_are_refused(message, make):
    with pytest.raises(ShapeError, match=message):
        make()


def test_a_token_that_is_none_is_refused():
    model = Model([nn.Recall(4, 4, [1])], (5,))
    with pytest.raises(DataError, match="the token 4 at position 2 is outside the vocabulary 0 to 3"):
        model.forward(np.array([[1, 2, 4, 0, 0]]))
