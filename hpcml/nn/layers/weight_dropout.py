"""Which weights of an attention are dropped, drawn tile by tile so that no tile decides what another one gets.

Letters: B rows, T positions, h heads; a tile is some rows, some heads, q queries and k keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.nn.layers.dropout import HOST
from hpcml.nn.workspace import Scratch

Tile = tuple[slice, slice, slice, int]
"""(rows, heads, queries, number of keys from the first on)."""


class WeightDropout:
    """The weights dropped in one pass: each tile's are found by jumping to its place in one stream of random numbers.

    Each query draws T numbers, also for keys that a causal mask hides: so backward makes forward's choice again in any order, and tiles
    of any size, on any device, choose alike. The numbers are drawn on the host; a device gets a byte a weight.
    """

    def __init__(self, random: np.random.Generator, probability: float, heads: int, positions: int, scratch: Scratch) -> None:
        """Drop weights of h = `heads` heads over T = `positions` with this probability; `scratch` is where tiles lie for a while."""
        self.probability, self._random, self._scratch = probability, random, scratch
        self._heads, self._positions, self._at = heads, positions, 0
        self._bits: Any = random.bit_generator

    def dropped(self, tile: Tile, like: Array) -> Array:
        """Return True for each weight of a tile that is dropped, (rows, heads, q, k) on the device of `like`, valid until the next."""
        rows, heads, queries, keys = tile
        b, a, q = (part.stop - part.start for part in (rows, heads, queries))
        wide = self._positions + self._positions % 2  # a generator makes two float32 of a draw
        drawn = self._scratch.take("drawn", (q, wide), HOST, np.float32)
        mask: np.ndarray = self._scratch.take("dropped", (b, a, q, keys), HOST, np.bool_)
        for i in range(b):
            for j in range(a):
                first = ((rows.start + i) * self._heads + heads.start + j) * self._positions + queries.start
                self._jump(first * wide // 2)
                self._random.random(out=drawn, dtype=np.float32)
                self._at += q * wide // 2
                np.less(drawn[:, :keys], np.float32(self.probability), out=mask[i, j])
        return namespace(like).asarray(mask)

    def _jump(self, place: int) -> None:
        """Go to a place of the stream, which ends where it began after 2^128 draws."""
        if place != self._at:
            self._bits.advance((place - self._at) % (1 << 128))
            self._at = place
