"""The arrival order of one epoch: all that an asynchronous epoch's numbers depend on beside the rows.

For each shard the order in which it took writes and answered; for each worker which answers it had at each step, and its portions.
With it the same epoch can be computed again, bit for bit, on any number of ranks.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcml.errors import RunError
from hpcml.sync.server.deal import Portion
from hpcml.sync.server.gate import Act, Event

_PARSING = threading.Lock()
"""Held while a file's heads are parsed: CPython 3.11 counts its depth for all threads together, and raises where two do it."""


@dataclass(slots=True)
class Record:
    """One epoch.

    Args:
        orders: by shard, act * V + worker of each event.
        seen: by worker, a number a step whose bits are the shards that had answered; empty where workers await answers.
        portions: by worker, the portions that it took.
    """

    orders: dict[int, list[int]] = field(default_factory=dict)
    seen: dict[int, list[int]] = field(default_factory=dict)
    portions: dict[int, list[Portion]] = field(default_factory=dict)

    def events(self, shard: int, workers: int) -> list[Event]:
        """Return the order of a shard as events."""
        return [(Act(number // workers), number % workers) for number in self.orders[shard]]

    def merge(self, other: Record) -> None:
        """Add what another rank recorded of the same epoch."""
        self.orders.update(other.orders)
        self.seen.update(other.seen)
        self.portions.update(other.portions)

    def to_bytes(self) -> bytes:
        """Return the record as a compressed .npz file."""
        arrays: dict[str, Any] = {f"order-{shard}": np.array(order, np.uint32) for shard, order in self.orders.items()}
        for worker, numbers in self.seen.items():
            # A run may have more shards than a machine word has bits.
            words = max(1, -(-max(numbers, default=0).bit_length() // 32))
            digits = [[number >> 32 * k & 0xFFFFFFFF for k in range(words)] for number in numbers]
            arrays[f"seen-{worker}"] = np.array(digits, np.uint32).reshape(len(numbers), words)
        arrays |= {f"portions-{worker}": np.array(taken, np.uint32).reshape(-1, 2) for worker, taken in self.portions.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @staticmethod
    def from_bytes(data: bytes, where: str) -> Record:
        """Return the record in such a file.

        Raises:
            RunError: naming `where`, if the file is damaged.
        """
        record = Record()
        try:
            with _PARSING, np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                for name in arrays.files:
                    kind, _, number = name.partition("-")
                    record._put(kind, int(number), arrays[name])
        except Exception as error:  # zipfile, zlib and numpy each have their own
            raise RunError(f"{where}: not a record of an epoch ({error}); replay from an undamaged copy of the run") from error
        return record

    def _put(self, kind: str, number: int, values: np.ndarray) -> None:
        if kind == "order":
            self.orders[number] = values.tolist()
        elif kind == "seen":
            self.seen[number] = [sum(int(word) << 32 * k for k, word in enumerate(row)) for row in values]
        else:
            self.portions[number] = [(int(lane), int(step)) for lane, step in values]
