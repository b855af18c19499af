"""Multi-head attention, tile by tile: memory grows with the context, not with its square.

Letters: B rows, T positions, h heads of e numbers each, d = h e. A tile is some rows, some heads, q queries and k keys; forward keeps of it
only the logarithm of the sum of exponentials of each query, from which backward makes the probabilities again.

References:
    Vaswani et al., Attention is all you need, NeurIPS 2017; Rabe and Staats, Self-attention does not need O(n^2) memory, 2021;
    Dao, Fu, Ermon, Rudra and Re, FlashAttention, NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from hpcml.arrays import Array, namespace, on_device
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.composite import Sequential
from hpcml.nn.layers.dense import Dense
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, normal
from hpcml.nn.layers.rotary import Rotary
from hpcml.nn.layers.weight_dropout import Tile, WeightDropout

QUERIES = {"cpu": 32, "device": 64}
"""Queries of a tile: enough rows for a product's full speed, few enough to skip what a causal mask hides."""

SCORES = {"cpu": 1 << 16, "device": 1 << 26}
"""Scores of a tile: on the CPU they stay in a core's second-level cache, on a device they fill it."""


class Attention(Sequential):
    """Let each position take from all others, or from those before it, what it asks for: (B, T, d) -> (B, T, d)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
        init: Init | None = None,
        init_out: Init | None = None,
    ) -> None:
        """Make projections of d = `width` numbers to queries, keys and values, and back from the heads.

        Args:
            width: d.
            heads: h, a divisor of d.
            causal: whether a position sees only itself and those before it.
            rotary: turn queries and keys by their positions, see Rotary.
            dropout: probability with which training drops a weight.
            init: of the first projection; normal numbers of deviation 0.02 when left out.
            init_out: of the projection back; like `init` when left out.
        """
        values.whole("Attention's width", width)
        if width % values.whole("Attention's number of heads", heads):
            raise ShapeError(f"Attention's width is {width}, which is no multiple of its {heads} heads")
        if values.flag("Attention's rotary", rotary) and width % (2 * heads):
            raise ShapeError(f"Attention's width is {width}, no multiple of {2 * heads}: rotary turns pairs of numbers of each head")
        first = init or normal(0.02)
        inside = [*([Rotary(heads)] if rotary else []), DotProduct(heads, causal=causal, dropout=dropout)]
        super().__init__(Dense(3 * width, first, positions=True), *inside, Dense(width, init_out or first, positions=True))


class DotProduct(Layer):
    """Mix values by the softmax of scaled products of queries and keys: (B, T, 3 d), queries, keys and values side by side, -> (B, T, d).

    Positions that the embedding marks as padding are seen by nobody; a query that sees nothing gets zeros.
    """

    def __init__(self, heads: int, *, causal: bool = False, dropout: float = 0.0) -> None:
        """Cut d into h = `heads` parts that are mixed each on its own; training drops weights with a probability, see WeightDropout."""
        super().__init__()
        self.dropout = values.part("attention's dropout", dropout)
        self.heads, self.causal = values.whole("attention's number of heads", heads), values.flag("attention's causal", causal)
        self._mask: Array = None

    def build(self, shape: Shape) -> Built:
        """Return (T, d) and no parameters."""
        if len(shape) != 2 or shape[1] % (3 * self.heads):
            raise ShapeError(f"attention of {self.heads} heads takes rows (T, 3 d) with d a multiple of {self.heads}, got {shape}")
        return (shape[0], shape[1] // 3), {}

    def forward(self, x: Array) -> Array:
        """Return the mixed values in the layer's own buffer; keeps x until backward."""
        self._x, self._keep = x, self.context.keep
        q, k, v = self._split(x)
        B, h, T, e = q.shape
        self._out = self.take("out", (B, T, h * e), x)
        out = self._out.reshape(B, T, h, e).transpose(0, 2, 1, 3)
        self._log, noise = self.take("log", (B, h, T, 1), x), self._noise()
        for tile in self._tiles(x, q.shape):
            rows, heads, queries, keys = tile
            _, s = self._scores(q, k, tile)
            top, here = self._log[rows, heads, queries], out[rows, heads, queries]
            total = self.scratch("total", top.shape, x)
            self._raise(s, top, total)
            if noise is not None:
                namespace(s).copyto(s, 0, where=noise.dropped(tile, x))
            self.matmul(s, v[rows, heads, :keys], out=here)
            here /= total
            if noise is not None:
                here *= 1 / (1 - noise.probability)
        return self._out

    def _raise(self, s: Array, level: Array, total: Array) -> None:
        """Overwrite scores with their exponentials over those of the largest, total with the sums, level with the sums' logarithms."""
        xp, kernels = namespace(s), self.fast(s, total) or self.kernels(s, total)
        if kernels is not None:
            found = self.scratch("level", level.shape, s)
            kernels.softmax(s.reshape(-1, s.shape[-1]), total.reshape(-1), found.reshape(-1))
            level[...] = found
            return
        xp.max(s, axis=-1, keepdims=True, out=level)
        if self._keep is not None:
            xp.maximum(level, xp.finfo(s.dtype).min, out=level)  # a query that sees nothing: -inf - -inf would be no number
        s -= level
        xp.exp(s, out=s)
        self._sum(s, total)
        if self._keep is not None:
            xp.maximum(total, xp.finfo(s.dtype).tiny, out=total)
        logarithm = self.scratch("level", level.shape, s)
        xp.log(total, out=logarithm)
        level += logarithm

    def backward(self, slope: Array) -> Array:
        """Return the slope of queries, keys and values, (B, T, 3 d)."""
        xp, x = namespace(slope), self._x
        q, k, v = self._split(x)
        B, h, T, e = q.shape
        back, noise = self.context.scratch.slope(x.shape, slope), self._noise()
        dq, dk, dv = self._split(back)
        out, slopes = (a.reshape(B, T, h, e).transpose(0, 2, 1, 3) for a in (self._out, slope))
        for tile in self._tiles(x, q.shape):
            rows, heads, queries, keys = tile
            asked, p = self._scores(q, k, tile)
            g = slopes[rows, heads, queries]
            delta, mixed = self.scratch("total", (*g.shape[:-1], 1), x), self.scratch("mixed", g.shape, x)
            xp.multiply(g, out[rows, heads, queries], out=mixed)
            self._sum(mixed, delta)
            dropped = None if noise is None else noise.dropped(tile, x)
            if noise is not None:
                g = xp.multiply(g, 1 / (1 - noise.probability), out=mixed)
            ds = self.scratch("slopes", p.shape, x)
            self.matmul(g, self._turned("values", v, tile), out=ds)
            if dropped is not None:
                xp.copyto(ds, 0, where=dropped)
            self._slope_of_scores(p, self._log[rows, heads, queries], ds, delta)
            if dropped is not None:
                xp.copyto(p, 0, where=dropped)
            # Tiles come from the last queries, which see all keys, to the first: the first tile writes, the others add.
            last = queries.stop == T
            self._gather(dv[rows, heads, :keys], p, g, last)
            self._gather(dk[rows, heads, :keys], ds, asked, last)
            here = dq[rows, heads, queries]
            self.matmul(ds, k[rows, heads, :keys], out=here)
            here *= 1 / math.sqrt(e)
        return back

    def _slope_of_scores(self, p: Array, level: Array, ds: Array, delta: Array) -> None:
        """Overwrite scores p with their probabilities, and ds with the scores' slope, (ds - delta) p."""
        kernels = self.fast(p, ds, delta) or self.kernels(p, ds, delta)
        if kernels is not None:
            dense, width = self.scratch("level", level.shape, p), p.shape[-1]
            dense[...] = level
            kernels.softmax_slope(p.reshape(-1, width), dense.reshape(-1), ds.reshape(-1, width), delta.reshape(-1))
            return
        p -= level
        namespace(p).exp(p, out=p)
        ds -= delta
        ds *= p

    def _noise(self) -> WeightDropout | None:
        """Return what this pass drops, the same in forward and backward; None in evaluation."""
        if not self.context.training or not self.dropout:
            return None
        return WeightDropout(self.random("attention"), self.dropout, self.heads, self._x.shape[1], self.context.scratch)

    def _split(self, x: Array) -> tuple[Array, Array, Array]:
        """Return views (B, h, T, e) of queries, keys and values."""
        parts = x.reshape(*x.shape[:2], 3, self.heads, x.shape[2] // (3 * self.heads)).transpose(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def _tiles(self, x: Array, shape: Shape) -> Iterator[Tile]:
        """Yield tiles that cover all rows, heads and queries, each with the keys that its queries may see."""
        B, h, T, _ = shape
        place = "cpu" if namespace(x) is np else "device"
        limit, queries = SCORES[place], min(T, QUERIES[place])
        wide = queries * T
        heads = max(1, min(h, limit // wide))
        rows = max(1, limit // (wide * h)) if heads == h else 1
        for b in range(0, B, rows):
            for a in range(0, h, heads):
                for first in reversed(range(0, T, queries)):
                    stop = min(first + queries, T)
                    yield slice(b, min(b + rows, B)), slice(a, min(a + heads, h)), slice(first, stop), stop if self.causal else T

    def _scores(self, q: Array, k: Array, tile: Tile) -> tuple[Array, Array]:
        """Return the tile's queries, scaled, and their products with the keys, minus infinity where they may not look."""
        xp, (rows, heads, queries, keys) = namespace(q), tile
        here = q[rows, heads, queries]
        asked = self.scratch("asked", here.shape, q)
        xp.multiply(here, 1 / math.sqrt(q.shape[-1]), out=asked)
        s = self.scratch("scores", (*here.shape[:-1], keys), q)
        self.matmul(asked, self._turned("keys", k, tile), out=s)
        if self.causal:
            s[..., queries] += self._triangle(q)[: here.shape[2], : here.shape[2]]
        if self._keep is not None:
            xp.copyto(s, -math.inf, where=~self._keep[rows, None, None, :keys])
        return asked, s

    def _turned(self, name: str, x: Array, tile: Tile) -> Array:
        """Return what a tile sees of keys or values (B, h, T, e), turned, (rows, heads, e, k).

        On the CPU they are laid out so for all tiles of the same rows and heads, whose last queries come first: a product with rows that
        must be read across takes 1.6 times as long.
        """
        rows, heads, queries, keys = tile
        turned = x[rows, heads].swapaxes(-1, -2)
        if namespace(x) is np:
            held = self.scratch(name, turned.shape, x)
            if queries.stop == x.shape[2]:
                held[...] = turned
            turned = held
        return turned[..., :keys]

    def _gather(self, target: Array, weights: Array, values: Array, first: bool) -> None:
        """Write the transposed weights times values into a target, or add them to it."""
        if first:
            self.matmul(weights.swapaxes(-1, -2), values, out=target)
            return
        part = self.scratch("part", target.shape, target)
        self.matmul(weights.swapaxes(-1, -2), values, out=part)
        target += part

    def _sum(self, x: Array, out: Array) -> None:
        """Overwrite out (..., 1) with the sums over the last axis of x; on the CPU as a product with ones, in a quarter of the time."""
        if on_device(x):
            x.sum(axis=-1, keepdims=True, out=out)
            return
        one = self.scratch("one", (x.shape[-1], 1), x)
        one.fill(1)
        np.matmul(x, one, out=out)

    def _triangle(self, like: Array) -> Array:
        """Return (q, q) of zero on and below the diagonal, minus infinity above it."""
        if self._mask is None or self._mask.dtype != like.dtype or namespace(self._mask) is not namespace(like):
            xp = namespace(like)
            queries = max(QUERIES.values())
            self._mask = xp.triu(xp.full((queries, queries), -math.inf, like.dtype), 1)
        return self._mask
