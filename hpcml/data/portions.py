"""Batches for workers that go at their own pace: each hosted worker's lane read ahead, and other lanes' portions on demand.

A portion is (lane, step): the rows that the sampler gives worker `lane` at `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from hpcml.arrays.device import Device
from hpcml.data.dataset import ShardedDataset
from hpcml.data.loader import AHEAD, HOST, Batch, Loader
from hpcml.data.rings import Ring
from hpcml.data.sampler import Sampler


class Portions:
    """The portions of an epoch, for the workers of one rank.

    A worker takes its own lane from the front, where a thread reads ahead, and leaves out what others take over. What it takes over
    from other lanes is read when it is asked for, a whole window at a time: that is the price of taking over, paid by ranks that
    would be idle.

    Args:
        dataset: where rows come from; it stays the caller's to close.
        sampler: which rows come when.
        workers: the virtual workers hosted here, each once.
        dtype: float32 or float64, for features and for floating targets.
        device: where batches go.
        threads: how many read and decode for each worker.
    """

    quarantine = False

    def __init__(
        self,
        dataset: ShardedDataset,
        sampler: Sampler,
        workers: Sequence[int],
        dtype: Any = np.float32,
        device: Device = HOST,
        *,
        threads: int = 2,
    ) -> None:
        self.dead: frozenset[int] = frozenset()
        self.broken: dict[int, str] = {}
        self._dataset, self._sampler, self._real, self._place = dataset, sampler, np.dtype(dtype), device.place
        self._loaders = {w: Loader(dataset, sampler, [w], dtype=dtype, device=device, threads=threads) for w in workers}
        self._lanes: dict[int, tuple[Generator[list[Batch]], int]] = {}
        self._foreign: dict[int, Ring] = {}
        self._held: dict[int, int] = {}
        self._epoch = 0

    @property
    def waited(self) -> float:
        """Seconds spent waiting for rows that were read ahead."""
        return sum(loader.waited for loader in self._loaders.values())

    def begin(self, epoch: int) -> None:
        """Start an epoch."""
        self.end()
        self._epoch = epoch
        self._lanes = {worker: (loader.batches(epoch), 0) for worker, loader in self._loaders.items()}

    def end(self) -> None:
        """Stop reading ahead."""
        for batches, _ in self._lanes.values():
            batches.close()
        self._lanes.clear()
        self._held.clear()

    def batch(self, worker: int, lane: int, step: int) -> Batch:
        """Return a portion for a hosted worker; valid until the worker's next."""
        if lane == worker and lane in self._lanes:
            batches, following = self._lanes[lane]
            if following <= step:
                # Rows of one step lie all over a window: what others have taken was read with the rest.
                for _ in range(following, step):
                    next(batches)
                self._lanes[lane] = batches, step + 1
                return next(batches)[0]
        return self._fetch(lane, step)

    def _fetch(self, lane: int, step: int) -> Batch:
        """Read the windows that hold a portion, unless it was just read, and return it."""
        ring = self._foreign.get(lane)
        if ring is None:
            ring = self._foreign[lane] = Ring(self._dataset, self._sampler, lane, self._real, AHEAD)
        # Portions of a lane come in order, but for those that others take: most lie in the windows of the one before.
        held = self._held.get(lane)
        if held is None or step < self._first(lane, held) or ring.needs(step):
            ring.begin(self._epoch, step)
            while ring.needs(step):
                ring.read_window(_one_by_one, _go_on)
            self._held[lane] = step
        filled = ring.take(step)
        y, weights = (None if array is None else self._place(array) for array in (filled.rows.y, filled.rows.weights))
        return Batch(lane, self._place(filled.rows.x), y, filled.rows.rows, filled.error, weights, filled.ids, filled.left_out)

    def _first(self, lane: int, step: int) -> int:
        """Return the first step whose rows all lie in the windows that were read for `step`."""
        start, _ = self._sampler.positions(step, lane)
        window = start // self._sampler.window_rows * self._sampler.window_rows
        count = self._sampler.count(0, lane)
        return -(-window // count)


def _one_by_one(function: Callable[[Any], None], items: list[Any]) -> None:
    for item in items:
        function(item)


def _go_on() -> None:
    """Nobody stops a portion half-way."""
