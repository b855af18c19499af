"""The weighted mean of V workers' writes, over the tree that every exact sum of hpcml uses: the bits of EveryStep.

Letters: V workers, m numbers.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, aligned
from hpcml.sync.synchroniser import divide
from hpcml.sync.tree import halves


class TreeMean:
    """Holds one write a worker until all have come, and gives their mean by weight."""

    def __init__(self, workers: int, numbers: int, dtype: np.dtype) -> None:
        """Allocate (V, m): in this mode a shard keeps every worker's write of one clock."""
        self._leaves = aligned((workers, numbers), dtype)
        self._weights = np.zeros(workers, dtype)
        self._missing = set(range(workers))
        self._additions = _additions((0, workers))

    def put(self, worker: int, values: Array, weight: float, where: np.ndarray | None = None) -> None:
        """Take a worker's sum over rows (m,), or its entries at some positions, and the weight of those rows."""
        leaf = self._leaves[worker]
        if where is None:
            leaf[:] = values
        else:
            leaf.fill(0)
            leaf[where] = values
        self._weights[worker] = weight
        self._missing.discard(worker)

    def take(self) -> Array | None:
        """Return the mean (m,), which may be overwritten, and forget the writes; None if they had no weight."""
        total, weight = self.take_sum()
        if weight:
            divide(total, weight)
        return total if weight else None

    def take_sum(self) -> tuple[Array, float]:
        """Return the sum (m,), which may be overwritten, and its weight, and forget the writes."""
        for worker in self._missing:  # who has left writes nothing, and counts as zeros
            self._leaves[worker].fill(0)
        self._missing.update(range(len(self._weights)))
        for left, right in self._additions:
            self._leaves[left] += self._leaves[right]
            self._weights[left] += self._weights[right]
        weight = float(self._weights[0])
        self._weights.fill(0)
        return self._leaves[0], weight


def _additions(node: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the additions (left, right) that leave the sum of a node's leaves in its first, children first."""
    if node[1] - node[0] < 2:
        return []
    left, right = halves(node)
    return [*_additions(left), *_additions(right), (left[0], right[0])]
