"""Cached rows are the files' rows, read once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.cache import CachedDataset, OwnMemory, kept_bytes


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}, {"dtype": ">f8"}, {"dtype": "u1"}])
def test_epochs_after_the_first_read_no_file_and_give_the_same_rows(make_shards, workers, layout):
    index = open_shards(make_shards([23, 4, 31], **layout)).index
    data, plain = CachedDataset(index), open_shards([shard.path for shard in index.shards])
    sampler = Sampler(data.shard_rows, 9, workers, 7, block=4, window=2)
    loader, other = Loader(data, sampler, range(workers)), Loader(plain, sampler, range(workers))
    read = []
    for epoch in range(3):
        for parts, expected in zip(loader.batches(epoch), other.batches(epoch), strict=True):
            for batch, same in zip(parts, expected, strict=True):
                np.testing.assert_array_equal(batch.x, same.x)
                np.testing.assert_array_equal(batch.y, same.y)
        data.end_epoch()
        read.append(data.bytes_read)
    assert len(set(read)) == 1
    data.close()
    x = np.empty((58, *data.x.shape), np.float32)
    data.read(0, 58, x)
    np.testing.assert_array_equal(np.sort(x[:, 0]), x[:, 0])
    assert data.bytes_read > read[0]


class Blocks(OwnMemory):
    """The memory that several data sets of one process share: the n-th allocation of each is the same array."""

    def __init__(self, held):
        self._held, self._next = held, 0

    def allocate(self, shape, dtype):
        self._next += 1
        return self._held.setdefault(self._next, np.zeros(shape, dtype))


def test_ranks_that_share_memory_read_each_row_once(make_shards, truth):
    index, held = open_shards(make_shards([23, 4, 31], width=8)).index, {}
    ranks = [CachedDataset(index, memory=Blocks(held)) for _ in range(2)]
    sampler = Sampler(index.shard_rows, 9, 2, 7, block=4, window=2)
    for epoch in range(3):
        for rank, data in enumerate(ranks):
            for (batch,) in Loader(data, sampler, [rank]).batches(epoch):
                np.testing.assert_array_equal(batch.x, truth(batch.rows, 8))
        for data in ranks:
            data.end_epoch()
    x_bytes, y_bytes = 58 * 8 * 4, 58 * 8
    assert sum(data.bytes_read for data in ranks) == x_bytes + y_bytes
    assert ranks[0].nbytes == x_bytes + y_bytes


def test_before_the_end_of_an_epoch_no_rank_trusts_what_another_may_be_writing(make_shards, truth):
    index, held = open_shards(make_shards([10])).index, {}
    writer, reader = (CachedDataset(index, memory=Blocks(held)) for _ in range(2))
    x = np.empty((10, 3), np.float32)
    writer.read(0, 10, x)
    before = reader.bytes_read
    reader.read(0, 10, x)
    assert reader.bytes_read > before
    np.testing.assert_array_equal(x, truth(range(10)))


@pytest.mark.parametrize(("kind", "real", "kept"), [("u1", "f4", 1), ("f2", "f4", 2), ("f8", "f4", 4), ("f8", "f8", 8), ("i8", "f4", 4)])
def test_rows_are_kept_in_the_narrower_of_file_and_memory_and_no_digit_is_lost(make_shards, kind, real, kept):
    index = open_shards(make_shards([10], width=5, dtype=kind)).index
    data, plain = CachedDataset(index, dtype=real), open_shards(index.shards[0].path)
    assert data.nbytes == 10 * 5 * kept + 10 * 8
    found, expected = (np.empty((10, 5), real) for _ in range(2))
    plain.read(0, 10, expected)
    for _ in range(2):
        data.read(0, 10, found)
        np.testing.assert_array_equal(found, expected)


@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=8))
def test_whatever_is_asked_for_in_any_order_each_row_is_read_once(make_shards_once, rows):
    index = make_shards_once
    data = CachedDataset(index)
    seen = set()
    for a, b in rows:
        first, last = min(a, b), max(a, b) + 1
        x = np.empty((last - first, 6), np.float32)
        data.read(first, last, x)
        np.testing.assert_array_equal(x[:, 0], np.arange(first, last))
        seen |= set(range(first, last))
        assert data.bytes_read == len(seen) * (24 + 8)


@pytest.fixture(scope="module")
def make_shards_once(tmp_path_factory):
    import h5py

    path = tmp_path_factory.mktemp("cache") / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = (np.arange(31)[:, None] + np.arange(6) / 8).astype(np.float32)
        file["y"] = np.arange(31)
    return open_shards(path).index


def test_the_bytes_asked_for_are_those_that_are_taken(make_shards):
    index = open_shards(make_shards([23, 4], width=7)).index
    taken = []

    class Counting(OwnMemory):
        def allocate(self, shape, dtype):
            made = super().allocate(shape, dtype)
            taken.append(-(-made.nbytes // 64) * 64)
            return made

    CachedDataset(index, memory=Counting())
    assert sum(taken) == kept_bytes(index, np.float32)
