"""What a server and its workers count, from which the conits of a run come, and more that explains them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from hpcml.optim import norm
from hpcml.sync.conits import Conits


class Measures:
    """The counts of one shard or worker, or of several added up.

    - missed: at each write, how many writes of others the shard had taken since the writer last read; a histogram.
    - gaps: at each read, how many clocks the reader is ahead of the slowest worker; a histogram.
    - disordered: writes that were taken after one with a later clock; refused: writes that came twice.
    - between: bytes of the bodies of letters between a worker and a shard of different regions, wherever these are hosted.
    - drift: the largest distance of a worker's copy of a shard from what an answer brought.
    """

    def __init__(self) -> None:
        self.missed: Counter[int] = Counter()
        self.gaps: Counter[int] = Counter()
        self.disordered = self.refused = 0
        self.between, self.drift = 0, 0.0

    def take_write(self, missed: int, clock: int, latest: int) -> None:
        """Note a write whose author had not read `missed` writes of others, at its clock, where `latest` was the largest so far."""
        self.missed[missed] += 1
        self.disordered += clock < latest

    def take_read(self, gap: int) -> None:
        """Note a read by a worker that is `gap` clocks ahead of the slowest."""
        self.gaps[gap] += 1

    def take_drift(self, old: np.ndarray, new: np.ndarray) -> None:
        """Note how far a worker's copy was from what an answer brought."""
        self.drift = max(self.drift, norm(old - new))

    def conits(self) -> Conits:
        """Return value, order and staleness: the largest drift, the most writes missed, and the clock gaps of reads."""
        return Conits(self.drift, max(self.missed, default=0), {gap: self.gaps[gap] for gap in sorted(self.gaps)})

    def plain(self) -> dict[str, Any]:
        """Return the counts as plain numbers."""
        return {
            "writes": self.missed.total(),
            "reads": self.gaps.total(),
            "writes_missed": {str(k): self.missed[k] for k in sorted(self.missed)},
            "clock_gaps": {str(k): self.gaps[k] for k in sorted(self.gaps)},
            "out_of_order": self.disordered,
            "refused": self.refused,
            "bytes_between_regions": self.between,
            "largest_drift": self.drift,
        }

    def add(self, plain: dict[str, Any]) -> None:
        """Add the counts of another, as `plain` gave them."""
        self.missed.update({int(k): n for k, n in plain["writes_missed"].items()})
        self.gaps.update({int(k): n for k, n in plain["clock_gaps"].items()})
        self.disordered += plain["out_of_order"]
        self.refused += plain["refused"]
        self.between += plain["bytes_between_regions"]
        self.drift = max(self.drift, plain["largest_drift"])
