"""Which portion of an epoch a worker takes next: one of its own lane; then, where that is allowed, one of the lane that is furthest behind.

A portion is (lane, step): the rows that the sampler gives worker `lane` at `step`. Every portion is given out once, whoever asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

Portion = tuple[int, int]
"""(lane, step)."""


class Deal:
    """The portions of one epoch; each lane is dealt from its front.

    Args:
        lanes: how many there are, one a worker.
        steps: portions of each lane.
    """

    def __init__(self, lanes: int, steps: int) -> None:
        self._front, self._steps = [0] * lanes, steps

    def take(self, lane: int) -> Portion | None:
        """Return the next portion of a lane, or None at its end."""
        if self._front[lane] == self._steps:
            return None
        self._front[lane] += 1
        return lane, self._front[lane] - 1

    def help(self, below: int) -> Portion | None:
        """Return the next portion of the lane of which fewest were dealt, if its step is below a number; else None."""
        fewest = min(self._front)
        return self.take(self._front.index(fewest)) if fewest < min(below, self._steps) else None


class Lane:
    """What one worker is dealt in one epoch, and has taken.

    Args:
        worker: its number.
        script: the portions that a record gives it, in order; None to take them as they are dealt.
    """

    def __init__(self, worker: int, script: Sequence[Portion] | None) -> None:
        self.worker = worker
        self.script = None if script is None else deque(script)
        self.asked = self.over = self.stopped = False
        self.dealt: deque[Portion | None] = deque()
        self.offered: deque[Portion | None] = deque()
        self.taken: list[Portion] = []
