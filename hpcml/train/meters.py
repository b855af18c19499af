"""Sums of a step's tails, added up and read as metrics."""

from __future__ import annotations

import numpy as np

from hpcml.nn import Loss
from hpcml.nn.arena import Tail


def metrics(sums: np.ndarray, loss: Loss) -> dict[str, float]:
    """Return mean loss, what else the loss makes of it and, where hits mean something, accuracy, of tails that were summed over rows.

    Args:
        sums: (len(Tail),) float64.
        loss: whose sums they are.

    Returns:
        "loss" and perhaps others; empty where no row was counted.
    """
    if not sums[Tail.WEIGHT]:
        return {}
    found = {"loss": float(sums[Tail.LOSS] / sums[Tail.WEIGHT])}
    if loss.also is not None:
        found |= loss.also(found["loss"])
    if loss.hits is not None:
        found["accuracy"] = float(sums[Tail.HITS] / sums[Tail.ROWS])
    return found


class EpochMeter:
    """Sums of the tails since the run began and at the last epoch's end: what one epoch saw is their difference."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seen = np.zeros(len(Tail))
        self.mark = np.zeros(len(Tail))

    def add(self, sums: np.ndarray) -> None:
        """Add the sums of an exchange."""
        self.seen += sums

    def close_epoch(self, pending: np.ndarray) -> np.ndarray:
        """Return the sums of the epoch that ends now; `pending` are sums that no exchange has brought yet."""
        now = self.seen + pending
        epoch = now - self.mark
        self.mark = now
        return epoch

    def state(self) -> dict[str, list[float]]:
        """Return plain numbers that restore this meter exactly."""
        return {"seen": self.seen.tolist(), "mark": self.mark.tolist()}

    def restore(self, saved: dict[str, list[float]]) -> None:
        """Go on from a saved state."""
        self.seen, self.mark = np.array(saved["seen"]), np.array(saved["mark"])
