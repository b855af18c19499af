"""The Euclidean norm of a long vector, added in one fixed order."""

from __future__ import annotations

import math

from hpcml.arrays import Array, namespace

BLOCK = 1 << 16
"""Elements added in the array's own precision; the blocks' sums are added in float64, so the norm of a long vector stays true."""


def norm(x: Array) -> float:
    """Return the Euclidean norm of x (n,), the same bits for the same x; on a device this waits for it."""
    if namespace(x).__name__ != "numpy":
        return float(namespace(x).linalg.norm(x))
    return math.sqrt(sum(float(x[k : k + BLOCK] @ x[k : k + BLOCK]) for k in range(0, len(x), BLOCK)))
