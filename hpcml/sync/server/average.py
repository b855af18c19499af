"""The weighted mean of V workers' writes, over the tree that every exact sum of hpcml uses: the bits of EveryStep; and their sum by rows.

Letters: V workers, m numbers, k rows.
"""

from __future__ import annotations

from collections.abc import Callable

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


class RowSum:
    """Holds one write a worker until all have come, and gives their sum over the tree: of the rows that were written, if none wrote all.

    What nobody writes takes neither memory nor time.

    Args:
        workers: V.
        numbers: m.
        dtype: of the numbers.
        flat: gives the positions of the numbers of some rows.
    """

    def __init__(self, workers: int, numbers: int, dtype: np.dtype, flat: Callable[[np.ndarray], np.ndarray]) -> None:
        self._workers, self._numbers, self._dtype, self._flat = workers, numbers, dtype, flat
        self._dense: TreeMean | None = None
        self._came: dict[int, tuple[Array, np.ndarray | None]] = {}

    def put(self, worker: int, values: Array, rows: np.ndarray | None) -> None:
        """Take a worker's numbers (m,), or those of its rows (k,), which are ascending, each once."""
        self._came[worker] = values.copy(), None if rows is None else rows.copy()

    def take(self) -> tuple[Array, np.ndarray | None]:
        """Return the sum, which may be overwritten, and its rows (k,), or None for all; and forget the writes."""
        named = [rows for _, rows in self._came.values() if rows is not None]
        if len(named) < len(self._came):
            self._dense = self._dense or TreeMean(self._workers, self._numbers, self._dtype)
            tree, union = self._dense, None
        else:
            union = np.unique(np.concatenate(named))
            tree = TreeMean(self._workers, len(self._flat(union)), self._dtype)
        for worker, (values, rows) in self._came.items():
            found = rows if rows is None or union is None else np.searchsorted(union, rows)
            tree.put(worker, values, 0.0, None if found is None else self._flat(found))
        self._came.clear()
        return tree.take_sum()[0], union


def _additions(node: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the additions (left, right) that leave the sum of a node's leaves in its first, children first."""
    if node[1] - node[0] < 2:
        return []
    left, right = halves(node)
    return [*_additions(left), *_additions(right), (left[0], right[0])]
