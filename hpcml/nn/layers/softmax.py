"""Softmax as a layer; under a cross-entropy leave it out, the loss has its own."""

from __future__ import annotations

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn.layers.layer import Built, Layer, Shape


class Softmax(Layer):
    """Make the numbers of the last axis positive with sum 1: exp(x) over the sum of exp(x)."""

    def build(self, shape: Shape) -> Built:
        """Return the same shape and no parameters."""
        if not shape:
            raise ShapeError("Softmax needs rows of at least one axis")
        return shape, {}

    def forward(self, x: Array) -> Array:
        """Return the probabilities in the layer's own buffer, which it keeps until backward."""
        xp = namespace(x)
        self._out = self.take("out", x.shape, x)
        column = self.take("column", (*x.shape[:-1], 1), x)
        xp.max(x, axis=-1, keepdims=True, out=column)
        xp.subtract(x, column, out=self._out)
        xp.exp(self._out, out=self._out)
        xp.sum(self._out, axis=-1, keepdims=True, out=column)
        self._out /= column
        return self._out

    def backward(self, slope: Array) -> Array:
        """Overwrite slope with p (slope - sum of p slope), and return it."""
        xp = namespace(slope)
        column = self.take("column", (*slope.shape[:-1], 1), slope)
        product = self.take("product", slope.shape, slope)
        xp.multiply(self._out, slope, out=product)
        xp.sum(product, axis=-1, keepdims=True, out=column)
        slope -= column
        slope *= self._out
        return slope
