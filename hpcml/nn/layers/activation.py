"""Layers without parameters that bend each number on its own, and Flatten."""

from __future__ import annotations

import math

from hpcml.arrays import Array, namespace
from hpcml.nn.layers.layer import Built, Layer, Shape
from hpcml.nn.workspace import pieces


class ReLU(Layer):
    """Keep positive numbers, put zero for the rest."""

    def build(self, shape: Shape) -> Built:
        """Return the same shape and no parameters."""
        return shape, {}

    def forward(self, x: Array) -> Array:
        """Return max(x, 0), which it keeps until backward."""
        self._out = self.over_input(x)
        namespace(x).maximum(x, 0, out=self._out)
        return self._out

    def backward(self, slope: Array) -> Array:
        """Overwrite slope with zero where the output was zero, and return it."""
        xp, kernels = namespace(slope), self.kernels(slope, self._out)
        if kernels is not None:
            kernels.relu_slope(slope, self._out)
            return slope
        for piece in pieces(slope, len(slope), math.prod(slope.shape[1:])):
            part, out = slope[piece], self._out[piece]
            mask = self.scratch("mask", part.shape, slope, bool)
            xp.greater(out, 0, out=mask)
            xp.multiply(part, mask, out=part)
        return slope


class Tanh(Layer):
    """Squash each number into (-1, 1) by the hyperbolic tangent."""

    def build(self, shape: Shape) -> Built:
        """Return the same shape and no parameters."""
        return shape, {}

    def forward(self, x: Array) -> Array:
        """Return tanh(x), which it keeps until backward."""
        self._out = self.over_input(x)
        namespace(x).tanh(x, out=self._out)
        return self._out

    def backward(self, slope: Array) -> Array:
        """Overwrite slope with slope * (1 - tanh^2), and return it."""
        xp = namespace(slope)
        bend = self.scratch("bend", slope.shape, slope)
        xp.multiply(self._out, self._out, out=bend)
        xp.subtract(1, bend, out=bend)
        xp.multiply(slope, bend, out=slope)
        return slope


class Flatten(Layer):
    """Make each row one axis: (B, a, b, ...) -> (B, a b ...)."""

    def build(self, shape: Shape) -> Built:
        """Return (number of elements of a row,) and no parameters."""
        self._row = shape
        return (math.prod(shape),), {}

    def forward(self, x: Array) -> Array:
        """Return a view of x."""
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, slope: Array) -> Array:
        """Return a view of slope in the shape of the input."""
        return slope.reshape(len(slope), *self._row)
