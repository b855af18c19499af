"""Mean and standard deviation of features, computed by all ranks together, the same bits on any number of them.

Letters: V virtual workers. Worker w takes ``spans(rows, V)[w]`` in blocks of a fixed length, and sums meet over the fixed tree.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import span
from hpcml.comm.communicator import Communicator
from hpcml.data import ShardedDataset
from hpcml.sync.reducers import TreeSum
from hpcml.train.evaluation import blocks

ROWS = 256
"""Rows that are added at a time; part of the definition of the sums' bits."""

WORKERS = 64
"""V of these sums: fixed, so that statistics belong to the data alone; ranks beyond it have nothing to do."""


def moments(data: ShardedDataset, comm: Communicator) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each number of a row over all rows, two arrays (*row,) float64.

    Numbers are taken relative to the first row, so that a large mean costs the deviation no digits.

    Raises:
        DataError: on every rank, if any rank meets rows that cannot be read.
    """
    shape = data.x.shape
    n = int(np.prod(shape, dtype=np.int64))
    first = np.empty((1, *shape))
    workers = max(WORKERS, comm.size)
    reducer = TreeSum(comm, workers, 2 * n, 0, np.float64)
    hosted = span(workers, comm.size, comm.rank)
    with comm.together():
        data.read(0, 1, first)
        for worker in range(hosted.start, hosted.stop):
            sums = reducer.buffer()
            sums.fill(0)
            rows = span(data.rows, workers, worker)
            for start, stop in blocks(rows.start, rows.stop, ROWS):
                x = np.empty((stop - start, *shape))
                data.read(start, stop, x)
                x -= first
                flat = x.reshape(len(x), n)
                sums[:n] += flat.sum(axis=0)
                sums[n:] += np.square(flat).sum(axis=0)
            reducer.add()
    reducer.finish()
    total = np.concatenate([part for _, part in reducer.parts()]) / data.rows
    mean, square = total[:n], total[n:]
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    return (mean + first.reshape(n)).reshape(shape), deviation.reshape(shape)
