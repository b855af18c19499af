"""The self-organising map, trained by the batch rule.

Letters: B rows of one worker, d numbers a row, m units on a grid. A unit's place in the space of rows is sums / counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcml.arrays import Array, aligned, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Running, Shape, normal, ones

INERTIA = 1e-4
"""How much a unit's own place counts, as a part of all rows: one that no row is near stays where it is.

It slows the rule a little and leaves its fixed points as they are; much smaller, sums in float32 could not tell such places any more.
"""

NARROWEST = 0.5
"""Where the neighbourhood's radius stops falling: a neighbour then counts 0.14 of the winner."""

_HOST = aligned(1, np.float32)
"""Says that a buffer lives in host memory."""


class SelfOrganisingMap(Layer):
    """Units on a grid, each with a place among the rows; it gives the place of each row's nearest unit and learns by the batch rule.

    The neighbourhood sums and counts are running statistics, summed exactly over all workers: with kept 0, and the whole data set
    as one batch, a step is the batch rule itself (but for INERTIA), and on smaller batches its moving average. No optimizer moves anything,
    and the slope is not read: the loss, half the squared distance to the nearest unit, only reports. Layers below get zeros.

    References:
        Kohonen, Self-organizing maps, 3rd edition, 2001, section 3.6, the batch map.
    """

    def __init__(self, grid: Sequence[int], radius: float = 0.0, halving: int = 20, kept: float = 0.0) -> None:
        """Make a map.

        Args:
            grid: units along each axis, such as [10, 10].
            radius: of the Gaussian neighbourhood at the first step, in units of the grid; 0: half the longest side.
            halving: steps in which the radius halves, down to 0.5.
            kept: part of the sums that a step keeps, 0 or more and below 1.

        Raises:
            ShapeError: for numbers that cannot be.
        """
        super().__init__()
        self.grid = values.wholes("the sides of SelfOrganisingMap's grid", grid)
        self.radius = values.weight("SelfOrganisingMap's radius", radius) or max(self.grid) / 2
        self.halving, self.kept = values.whole("SelfOrganisingMap's halving", halving), values.part("SelfOrganisingMap's kept", kept)
        places = np.indices(self.grid).reshape(len(self.grid), -1).T
        self._apart = ((places[:, None] - places) ** 2).sum(axis=2).astype(np.float64)
        self._at, self._influence = -1, np.empty(0)

    def build(self, shape: Shape) -> Built:
        """Return the same shape, and the running statistics sums (m, d) and counts (m,)."""
        if len(shape) != 1:
            raise ShapeError(f"SelfOrganisingMap takes rows of one axis, got rows of shape {shape}; put Flatten() before it")
        m = len(self._apart)
        return shape, {"sums": Running((m, *shape), normal(1.0)), "counts": Running((m,), ones)}

    def forward(self, x: Array) -> Array:
        """Return the place of the unit nearest to each row, (B, d); in training, overwrite the statistics' gradients too."""
        out = self.take("out", x.shape, x)
        winners, places = self.winners(x), self._places
        places.take(winners, axis=0, out=out, **({"mode": "clip"} if namespace(x) is np else {}))
        if self.context.training:
            self._measure(x, winners)
        return out

    def backward(self, slope: Array) -> Array:
        """Return slope, overwritten with zeros: forward has written the gradients."""
        slope.fill(0)
        return slope

    def winners(self, x: Array) -> Array:
        """Return the number of the unit nearest to each row, (B,) int64, counted along the grid's last axis first."""
        xp, sums, counts = namespace(x), self.parameters["sums"].data, self.parameters["counts"].data
        self._places, near = self.take("places", sums.shape, x), self.take("near", (len(x), len(sums)), x)
        square, length = self.take("square", sums.shape, x), self.take("length", counts.shape, x)
        xp.divide(sums, counts[:, None], out=self._places)
        xp.multiply(self._places, self._places, out=square)
        xp.sum(square, axis=1, out=length)
        length *= -0.5
        xp.matmul(x, self._places.T, out=near)
        near += length  # x w - w^2 / 2 is largest where (x - w)^2 is smallest
        winners = self.take("winners", (len(x),), x, np.int64)
        xp.argmax(near, axis=1, out=winners)
        return winners

    def _measure(self, x: Array, winners: Array) -> None:
        """Overwrite the running statistics' gradients with weight (1 - kept) (statistic - its mean over these rows)."""
        xp, sums, counts = namespace(x), self.parameters["sums"], self.parameters["counts"]
        near, weights = self.take("near", (len(x), len(counts.data)), x), self.context.weights
        self._neighbours(x).take(winners, axis=0, out=near, **({"mode": "clip"} if xp is np else {}))
        if weights is not None:
            near *= weights[:, None]
        moved, rate = self.take("square", sums.shape, x), 1 - self.kept
        share = self.context.weigh(len(x)) * rate
        xp.matmul(near.T, x, out=moved)
        moved *= rate
        xp.multiply(sums.data, share, out=sums.grad)
        sums.grad[...] -= moved
        self._places *= share * INERTIA
        sums.grad[...] -= self._places
        count = self.take("length", counts.shape, x)
        xp.sum(near, axis=0, out=count)
        count *= rate
        xp.multiply(counts.data, share, out=counts.grad)
        counts.grad[...] -= count
        counts.grad[...] -= share * INERTIA

    def _neighbours(self, x: Array) -> Array:
        """Return how much a row counts for each unit (m, m), by its winner: exp(-distance^2 / (2 radius^2)) at this step."""
        step, xp = self.context.step, namespace(x)
        influence = self.take("influence", self._apart.shape, _HOST, x.dtype)
        if step != self._at:
            radius = max(NARROWEST, self.radius * 0.5 ** (step / self.halving))
            wide = self.take("wide", self._apart.shape, _HOST, np.float64)
            np.multiply(self._apart, -0.5 / radius**2, out=wide)
            np.exp(wide, out=wide)
            influence[...] = wide
            self._at = step
        return influence if xp is np else xp.asarray(influence)
