"""The Euclidean norm of a long vector, added in one fixed order."""

from __future__ import annotations

import math

import numpy as np

from hpcml.arrays import Array, namespace

BLOCK = 1 << 16
"""Elements added in the array's own precision; the blocks' sums are added in float64, so the norm of a long vector stays true."""


def norm(x: Array) -> float:
    """Return the Euclidean norm of x (n,), the same bits for the same x; on a device this waits for it."""
    length = _root_of_squares(x)
    if math.isfinite(length):
        return length
    # The squares of large finite numbers overflow: an infinite norm would clip such a gradient to zero without a word.
    largest = float(abs(x).max())
    return largest * _root_of_squares(x / largest) if math.isfinite(largest) else length


def _root_of_squares(x: Array) -> float:
    xp = namespace(x)
    if xp is not np:
        return float(xp.linalg.norm(x))
    with np.errstate(over="ignore"):
        return math.sqrt(sum(float(x[k : k + BLOCK] @ x[k : k + BLOCK]) for k in range(0, len(x), BLOCK)))
