"""Positions as angles: what attention sees of two positions depends on their distance alone."""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape

BASE = 10_000.0
"""The slowest pair of numbers turns once in 2 pi times about this many positions."""


def angles(positions: int, half: int) -> np.ndarray:
    """Return by how much each position turns each pair of a head's numbers, (T, e / 2) float64."""
    return np.arange(positions)[:, None] * BASE ** -(np.arange(half) / half)


class Rotary(Layer):
    """Turn the queries and keys of each head by angles in proportion to their position: (B, T, 3 d) -> (B, T, 3 d), values as they are.

    The first half of a head's numbers is paired with the second; pair k of e / 2 turns by BASE^(-2 k / e) a position.

    References:
        Su, Lu, Pan, Murtadha, Wen and Liu, RoFormer: enhanced transformer with rotary position embedding, 2021.
    """

    def __init__(self, heads: int) -> None:
        """Turn the numbers of h = `heads` heads."""
        super().__init__()
        self.heads = values.whole("Rotary's number of heads", heads)
        self._angles = np.zeros((0, 0))
        self._cos: Array = None
        self._sin: Array = None

    def build(self, shape: Shape) -> Built:
        """Return the same shape and no parameters."""
        if len(shape) != 2 or shape[1] % (6 * self.heads):
            raise ShapeError(f"Rotary of {self.heads} heads takes rows (T, 3 d) with d a multiple of {2 * self.heads}, got {shape}")
        half = shape[1] // (6 * self.heads)
        self._angles = angles(shape[0], half)
        return shape, {}

    def forward(self, x: Array) -> Array:
        """Return the turned rows in the layer's own buffer."""
        out = self.take("out", x.shape, x)
        out[...] = x
        self._turn(out, 1.0)
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite slope with what it is before the turn, and return it."""
        self._turn(slope, -1.0)
        return slope

    def _turn(self, x: Array, sign: float) -> None:
        """Overwrite the queries and keys of x with what they are after their turn, or before it."""
        xp, (B, T, width) = namespace(x), x.shape
        if self._cos is None or namespace(self._cos) is not xp or self._cos.dtype != x.dtype:
            self._cos, self._sin = (xp.asarray(turn(self._angles)[:, None, :].astype(x.dtype)) for turn in (np.cos, np.sin))
        pairs = x.reshape(B, T, 3 * self.heads, 2, width // (6 * self.heads))[:, :, : 2 * self.heads]
        shape = (1, *pairs.shape[1:3], pairs.shape[4])
        crossed, other = self.take("crossed", shape, x)[0], self.take("other", shape, x)[0]
        for row in pairs:  # one row's queries and keys stay in cache
            a, b = row[:, :, 0], row[:, :, 1]
            xp.multiply(b, self._sin, out=crossed)
            xp.multiply(a, self._sin, out=other)
            a *= self._cos
            b *= self._cos
            crossed *= sign
            other *= sign
            a -= crossed
            b += other
