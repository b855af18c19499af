"""Memory that layers share: nothing is overwritten while somebody still reads it, and a step holds what backward reads."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml import nn
from hpcml.nn.layers.chain import numbered, walk
from hpcml.nn.workspace import Scratch

MODELS = {
    "mlp": (lambda: nn.mlp([6, 5, 4, 3]), (7, 6)),
    "lenet": (lambda: nn.lenet((8, 8, 2), [3, 4], [5], 3), (7, 8, 8, 2)),
    "resnet": (lambda: nn.resnet((8, 8, 2), [3, 4], 2, 3), (7, 8, 8, 2)),
    "autoencoder": (lambda: nn.autoencoder([6, 4, 2]), (7, 6)),
    "transformer": (lambda: nn.transformer(9, layers=2, width=8, heads=2, vocabulary=11, dropout=0.1), (3, 9)),
    "recomputed": (lambda: nn.transformer(9, layers=2, width=8, heads=2, vocabulary=11, recompute=True), (3, 9)),
    "nested": (
        lambda: nn.Model(
            [
                nn.Dense(4),
                nn.Residual(nn.Dense(4), nn.GELU(), nn.Residual(nn.LayerNorm(), nn.Dense(4), nn.SiLU()), projection=nn.Dense(4)),
                nn.Parallel(nn.Sequential(nn.Dense(3), nn.Tanh()), nn.Residual(nn.Dense(4)), nn.ReLU(), concatenate=True),
                nn.RMSNorm(),
                nn.Dense(2),
            ],
            (6,),
        ),
        (7, 6),
    ),
}


def step(model, x):
    """Return outputs and gradient of one pass of training whose slopes are random."""
    model.context.train(seed=1, step=2, worker=3)
    out = model.forward(x).copy()
    model.backward(np.random.default_rng(1).standard_normal(out.shape).astype(out.dtype))
    return out, model.arena.grad[: model.arena.n].copy()


@pytest.mark.parametrize("name", MODELS)
def test_sharing_changes_no_bit(name, monkeypatch):
    make, shape = MODELS[name]
    random = np.random.default_rng(0)
    x = random.integers(0, 11, shape) if len(shape) == 2 and shape[1] == 9 else random.standard_normal(shape).astype(np.float32)
    expected = None
    for shared in (True, False):
        model = make()
        if not shared:
            for _, layer in walk(numbered(model.layers)):
                layer.may_overwrite_input, layer.keeps_output = False, True
            monkeypatch.setattr(Scratch, "take", lambda self, name, shape, like, dtype=None: np.full(shape, 7, dtype or like.dtype))
        for found in (step(model, x), step(model, x)):
            expected = expected or found
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_slope_is_never_made_where_the_one_before_lies():
    scratch, slope = Scratch(), np.zeros((4, 3), np.float32)
    for width in (5, 9, 2, 30, 1):
        back = scratch.slope((4, width), slope)
        assert back.flags.c_contiguous
        assert not np.may_share_memory(back, slope)
        slope = back
    assert sum(buffer.nbytes for buffer in scratch) <= 4 * (9 + 30) * 4


def test_copies_may_be_nested_and_their_memory_is_used_again():
    scratch = Scratch()
    for value in (1.0, 2.0):
        with scratch.copy(np.full(5, value)) as outer, scratch.copy(outer) as inner:
            inner += 1
            assert outer.tolist() == [value] * 5
    assert len(list(scratch)) == 2


def test_a_block_of_a_transformer_holds_what_backward_reads_and_no_more():
    T, d, rows = 32, 16, 4

    def held(layers):
        model = nn.transformer(T + 1, layers=layers, width=d, heads=2)
        step(model, np.zeros((rows, T + 1), np.int64))
        buffers = [buffer for _, layer in walk(numbered(model.layers)) for buffer in layer.work]
        return sum(buffer.nbytes for buffer in [*buffers, *model.context.scratch])

    # Two normalisations, queries, keys and values, what attention mixes and gives, the derivative of GELU and its output, what goes on.
    needed = (2 + 3 + 1 + 1 + 4 + 4 + 1) * T * d * rows * 4
    assert held(3) - held(2) < 1.1 * needed
