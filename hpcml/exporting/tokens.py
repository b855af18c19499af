"""What lookups of tokens and attention are in ONNX's operators.

Letters: B rows, T positions, v tokens of the vocabulary, k lengths of n-grams, d numbers of a vector, h heads of e numbers.
Positions are as many as the model was built for; B is free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpcml.exporting.nodes import Graph
from hpcml.nn import layers
from hpcml.nn.layers.layer import Layer
from hpcml.nn.layers.lookup import Lookup
from hpcml.nn.layers.ngrams import MULTIPLIER
from hpcml.nn.layers.rotary import angles


def takes_tokens(row: Sequence[Layer]) -> bool:
    """Return whether a chain reads its rows as tokens, which come as int64 then: only lookups see them."""
    first = next((layer for layer in row if not isinstance(layer, (layers.Flatten, layers.Reshape, layers.Dropout))), None)
    inside = [layer for _, layer in first.children] if first is not None else []
    if isinstance(first, layers.Parallel):
        return all(takes_tokens([branch]) for branch in inside)
    return isinstance(first, Lookup) or (isinstance(first, (layers.Sequential, layers.Recompute)) and takes_tokens(inside))


def embedding(graph: Graph, layer: layers.Embedding, x: str) -> str:
    """Add a lookup by token; what is no padding is kept for attention."""
    tokens = _tokens(graph, layer, x)
    if layer.padding is not None:
        graph.kept = graph.add("Not", graph.add("Equal", tokens, graph.whole(layer.padding)))
    return graph.add("Gather", graph.parameter(layer, "table"), tokens)


def n_grams(graph: Graph, layer: layers.NGrams, x: str) -> str:
    """Add a lookup by hash: its upper half, mixed into the lower one and multiplied, modulo the buckets."""
    mixed, half = _hashes(graph, layer, _tokens(graph, layer, x)), graph.constant("half", np.array(32, np.uint64))
    mixed = graph.add("BitwiseXor", mixed, graph.add("BitShift", mixed, half, direction="RIGHT"))
    by = graph.constant("multiplier", np.diag(np.full(layer.parts, MULTIPLIER, np.uint64)))
    mixed = graph.add("BitShift", graph.add("MatMul", mixed, by), half, direction="RIGHT")
    mixed = graph.add("Mod", mixed, graph.constant("buckets", np.array(layer.buckets, np.uint64)))
    return _looked_up(graph, layer, graph.add("Cast", mixed, to=graph.onnx.TensorProto.INT64), layer.buckets)


def recall(graph: Graph, layer: layers.Recall, x: str) -> str:
    """Add a lookup by what followed: among equal hashes, sorted with their positions, that after the one before.

    TopK of all positions is a sort, and the specification puts equal numbers in the order of their positions.
    """
    tokens, (T, v, k) = _tokens(graph, layer, x), (layer.out_shape[0], layer.vocabulary, layer.parts)
    found = graph.add("Cast", _hashes(graph, layer, tokens), to=graph.onnx.TensorProto.INT64)
    found = graph.add("Transpose", found, perm=[0, 2, 1])
    order = graph.add("TopK", found, graph.whole(T), output=1, axis=-1, largest=0)
    ranked = graph.add("GatherElements", found, order, axis=-1)
    same = graph.add("Equal", graph.part(ranked, 2, 1, T), graph.part(ranked, 2, 0, T - 1))
    after = graph.add("Min", graph.add("Add", graph.part(order, 2, 0, T - 1), graph.whole(1)), graph.whole(T - 1))
    spread = graph.add("Expand", graph.add("Unsqueeze", tokens, graph.whole(1)), graph.whole(1, k, 1))
    followed = graph.add("Where", same, graph.add("GatherElements", spread, after, axis=-1), graph.whole(v))
    followed = graph.add("Pad", followed, graph.whole(0, 0, 1, 0, 0, 0), graph.constant("token", np.array(v)))
    places = graph.add("ScatterElements", order, order, followed, axis=-1)
    return _looked_up(graph, layer, graph.add("Transpose", places, perm=[0, 2, 1]), v + 1)


def positions(graph: Graph, layer: layers.Positions, x: str) -> str:
    """Add a vector for each position."""
    return graph.add("Add", x, graph.parameter(layer, "table"))


def tied_head(graph: Graph, layer: layers.TiedHead, x: str) -> str:
    """Add the product with the embedding's table, which stands in the file once."""
    return graph.add("MatMul", x, graph.add("Transpose", graph.parameter(layer, "table"), perm=[1, 0]))


