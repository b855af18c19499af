"""Cached rows are the files' rows, read once."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.cache import CachedDataset


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}, {"dtype": ">f8"}])
def test_epochs_after_the_first_read_no_file_and_give_the_same_rows(make_shards, truth, workers, layout):
    data = CachedDataset(open_shards(make_shards([23, 4, 31], **layout)).index)
    loader = Loader(data, Sampler(data.shard_rows, 9, workers, 7, block=4, window=2), range(workers))
    read = []
    for epoch in range(3):
        for parts in loader.batches(epoch):
            for batch in parts:
                np.testing.assert_array_equal(batch.x, truth(batch.rows))
                np.testing.assert_array_equal(batch.y, batch.rows)
        read.append(data.bytes_read)
    assert len(set(read)) == 1
    data.close()


def test_processes_that_share_memory_read_each_row_once(make_shards, truth):
    index = open_shards(make_shards([23, 4, 31], width=8)).index
    shared = {}

    def allocate():
        number = iter(range(10))

        def make(shape, dtype):
            return shared.setdefault(next(number), np.zeros(shape, dtype))

        return make

    ranks = [CachedDataset(index, allocate=allocate()) for _ in range(2)]
    sampler = Sampler(index.shard_rows, 9, 2, 7, block=4, window=2)
    for epoch in range(2):
        for rank, data in enumerate(ranks):
            for (batch,) in Loader(data, sampler, [rank]).batches(epoch):
                np.testing.assert_array_equal(batch.x, truth(batch.rows, 8))
    x_bytes = 58 * 8 * 4
    assert sum(data.bytes_read for data in ranks) - 2 * 58 * 8 <= x_bytes
    assert ranks[0].nbytes == x_bytes + 58 * 8 + 58
