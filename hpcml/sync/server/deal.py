"""Which portion of an epoch a worker takes next: its own lane from the front; then, where that is allowed, from the back of others'.

A portion is (lane, step): the rows that the sampler gives worker `lane` at `step`. Every portion is given out once, whoever asks.
"""

from __future__ import annotations

Portion = tuple[int, int]
"""(lane, step)."""


class Deal:
    """The portions of one epoch.

    Args:
        steps: portions of each lane.
        stealing: whether a worker whose lane is empty takes from the lane that has most left.
    """

    def __init__(self, lanes: int, steps: int, stealing: bool) -> None:
        self._front = [0] * lanes
        self._back = [steps] * lanes
        self._stealing = stealing

    def take(self, worker: int) -> Portion | None:
        """Return the worker's next portion, or None when there is no more for it."""
        if self._front[worker] < self._back[worker]:
            self._front[worker] += 1
            return worker, self._front[worker] - 1
        left = [back - front for front, back in zip(self._front, self._back, strict=True)]
        most = max(left)
        if not self._stealing or not most:
            return None
        lane = left.index(most)
        self._back[lane] -= 1
        return lane, self._back[lane]
