"""From tokens to vectors and back: embedding, learned positions, and a head that shares the embedding's table.

Letters: B rows, T positions, v tokens of the vocabulary, d numbers of a vector.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, Tied, normal
from hpcml.nn.layers.lookup import Lookup


class Embedding(Lookup):
    """Look up a learned vector for each token: (B, T) -> (B, T, d).

    Tokens may come as whole numbers of any dtype, floats too, as a loader gives them. ``touched`` names, after backward, the rows of the
    table whose gradient is not zero.
    """

    def __init__(
        self, vocabulary: int, width: int, *, context: int | None = None, padding: int | None = None, init: Init | None = None
    ) -> None:
        """Make a table of v = `vocabulary` vectors of d = `width` numbers; see Lookup.

        Args:
            vocabulary: tokens are 0 to v - 1.
            width: d.
            context: T, where rows may be longer.
            padding: a token that fills rows up: attention does not look at it.
            init: of the table.
        """
        super().__init__(vocabulary, width, vocabulary, 1, context, init)
        self.padding = None if padding is None else values.whole("Embedding's padding", padding, 0)
        if padding is not None and padding >= vocabulary:
            raise ShapeError(f"Embedding's padding is {padding}, no token of the vocabulary 0 to {vocabulary - 1}")

    def find(self, tokens: Array) -> Array:
        """Return the tokens, and mark which are no padding."""
        if self.padding is not None:
            self.context.keep = self.take("keep", tokens.shape, tokens, np.bool_)
            namespace(tokens).not_equal(tokens, self.padding, out=self.context.keep)
        return tokens


class Positions(Layer):
    """Add a learned vector for each position: (B, T, d) -> (B, T, d)."""

    keeps_output = False

    def __init__(self, init: Init | None = None) -> None:
        """Take the first vectors from `init`; normal numbers of deviation 0.02 when left out."""
        super().__init__()
        self.init = init or normal(0.02)

    def build(self, shape: Shape) -> Built:
        """Return the same shape and the parameter table (T, d)."""
        if len(shape) != 2:
            raise ShapeError(f"Positions takes rows of shape (T, d), got {shape}")
        return shape, {"table": (shape, self.init)}

    def forward(self, x: Array) -> Array:
        """Return x plus the table in the layer's own buffer."""
        out = self.over_input(x)
        namespace(x).add(x, self.parameters["table"].data, out=out)
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradient with the sum over rows and return slope as it is."""
        namespace(slope).sum(slope, axis=0, out=self.parameters["table"].grad)
        return slope


class TiedHead(Layer):
    """Score each token of the vocabulary by the product with its embedding: (B, T, d) -> (B, T, v).

    References:
        Press and Wolf, Using the output embedding to improve language models, EACL 2017.
    """

    def __init__(self, embedding: Embedding) -> None:
        """Share the table of an embedding of the same model."""
        super().__init__()
        if not isinstance(embedding, Embedding):
            raise ShapeError(f"TiedHead shares the table of an Embedding, got {embedding!r}; give the Embedding of the same model")
        self.embedding = embedding

    def build(self, shape: Shape) -> Built:
        """Return (T, v) and no parameters of its own."""
        if shape[-1:] != (self.embedding.width,):
            raise ShapeError(f"TiedHead takes vectors of the embedding's {self.embedding.width} numbers, got rows of shape {shape}")
        return (*shape[:-1], self.embedding.vocabulary), {"table": Tied(self.embedding, "table")}

    def forward(self, x: Array) -> Array:
        """Return the products with every token's vector; keeps x until backward."""
        self._x, table = x.reshape(-1, x.shape[-1]), self.parameters["table"].data
        out = self.take("out", (*x.shape[:-1], len(table)), x)
        self.matmul(self._x, table.T, out=out.reshape(-1, len(table)))
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite this layer's part of the table's gradient and return the input's slope."""
        table = self.parameters["table"]
        flat = slope.reshape(len(self._x), slope.shape[-1])
        self.matmul(flat.T, self._x, out=table.grad)
        back = self.context.scratch.slope(self._x.shape, slope)
        self.matmul(flat, table.data, out=back)
        return back.reshape(*slope.shape[:-1], back.shape[1])
