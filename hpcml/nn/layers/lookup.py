"""Vectors looked up in a table, and their gradients: what embeddings share.

Letters: B rows, T positions, v tokens of the vocabulary, r rows of the table, w numbers of one of them.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError, TargetError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, normal

ROWS_AT_ONCE = 1024
"""Rows of the table whose gradient a device makes in one product."""


class Lookup(Layer):
    """Look up one or more rows of a learned table for each token, side by side: (B, T) -> (B, T, d).

    Tokens may come as whole numbers of any dtype, floats too, as a loader gives them. ``touched`` names, after backward, the rows of the
    table whose gradient is not zero.
    """

    keeps_output, takes_tokens = False, True

    def __init__(self, vocabulary: int, width: int, rows: int, parts: int, context: int | None, init: Init | None) -> None:
        """Make a table of `rows` rows, `parts` of which together are the d = `width` numbers of a token.

        Args:
            vocabulary: tokens are 0 to v - 1.
            width: d, a multiple of `parts`.
            rows: r.
            parts: rows of the table for each token.
            context: T, where rows may be longer: what follows is left out, such as the last token, which is only to be predicted.
            init: of the table; normal numbers of deviation 0.02 when left out.
        """
        super().__init__()
        name = type(self).__name__
        self.vocabulary, self.width = values.whole(f"{name}'s vocabulary", vocabulary), values.whole(f"{name}'s width", width)
        self.rows, self.parts = rows, parts
        self.length = None if context is None else values.whole(f"{name}'s context", context)
        self.init = init or normal(0.02)
        self.touched: Array = None
        self._wrong: Array = None

    @abstractmethod
    def find(self, tokens: Array) -> Array:
        """Return the rows of the table for tokens (B, T) int64: (B, T) int64, or (B, T, parts)."""

    def build(self, shape: Shape) -> Built:
        """Return (T, d) and the parameter table (r, d / parts)."""
        name = type(self).__name__
        if len(shape) != 1:
            raise ShapeError(f"{name} takes rows of tokens (T,), got rows of shape {shape}")
        if self.length is not None and shape[0] < self.length:
            raise ShapeError(f"{name}'s context is {self.length} tokens, rows have {shape[0]}; make it shorter, or rows longer")
        if self.width % self.parts:
            raise ShapeError(f"{name} cannot make {self.width} numbers of {self.parts} equal parts, one for each length")
        return (self.length or shape[0], self.width), {"table": ((self.rows, self.width // self.parts), self.init)}

    def forward(self, x: Array) -> Array:
        """Return the tokens' vectors (B, T, d) in the layer's own buffer.

        Raises:
            TargetError: for a token outside the vocabulary.
        """
        self._places = self.find(self._read(x))
        table = self.parameters["table"].data
        out = self.take("out", (*self._places.shape[:2], self.width), table)
        looked = out.reshape(*self._places.shape, table.shape[1])
        if namespace(x) is np:
            np.take(table, self._places, axis=0, out=looked, mode="clip")
        else:
            table.take(self._places, axis=0, out=looked)
        if self._wrong is not None:
            namespace(out).copyto(out, np.nan, where=self._wrong[:, :, None])
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the table's gradient with the sums over equal rows, in order, and return slope as it is."""
        grad = self.parameters["table"].grad
        flat, places = slope.reshape(-1, grad.shape[1]), self._places.reshape(-1)
        grad.fill(0)
        kernels = self.kernels(flat, grad)
        if kernels is not None:
            self.touched = places
            kernels.sum_equal(places, flat, grad, self.scratch("order", (2, len(places)), places))
        elif namespace(slope) is np:
            self._sum_sorted(grad, flat, places)
        else:
            self._sum_products(grad, flat, places)
        return slope

    def _read(self, x: Array) -> Array:
        """Return the first T tokens of each row as int64."""
        self._wrong = None
        part = x[:, : self.length]
        tokens = self.take("tokens", part.shape, x, np.int64)
        with np.errstate(invalid="ignore"):  # what is no number is no whole one either, and told below
            tokens[...] = part
        whole = tokens == part
        if self.context.training and self.context.late:  # a token that is none gets no numbers, and the loss will be none
            self._wrong = ~whole | (tokens < 0) | (tokens >= self.vocabulary)
            return namespace(tokens).clip(tokens, 0, self.vocabulary - 1, out=tokens)
        if not bool(whole.all()):
            raise TargetError("tokens are whole numbers; a row holds another", row=int((~whole).any(axis=1).argmax()))
        if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= self.vocabulary):
            row, place = (int(k[0]) for k in namespace(tokens).nonzero((tokens < 0) | (tokens >= self.vocabulary)))
            text = f"the token {int(tokens[row, place])} at position {place} is outside the vocabulary 0 to {self.vocabulary - 1}"
            text += "; make model.vocabulary larger or mend the data"
            raise TargetError(text, row=row)
        return tokens

    def _sum_sorted(self, grad: np.ndarray, flat: np.ndarray, places: np.ndarray) -> None:
        """Sum runs of equal places; the sort is stable, so the order of every sum is that of the rows."""
        order = np.argsort(places, kind="stable")
        places = places[order]
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        self.touched = places[starts]
        gathered = self.scratch("gathered", flat.shape, flat)
        np.take(flat, order, axis=0, out=gathered, mode="clip")
        if len(starts):
            sums = self.take("sums", (len(starts), flat.shape[1]), flat)
            np.add.reduceat(gathered, starts, axis=0, out=sums)
            grad[self.touched] = sums

    def _sum_products(self, grad: Array, flat: Array, places: Array) -> None:
        """Sum by products with ones and zeros: a device's scattered additions would come in any order."""
        xp = namespace(flat)
        self.touched = xp.unique(places)
        for first in range(0, len(self.touched), ROWS_AT_ONCE):
            some = self.touched[first : first + ROWS_AT_ONCE]
            chosen = (places[None, :] == some[:, None]).astype(flat.dtype)
            grad[some] = chosen @ flat
