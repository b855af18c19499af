"""The layer that gives rows another shape."""

from __future__ import annotations

import math

from hpcml.arrays import Array
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape


class Reshape(Layer):
    """Give each row another shape of as many numbers, such as (64,) -> (8, 8, 1); costs nothing."""

    def __init__(self, *shape: int) -> None:
        """Give rows this shape, its sizes one after the other: Reshape(8, 8, 1)."""
        super().__init__()
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            raise ShapeError(f"Reshape takes the sizes one after the other; write Reshape({', '.join(map(str, shape[0]))})")
        self.shape = tuple(values.whole(f"size {k} of Reshape{shape}", size) for k, size in enumerate(shape))

    def build(self, shape: Shape) -> Built:
        """Return the new shape and no parameters."""
        if math.prod(shape) != math.prod(self.shape):
            raise ShapeError(f"Reshape to {self.shape} takes rows of {math.prod(self.shape)} numbers, got {math.prod(shape)} in {shape}")
        self._row = shape
        return self.shape, {}

    def forward(self, x: Array) -> Array:
        """Return a view of x."""
        return x.reshape(len(x), *self.shape)

    def backward(self, slope: Array) -> Array:
        """Return a view of slope in the shape of the input."""
        return slope.reshape(len(slope), *self._row)
