"""Dropout, seeded so that it does not depend on the ranks."""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, aligned, namespace
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape
from hpcml.nn.workspace import PIECE


class Dropout(Layer):
    """In training, put zero for each number with a probability and divide the rest by what is kept; else pass rows on.

    The numbers drawn depend on (seed, step, worker, micro-batch, layer) alone. They are drawn on the host, also for a device:
    the cost is a copy of a byte a number.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, Dropout, JMLR 2014.
    """

    def __init__(self, probability: float) -> None:
        """Drop with this probability, 0 or more and below 1.

        Raises:
            ShapeError: for another probability.
        """
        super().__init__()
        self.probability = values.part("Dropout's probability", probability)
        self._kept: Array = None

    def build(self, shape: Shape) -> Built:
        """Return the same shape and no parameters."""
        return shape, {}

    def forward(self, x: Array) -> Array:
        """Return rows with dropped numbers in the layer's own buffer, or x itself in evaluation."""
        if not self.context.training or not self.probability:
            self._kept = None
            return x
        xp, size = namespace(x), x.size
        mask = self.context.fresh(lambda: self._draw(size), x)
        self._kept, out = self.take("kept", x.shape, x), self.take("out", x.shape, x)
        kernels = self.kernels(x)
        if kernels is not None:
            kernels.dropout(x, mask, 1 / (1 - self.probability), self._kept, out)
            return out
        xp.multiply(mask.reshape(x.shape), x.dtype.type(1 / (1 - self.probability)), out=self._kept)
        xp.multiply(x, self._kept, out=out)
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite slope with that of the numbers kept, and return it."""
        if self._kept is not None:
            slope *= self._kept
        return slope

    def _draw(self, size: int) -> np.ndarray:
        """Return True for each number kept, (size,), in host memory."""
        random = self.random("dropout")
        host = self.take("drawn", (min(PIECE, max(1, size)),), HOST, np.float32)
        mask = self.take("mask", (size,), HOST, np.bool_)
        for first in range(0, size, PIECE):
            drawn = host[: min(PIECE, size - first)]
            random.random(out=drawn, dtype=np.float32)
            np.greater_equal(drawn, np.float32(self.probability), out=mask[first : first + len(drawn)])
        return mask


HOST = aligned(1, np.float32)
"""Says that a buffer lives in host memory."""
