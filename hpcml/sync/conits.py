"""How far replicas were allowed to differ, as measured: the three bounds of a conit - value, order, staleness.

Source: Yu and Vahdat, Design and evaluation of a conit-based continuous consistency model for replicated services, TOCS 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcml.comm.communicator import Communicator, Op

GAPS = 64
"""Staleness is counted step by step up to here; the last count is of everything beyond."""


@dataclass(frozen=True, slots=True)
class Conits:
    """What a run's relaxed synchronisation came to.

    Args:
        value: the largest Euclidean distance of a worker's model from the one it was to agree with, just before they met; under
            gossip, which knows no common model in training, also that from the mean of all at an epoch's end.
        order: the most updates that one worker had made and another had not seen.
        staleness: clock gap -> steps of workers that began with the news of some other worker missing for that many steps.
    """

    value: float
    order: int
    staleness: dict[int, int]

    def __str__(self) -> str:
        return (
            f"at most {self.value:.4g} apart, {self.order} update{'s' * (self.order != 1)} not yet told,"
            f" {self.mean_staleness:.2f} steps stale on average"
        )

    @property
    def mean_staleness(self) -> float:
        """Return the mean clock gap of all steps."""
        steps = sum(self.staleness.values())
        return sum(gap * count for gap, count in self.staleness.items()) / steps if steps else 0.0

    def plain(self) -> dict[str, Any]:
        """Return plain values for a summary, and the mean gap."""
        return {**asdict(self), "mean_staleness": self.mean_staleness}


class Measured:
    """What one worker measured; `numbers` (GAPS + 2,) float64 is all of it: largest distance, updates not told, steps by their gap."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self.numbers = np.zeros(GAPS + 2)

    def add_step(self, gap: int | None = None) -> None:
        """Count one step of the worker; left out, the gap is the number of its steps since it last met others."""
        since = int(self.numbers[1])
        self.numbers[2 + min(since if gap is None else gap, GAPS - 1)] += 1
        self.numbers[1] = since + 1

    def meet(self) -> None:
        """Note that the worker's updates were told and the others' heard."""
        self.numbers[1] = 0

    def add_distance(self, distance: float) -> None:
        """Keep the largest distance from the common model."""
        self.numbers[0] = max(self.numbers[0], distance)


def gather(measured: list[Measured], comm: Communicator, distances: Sequence[float] = ()) -> Conits:
    """Return the conits of all workers from those of each rank's; every rank calls it.

    Args:
        measured: what the workers of this rank measured.
        comm: all ranks.
        distances: of this rank's workers now, if they have not met since they were last measured.
    """
    rows = np.array([each.numbers for each in measured]).reshape(-1, GAPS + 2)
    counts = rows[:, 2:].sum(axis=0)
    value = np.array([max([*rows[:, 0], *distances], default=0.0)])
    comm.all_reduce(counts)
    comm.all_reduce(value, Op.MAX)
    staleness = {gap: int(count) for gap, count in enumerate(counts) if count}
    return Conits(float(value[0]), max(staleness, default=-1) + 1, staleness)
