"""The byte-level transformer and its loss: PyTorch's, from the same weights, value by value and along the curve of training."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from hpcml.errors import DataError, ShapeError
from hpcml.nn import Rotary, Workspace, softmax_cross_entropy, token_cross_entropy, transformer
from hpcml.nn.checking import differences
from hpcml.optim import SGD, AdamW, Scratch, apply_whole
from tests.nn.gradients import assert_slopes_equal
from tests.nn.torching import close, torch

SIZES = {"layers": 2, "width": 8, "heads": 2, "vocabulary": 11}
ROWS, T = 3, 6


def tokens(rows=ROWS, length=T + 1, vocabulary=11, seed=0):
    return np.random.default_rng(seed).integers(0, vocabulary, (rows, length))


def oracle(parameters, x, heads, layers):
    """The same formula in PyTorch: tensors by the arena's names -> logits (B, T, v)."""
    library = torch()
    functional = library.nn.functional
    left = iter(parameters)
    table, places = next(left), next(left)
    h = table[x[:, :-1]] + places
    width = h.shape[-1]
    for _ in range(layers):
        gain, bias, w, b, wo, bo = (next(left) for _ in range(6))
        q, k, v = (
            part.reshape(*h.shape[:2], heads, -1).swapaxes(1, 2)
            for part in (functional.layer_norm(h, (width,), gain, bias) @ w + b).split(width, -1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2).reshape(h.shape)
        h = h + mixed @ wo + bo
        gain, bias, w, b, wo, bo = (next(left) for _ in range(6))
        h = h + functional.gelu(functional.layer_norm(h, (width,), gain, bias) @ w + b, approximate="tanh") @ wo + bo
    return functional.layer_norm(h, (width,), next(left), next(left)) @ table.T


def test_logits_loss_and_gradients_are_torchs():
    library, x = torch(), tokens()
    model = transformer(T + 1, seed=3, dtype="float64", **SIZES)
    model.arena.data[:] += np.random.default_rng(1).standard_normal(model.arena.n) / 5
    tensors = [library.tensor(p.data.copy(), requires_grad=True) for p in model.arena]
    expected = oracle(tensors, library.tensor(x), SIZES["heads"], SIZES["layers"])
    cost = library.nn.functional.cross_entropy(expected.flatten(0, 1), library.tensor(x[:, 1:]).flatten(), reduction="sum") / T
    cost.backward()
    logits = model.forward(x.astype(np.float64))
    close(logits.copy(), expected)
    value, slope = token_cross_entropy(logits, x)
    close(value, cost)
    model.backward(slope)
    for p, tensor in zip(model.arena, tensors, strict=True):
        close(p.grad, tensor.grad, relative=1e-9)


CURVES = {
    "adamw": ("float64", AdamW(3e-3, decay=0.01), lambda t, p: t.optim.AdamW(p, lr=3e-3, weight_decay=0.01), 1e-6),
    # Under Adam the key's bias, whose true slope is zero, would walk by the signs of roundings.
    "sgd": ("float32", SGD(0.02, momentum=0.9), lambda t, p: t.optim.SGD(p, lr=0.02, momentum=0.9), 1e-4),
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CURVES)
def test_a_hundred_steps_follow_torchs_losses(name, recompute):
    library, (dtype, rule, make, relative) = torch(), CURVES[name]
    model, x = transformer(T + 1, seed=3, recompute=recompute, dtype=dtype, **SIZES), tokens(rows=16)
    tensors = [library.tensor(p.data.copy(), requires_grad=True) for p in model.arena]
    other = make(library, tensors)
    arena, work = model.arena, Workspace()
    slots, scratch = np.zeros((rule.slots, arena.n), dtype), Scratch(arena.data, arena.parts())
    ours, theirs, tx = [], [], library.tensor(x)
    for step in range(100):
        value, slope = token_cross_entropy(model.forward(x.astype(dtype)), x, work)
        model.backward(slope)
        arena.grad /= len(x)
        apply_whole(rule, arena.data, arena.grad[: arena.n], slots, step, scratch)
        ours.append(float(value) / len(x))
        logits = oracle(tensors, tx, SIZES["heads"], SIZES["layers"])
        cost = library.nn.functional.cross_entropy(logits.flatten(0, 1), tx[:, 1:].flatten())
        other.zero_grad()
        cost.backward()
        other.step()
        theirs.append(float(cost.detach()))
    assert ours[-1] < ours[0] - 0.1
    np.testing.assert_allclose(ours, theirs, rtol=relative)


def test_recomputing_changes_no_bits():
    x, found = tokens().astype(np.float32), []
    for recompute in (False, True):
        model = transformer(T + 1, seed=3, recompute=recompute, **SIZES)
        _, slope = token_cross_entropy(model.forward(x), x.astype(np.int64))
        model.backward(slope)
        found.append((model.arena.data.copy(), model.arena.grad.copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_turned_queries_and_keys_see_distances_alone():
    """Scores of a row of equal vectors are those of every other pair at the same distance; lengths stay."""
    layer = Rotary(1)
    layer.build((9, 24))
    one = np.random.default_rng(0).standard_normal(24)
    out = layer.forward(np.tile(one, (1, 9, 1)))[0]
    scores = out[:, :8] @ out[:, 8:16].T
    for distance in range(9):
        np.testing.assert_allclose(np.diag(scores, distance), scores[0, distance], rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(out[:, :8], axis=1), np.linalg.norm(one[:8]))
    np.testing.assert_array_equal(out[:, 16:], np.tile(one[16:], (9, 1)))


def test_a_rotary_transformer_has_no_table_of_positions():
    names = [p.name for p in transformer(T + 1, rotary=True, **{**SIZES, "heads": 2}).arena]
    assert names[0] == "0.embedding.table"
    assert not any("positions" in name for name in names)


def test_no_position_sees_what_comes_after_it():
    model, x = transformer(T + 1, seed=3, **SIZES), tokens().astype(np.float32)
    before = model.forward(x).copy()
    for place in range(T):
        changed = x.copy()
        changed[:, place + 1 :] = (changed[:, place + 1 :] + 1) % 11
        np.testing.assert_array_equal(model.forward(changed)[:, : place + 1], before[:, : place + 1])
        changed[:, place] = (x[:, place] + 1) % 11
        assert (model.forward(changed)[:, place] != before[:, place]).any()


def test_a_step_keeps_nothing_and_takes_little():
    model, x, work = transformer(65, layers=2, width=32, heads=2), tokens(16, 65, 256), Workspace()
    floats = x.astype(np.float32)
    model.context.train(seed=0, step=0, worker=0)

    def step():
        _, slope = token_cross_entropy(model.forward(floats), x, work)
        model.backward(slope)

    step()
    tracemalloc.start()
    try:
        for _ in range(4):
            step()  # what it keeps in place of the steps before counts from here
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(3):
            step()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept - before < 4096
    # Activations of one layer are 131 kB; numpy takes 64 kB where it converts, the embedding sorts 1,024 tokens of 8 bytes.
    assert peak - before < 120_000


def test_rows_at_once_in_an_evaluation_are_few_where_activations_are_large():
    assert transformer(T + 1, **SIZES).rows_at_once == 256
    assert transformer(257, layers=4, width=256).rows_at_once == 8
    assert transformer(4097, layers=4, width=256).rows_at_once == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_the_loss_is_the_mean_cross_entropy_over_positions(weighted, whole):
    random = np.random.default_rng(5)
    prediction, x = random.standard_normal((ROWS, T, 11)), tokens()
    weights = random.random(ROWS) if weighted else None
    target = x if whole else x[:, 1:]
    value, slope = token_cross_entropy(prediction.copy(), target, weights=weights)
    rows = [float(softmax_cross_entropy(prediction[k].copy(), x[k, 1:])[0]) / T for k in range(ROWS)]
    np.testing.assert_allclose(value, np.dot(rows, np.ones(ROWS) if weights is None else weights))
    assert_slopes_equal(slope, differences(lambda: token_cross_entropy(prediction.copy(), target, weights=weights)[0], prediction))


def test_hits_are_the_share_of_positions_that_are_right():
    x = tokens()
    right = np.eye(11)[x[:, 1:]]
    assert token_cross_entropy.hits(right, x) == ROWS
    right[0, : T // 2] *= -1
    assert token_cross_entropy.hits(right, x) == pytest.approx(ROWS - 0.5)


def test_other_units_say_the_same_as_the_loss():
    assert token_cross_entropy.also(math.log(8)) == {"perplexity": pytest.approx(8), "bits_per_token": pytest.approx(3)}
    assert math.isfinite(token_cross_entropy.also(1e9)["perplexity"])


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"takes targets \(3, 6\) or whole rows \(3, 7\), got \(3, 8\)"):
        token_cross_entropy(np.zeros((3, 6, 11)), tokens(length=8))
    with pytest.raises(DataError, match="outside the classes 0 to 10"):
        token_cross_entropy(np.zeros((3, 6, 11)), tokens() + 5)
