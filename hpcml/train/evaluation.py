"""A model on a data set: each row exactly once, the same numbers on any number of ranks.

Letters: V virtual workers. Worker w takes ``spans(rows, V)[w]`` in blocks of a fixed length, and sums meet over the fixed tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from hpcml.arrays import Array, aligned, span, spans
from hpcml.comm.communicator import Communicator
from hpcml.data import ShardedDataset
from hpcml.errors import DataError
from hpcml.nn import Arena, Loss, Tail, Workspace
from hpcml.nn.context import Context
from hpcml.sync.reducers import TreeSum
from hpcml.train.meters import metrics


def blocks(start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut rows start to stop into runs of at most `most`."""
    for first in range(start, stop, most):
        yield first, min(first + most, stop)


class Judge(Protocol):
    """What is judged, or predicts: a model, or several together."""

    @property
    def arena(self) -> Arena:
        """Return the arena, whose dtype and device rows are read for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of a row."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Return the shape of a row's outputs."""

    @property
    def rows_at_once(self) -> int:
        """Return how many rows one forward pass takes."""

    @property
    def context(self) -> Context:
        """Return what says that this is no training."""

    def forward(self, x: Array) -> Array:
        """Return the outputs (B, *outputs) of rows (B, *shape); they may be overwritten by the next call."""


class Reader:
    """Reads runs of rows into buffers of its own and onto the model's device."""

    def __init__(self, data: ShardedDataset, model: Judge) -> None:
        """Allocate one block for the features and one for the targets of `data`."""
        self.data, self.model, most = data, model, model.rows_at_once
        self._x = aligned((most, *data.x.shape), model.arena.dtype)
        self._y = None if data.y is None else aligned((most, *data.y.shape), data.y.memory_dtype(model.arena.dtype))
        self._weights = None if data.weights is None else aligned(most, model.arena.dtype)

    def read(self, first: int, last: int) -> tuple[Array, Array | None, Array | None]:
        """Return features, targets and weights of the rows first to last; valid until the next read.

        Raises:
            DataError: if a feature is not finite, naming file and row.
        """
        x = self._x[: last - first]
        y, weights = (None if array is None else array[: last - first] for array in (self._y, self._weights))
        self.data.read(first, last, x, y, weights)
        if not np.isfinite(x).all():
            row = first + int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
            path, inside = self.data.locate(row)
            raise DataError(f"{path}: row {inside} of {self.data.x.name!r} holds a number that is not finite; mend or drop the row")
        place = self.model.arena.device.place
        return place(x), None if y is None else place(y), None if weights is None else place(weights)


def evaluate(model: Judge, loss: Loss, data: ShardedDataset, comm: Communicator, workers: int) -> dict[str, float]:
    """Return loss and metrics of the model's current parameters over all rows of a data set that has targets.

    Args:
        model: its arena holds the parameters to judge, equal on all ranks.
        loss: the loss, whose hits give the accuracy.
        data: rows with targets.
        comm: all ranks; those from V on, as ranks that only serve may be, judge nothing.
        workers: V; the result depends on it in its last bits, not on the number of ranks.

    Raises:
        DataError: on every rank, if any rank meets a row that cannot be used.
    """
    busy = min(workers, comm.size)
    runs = [*spans(workers, busy), *[slice(workers, workers)] * (comm.size - busy)]
    reducer = TreeSum(comm, workers, 0, len(Tail), np.float64, runs=runs)
    reader, work = Reader(data, model), Workspace()
    hosted = runs[comm.rank]
    with comm.together():
        for worker in range(hosted.start, hosted.stop):
            sums = reducer.buffer()
            sums.fill(0)
            rows = span(data.rows, workers, worker)
            for first, last in blocks(rows.start, rows.stop, model.rows_at_once):
                sums += _judge(model, loss, *reader.read(first, last), work)
            reducer.add()
    return metrics(reducer.finish(), loss)


def _judge(model: Judge, loss: Loss, x: Array, y: Array, weights: Array | None, work: Workspace) -> np.ndarray:
    model.context.evaluate()
    prediction = model.forward(x)
    hits = 0 if loss.hits is None else loss.hits(prediction, y)
    value, _ = loss(prediction, y, work, weights)
    tail = np.zeros(len(Tail))
    tail[Tail.WEIGHT], tail[Tail.ROWS] = len(x) if weights is None else float(weights.sum()), len(x)
    tail[Tail.LOSS], tail[Tail.HITS] = float(value), float(hits)
    return tail
