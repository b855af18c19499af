"""From tokens to vectors and back: embedding, learned positions, and a head that shares the embedding's table.

Letters: B rows, T positions, v tokens of the vocabulary, d numbers of a vector.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError, TargetError
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, Tied, normal

VOCABULARY_AT_ONCE = 1024
"""Rows of the table whose gradient a device makes in one product."""


class Embedding(Layer):
    """Look up a learned vector for each token: (B, T) -> (B, T, d).

    Tokens may come as whole numbers of any dtype, floats too, as a loader gives them. ``touched`` names, after backward, the rows of the
    table whose gradient is not zero.
    """

    def __init__(
        self, vocabulary: int, width: int, *, context: int | None = None, padding: int | None = None, init: Init | None = None
    ) -> None:
        """Make a table of v = `vocabulary` vectors of d = `width` numbers.

        Args:
            vocabulary: tokens are 0 to v - 1.
            width: d.
            context: T, where rows may be longer: what follows is left out, such as the last token, which is only to be predicted.
            padding: a token that fills rows up: attention does not look at it.
            init: of the table; normal numbers of deviation 0.02 when left out.
        """
        super().__init__()
        self.vocabulary, self.width, self.length, self.padding = vocabulary, width, context, padding
        self.init = init or normal(0.02)
        self.touched: Array = None

    def build(self, shape: Shape) -> Built:
        """Return (T, d) and the parameter table (v, d)."""
        if len(shape) != 1:
            raise ShapeError(f"Embedding takes rows of tokens (T,), got rows of shape {shape}")
        if self.length is not None and shape[0] < self.length:
            raise ShapeError(f"Embedding's context is {self.length} tokens, rows have {shape[0]}; make it shorter, or rows longer")
        return (self.length or shape[0], self.width), {"table": ((self.vocabulary, self.width), self.init)}

    def forward(self, x: Array) -> Array:
        """Return the tokens' vectors (B, T, d) in the layer's own buffer.

        Raises:
            TargetError: for a token outside the vocabulary.
        """
        xp, tokens = namespace(x), x[:, : self.length]
        self._tokens = self.take("tokens", tokens.shape, x, np.int64)
        self._tokens[...] = tokens
        whole = self._tokens == tokens
        if not bool(whole.all()):
            raise TargetError("tokens are whole numbers; a row holds another", row=int((~whole).any(axis=1).argmax()))
        self._require_known(self._tokens)
        if self.padding is not None:
            self.context.keep = self.take("keep", tokens.shape, x, np.bool_)
            xp.not_equal(self._tokens, self.padding, out=self.context.keep)
        out = self.take("out", (*tokens.shape, self.width), self.parameters["table"].data)
        if xp is np:
            np.take(self.parameters["table"].data, self._tokens, axis=0, out=out, mode="clip")
        else:
            out[...] = self.parameters["table"].data[self._tokens]
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the table's gradient with the sums over equal tokens, in order, and return slope as it is."""
        grad, flat = self.parameters["table"].grad, slope.reshape(-1, self.width)
        if namespace(slope) is np:
            self._sum_sorted(grad, flat)
        else:
            self._sum_products(grad, flat)
        return slope

    def _require_known(self, tokens: Array) -> None:
        if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= self.vocabulary):
            xp = namespace(tokens)
            row, place = (int(k[0]) for k in xp.nonzero((tokens < 0) | (tokens >= self.vocabulary)))
            text = f"the token {int(tokens[row, place])} at position {place} is outside the vocabulary 0 to {self.vocabulary - 1}"
            text += "; make model.vocabulary larger or mend the data"
            raise TargetError(text, row=row)

    def _sum_sorted(self, grad: np.ndarray, flat: np.ndarray) -> None:
        """Sum runs of equal tokens; the sort is stable, so the order of every sum is that of the rows."""
        tokens = self._tokens.reshape(-1)
        order = np.argsort(tokens, kind="stable")
        tokens = tokens[order]
        starts = np.flatnonzero(np.diff(tokens, prepend=-1))
        self.touched = tokens[starts]
        gathered = self.take("gathered", flat.shape, flat)
        np.take(flat, order, axis=0, out=gathered, mode="clip")
        grad.fill(0)
        if len(starts):
            sums = self.take("sums", (len(starts), self.width), flat)
            np.add.reduceat(gathered, starts, axis=0, out=sums)
            grad[self.touched] = sums

    def _sum_products(self, grad: Array, flat: Array) -> None:
        """Sum by products with ones and zeros: a device's scattered additions would come in any order."""
        xp, tokens = namespace(flat), self._tokens.reshape(-1)
        self.touched = xp.unique(tokens)
        for first in range(0, self.vocabulary, VOCABULARY_AT_ONCE):
            part = grad[first : first + VOCABULARY_AT_ONCE]
            chosen = (tokens[None, :] == xp.arange(first, first + len(part))[:, None]).astype(flat.dtype)
            xp.matmul(chosen, flat, out=part)


class Positions(Layer):
    """Add a learned vector for each position: (B, T, d) -> (B, T, d)."""

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
        out = self.take("out", x.shape, x)
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
        namespace(x).matmul(self._x, table.T, out=out.reshape(-1, len(table)))
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite this layer's part of the table's gradient and return the input's slope."""
        xp, table = namespace(slope), self.parameters["table"]
        flat = slope.reshape(len(self._x), slope.shape[-1])
        xp.matmul(flat.T, self._x, out=table.grad)
        back = self.take("back", self._x.shape, slope)
        xp.matmul(flat, table.data, out=back)
        return back.reshape(*slope.shape[:-1], back.shape[1])
