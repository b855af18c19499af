"""What the last few tokens say, for little arithmetic: hashed n-grams, and what followed them when they came before.

Letters: B rows, T positions, v tokens of the vocabulary, k lengths n, d numbers of a vector.
The n-gram of a position is its token and the n - 1 before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.nn import values
from hpcml.nn.layers.layer import Init
from hpcml.nn.layers.lookup import Lookup

MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, its bits without a pattern: 2^64 over the golden ratio."""


class NGrams(Lookup):
    """Look up a learned vector for the last n tokens, for several n side by side: (B, T) -> (B, T, d).

    An n-gram's row of the table is a hash of it, so that rare ones share rows. At a row's first positions an n-gram is what there is of it.

    References:
        Pagnoni et al., Byte latent transformer: patches scale better than tokens, 2024 (hash n-gram embeddings).
    """

    def __init__(
        self, vocabulary: int, width: int, lengths: Sequence[int], buckets: int, *, context: int | None = None, init: Init | None = None
    ) -> None:
        """Give each n of k `lengths` a table of `buckets` vectors of d / k numbers, d being `width`; see Lookup for the others."""
        self.lengths, self.buckets = values.wholes("NGrams' lengths", lengths), values.whole("NGrams' buckets", buckets)
        super().__init__(vocabulary, width, len(self.lengths) * buckets, len(self.lengths), context, init)

    def find(self, tokens: Array) -> Array:
        """Return (B, T, k): each length's own rows of the table, chosen by hash."""
        places = self.take("places", (*tokens.shape, self.parts), tokens)
        for k, mixed in enumerate(_hashes(tokens, self.lengths)):
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(MULTIPLIER)
            mixed >>= np.uint64(32)
            mixed %= np.uint64(self.buckets)
            places[..., k] = mixed
            places[..., k] += k * self.buckets
        return places


class Recall(Lookup):
    """Look up a learned vector for the token that followed the last n tokens when they last came in the row: (B, T) -> (B, T, d).

    For several n side by side; a token v says that they did not come before. A copy of something long is then told in one layer, however
    far back it lies, at the price of sorting the row.

    References:
        Mahoney, Adaptive weighing of context models for lossless data compression, 2005 (the match model).
    """

    def __init__(
        self, vocabulary: int, width: int, lengths: Sequence[int], *, context: int | None = None, init: Init | None = None
    ) -> None:
        """Give each n of k `lengths` a table of v + 1 vectors of d / k numbers, d being `width`; see Lookup for the others."""
        self.lengths = values.wholes("Recall's lengths", lengths)
        rows = len(self.lengths) * (values.whole("Recall's vocabulary", vocabulary) + 1)
        super().__init__(vocabulary, width, rows, len(self.lengths), context, init)

    def find(self, tokens: Array) -> Array:
        """Return (B, T, k): for each length the token that followed, or v, in that length's own rows of the table."""
        xp, (B, T), places = namespace(tokens), tokens.shape, self.take("places", (*tokens.shape, self.parts), tokens)
        rows = xp.arange(B)[:, None]
        for k, mixed in enumerate(_hashes(tokens, self.lengths)):
            first = k * (self.vocabulary + 1)
            order = xp.argsort(mixed, axis=1, kind="stable")  # equal n-grams stand together, in the order of their positions
            ranked = xp.take_along_axis(mixed, order, axis=1)
            after = xp.minimum(order[:, :-1] + 1, T - 1)
            followed = xp.where(ranked[:, 1:] == ranked[:, :-1], xp.take_along_axis(tokens, after, axis=1), self.vocabulary)
            places[..., k] = first + self.vocabulary
            places[rows, order[:, 1:], k] = followed + first
        return places


def _hashes(tokens: Array, lengths: Sequence[int]) -> Iterator[Array]:
    """Yield the n-grams' hashes for each n, (B, T) uint64 that may be overwritten.

    They are polynomials in MULTIPLIER, so that a row's first positions, where tokens are missing, share their hash with no whole n-gram.
    """
    codes = (tokens + 1).astype(np.uint64)
    for length in lengths:
        mixed = codes.copy()
        for back in range(1, min(length, tokens.shape[1])):
            mixed[:, back:] += codes[:, :-back] * np.uint64(pow(MULTIPLIER, back, 1 << 64))
        yield mixed
