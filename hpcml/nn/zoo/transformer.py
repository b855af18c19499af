"""Transformers by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hpcml.nn import values
from hpcml.nn.layers import (
    GELU,
    Attention,
    Dense,
    Dropout,
    Embedding,
    Layer,
    LayerNorm,
    NGrams,
    Parallel,
    Positions,
    Recall,
    Recompute,
    Residual,
    Sequential,
    TiedHead,
    normal,
)
from hpcml.nn.model import Model

DEVIATION = 0.02
"""Of the first weights; those that add to the residual stream are smaller by the root of how many there are."""


def transformer(
    row: int,
    *,
    layers: int = 4,
    width: int = 256,
    heads: int = 4,
    context: int = 0,
    vocabulary: int = 256,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    rotary: bool = False,
    recompute: bool = False,
    ngrams: Sequence[int] = (),
    buckets: int = 1 << 14,
    recall: Sequence[int] = (),
    **options: Any,
) -> Model:
    """Return a causal transformer that scores the next token after each of a row's first `context`: (B, row) -> (B, context, vocabulary).

    Blocks normalise first, the head shares the embedding's table.

    Args:
        row: tokens of a row; the last may be there only to be predicted.
        layers: blocks of attention and a two-layer perceptron four times as wide.
        width: numbers of a token's vector.
        heads: of the attention, a divisor of the width.
        context: tokens that the model sees; 0: all of a row but the last.
        vocabulary: tokens are 0 to vocabulary - 1; 256 for bytes.
        dropout: probability at the end of each branch.
        attention_dropout: probability with which training drops a weight of the attention.
        rotary: tell positions by turning queries and keys instead of by learned vectors.
        recompute: keep only each block's output, and make its activations again in backward.
        ngrams: lengths n of which the last n tokens are hashed and looked up, see NGrams; none: (). Their number divides the width.
        buckets: vectors for the n-grams of each length.
        recall: lengths n for which is told what followed the last n tokens when they last came in the row, see Recall; none: ().
        options: seed, dtype, device, as Model takes them.

    Raises:
        ShapeError: for sizes that do not fit together.

    References:
        Radford et al., Language models are unsupervised multitask learners, 2019.
    """
    context = values.whole("a transformer's context", context, 0) or values.whole("a row that a transformer reads", row, 2) - 1
    layers, width = values.whole("a transformer's number of layers", layers), values.whole("a transformer's width", width)
    inner, last = normal(DEVIATION), normal(DEVIATION / math.sqrt(2 * layers))

    def block() -> Layer:
        attention = Attention(width, heads, causal=True, rotary=rotary, dropout=attention_dropout, init=inner, init_out=last)
        wide = Dense(4 * width, inner, positions=True), GELU(), Dense(width, last, positions=True)
        return Sequential(Residual(LayerNorm(), attention, *_noise(dropout)), Residual(LayerNorm(), *wide, *_noise(dropout)))

    embedding = Embedding(vocabulary, width, context=context)
    first = _lookups(embedding, ngrams, buckets, recall)
    places = [] if rotary else [Positions()]
    blocks = [Recompute(*(block() for _ in range(layers)))] if recompute else [block() for _ in range(layers)]
    return Model([first, *places, *blocks, LayerNorm(), TiedHead(embedding)], (row,), **options)


def _noise(dropout: float) -> list[Layer]:
    return [Dropout(dropout)] if dropout else []


def _lookups(embedding: Embedding, ngrams: Sequence[int], buckets: int, recall: Sequence[int]) -> Layer:
    """Return the embedding, with what is looked up beside it."""
    vocabulary, width, context = embedding.vocabulary, embedding.width, embedding.length
    beside: list[Layer] = [NGrams(vocabulary, width, ngrams, buckets, context=context)] if ngrams else []
    beside += [Recall(vocabulary, width, recall, context=context)] if recall else []
    return Parallel(embedding, *beside) if beside else embedding