def rotary(graph: Graph, layer: layers.Rotary, x: str) -> str:
    """Add the turn of queries and keys."""
    T, width = layer.in_shape
    h, half = layer.heads, width // (6 * layer.heads)
    cos, sin = (graph.constant("turn", turn(angles(T, half))[:, None, None].astype(graph.dtype)) for turn in (np.cos, np.sin))
    pairs = graph.shaped(graph.part(x, 2, 0, width // 3 * 2), T, 2 * h, 2, half)
    a, b = graph.part(pairs, 3, 0, 1), graph.part(pairs, 3, 1, 2)
    first = graph.add("Sub", graph.add("Mul", a, cos), graph.add("Mul", b, sin))
    second = graph.add("Add", graph.add("Mul", b, cos), graph.add("Mul", a, sin))
    turned = graph.shaped(graph.add("Concat", first, second, axis=3), T, width // 3 * 2)
    return graph.add("Concat", turned, graph.part(x, 2, width // 3 * 2, width), axis=2)


def dot_product(graph: Graph, layer: layers.DotProduct, x: str) -> str:
    """Add attention, whole: the runtime holds (B, h, T, T) scores.

    What may not be seen gets the lowest number, not minus infinity, so that a query that sees nothing is a number: it is made zero.
    """
    T, d = layer.out_shape
    split = graph.add("Transpose", graph.shaped(x, T, 3, layer.heads, d // layer.heads), perm=[2, 0, 3, 1, 4])
    q, k, v = (graph.add("Squeeze", graph.part(split, 0, n, n + 1), graph.whole(0)) for n in range(3))
    asked = graph.add("Mul", q, graph.number(1 / math.sqrt(d // layer.heads)))
    scores = graph.add("MatMul", asked, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    hidden = _hidden(graph, layer, T)
    if hidden:
        scores = graph.add("Where", hidden, graph.number(float(np.finfo(graph.dtype).min)), scores)
    shares = graph.add("Softmax", scores, axis=-1)
    if graph.kept:
        shares = graph.add("Where", hidden, graph.number(0), shares)
    return graph.shaped(graph.add("Transpose", graph.add("MatMul", shares, v), perm=[0, 2, 1, 3]), T, d)


def _hidden(graph: Graph, layer: layers.DotProduct, T: int) -> str:
    """Return what says which keys a query may not see: those behind it where causal, and padding; nothing where it sees all."""
    steps = np.arange(T)
    after = graph.add("Less", graph.constant("query", steps[:, None]), graph.constant("key", steps)) if layer.causal else ""
    if not graph.kept:
        return after
    padding = graph.add("Unsqueeze", graph.add("Not", graph.kept), graph.whole(1, 2))
    return graph.add("Or", after, padding) if after else padding


def _tokens(graph: Graph, layer: Lookup, x: str) -> str:
    """Return the first T tokens of each row; any that is none of the vocabulary becomes v, at which the runtime ends with an error."""
    x = graph.part(x, 1, 0, layer.out_shape[0])
    tokens, v = graph.add("Cast", x, to=graph.onnx.TensorProto.INT64), layer.vocabulary
    true = graph.add("And", graph.add("Equal", graph.add("CastLike", tokens, x), x), graph.add("GreaterOrEqual", tokens, graph.whole(0)))
    return graph.add("Gather", graph.constant("vocabulary", np.arange(v)), graph.add("Where", true, tokens, graph.whole(v)))


def _hashes(graph: Graph, layer: layers.NGrams | layers.Recall, tokens: str) -> str:
    """Return the n-grams' hashes (B, T, k): products of windows of tokens with powers, in whole numbers modulo 2^64."""
    T, longest = layer.out_shape[0], max(layer.lengths)
    codes = graph.add("Pad", graph.add("Add", tokens, graph.whole(1)), graph.whole(0, longest - 1, 0, 0))
    windows = np.arange(T)[:, None] + np.arange(longest - 1, -1, -1)
    windowed = graph.add("Gather", codes, graph.constant("windows", windows), axis=1)
    powers = [[pow(MULTIPLIER, back, 1 << 64) if back < length else 0 for length in layer.lengths] for back in range(longest)]
    codes = graph.add("Cast", windowed, to=graph.onnx.TensorProto.UINT64)
    return graph.add("MatMul", codes, graph.constant("powers", np.array(powers, np.uint64)))


def _looked_up(graph: Graph, layer: Lookup, places: str, rows: int) -> str:
    """Return the vectors at places (B, T, k), each of the k in its own `rows` rows of the table, side by side."""
    places = graph.add("Add", places, graph.constant("first", np.arange(layer.parts) * rows))
    return graph.shaped(graph.add("Gather", graph.parameter(layer, "table"), places), *layer.out_shape)
