"""Every layout of every maker gives the rows that h5py gives, by the road that it allows."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.dataset import ShardedDataset
from hpcml.data.rings import Ring
from hpcml.data.windows import group_pieces
from hpcml.errors import ShardError
from tests.data.written import ROWS, read, road, write

plugins = pytest.importorskip("hdf5plugin", reason="the codecs LZ4, Zstandard and Blosc come with hdf5plugin")

LAYOUTS = {
    "contiguous": ("contiguous", {}),
    "chunks of whole rows": ("chunked", {"chunks": (8, 3, 4)}),
    "chunks across rows": ("chunked", {"chunks": (8, 2, 3), "compression": "gzip"}),
    "one chunk": ("chunked", {"chunks": (50, 3, 4), "compression": "gzip", "shuffle": True}),
    "growing": ("chunked", {"chunks": (16, 3, 4), "maxshape": (None, 3, 4)}),
    "growing, compressed": ("chunked", {"chunks": (16, 3, 4), "maxshape": (None, 3, 4), "compression": "gzip"}),
    "fletcher": ("chunked", {"chunks": (7, 3, 4), "fletcher32": True}),
    "lz4": ("chunked", {"chunks": (8, 3, 4), **plugins.LZ4()}),
    "zstd": ("chunked", {"chunks": (8, 3, 4), **plugins.Zstd()}),
    "blosc": ("chunked", {"chunks": (8, 3, 4), **plugins.Blosc()}),
    "lzf": ("library", {"chunks": (8, 3, 4), "compression": "lzf"}),
    "scale-offset": ("library", {"chunks": (8, 3, 4), "scaleoffset": 0, "only": "i4"}),
}
DTYPES = ["<f4", ">f4", "<f8", "<f2", "i1", ">u2", "<i8", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_dtype_gives_the_rows_of_h5py(tmp_path, layout, dtype):
    expected, options = LAYOUTS[layout]
    values = write(tmp_path / "a.h5", dtype=dtype, **options)
    with open_shards(tmp_path / "a.h5", target=None) as data:
        assert road(data) == expected
        if layout == "scale-offset":
            assert "filter 6" in data.index.shards[0].stored("x").why
        for start, stop in ((0, ROWS), (3, 29), (49, 50), (8, 16), (7, 8)):
            for kind in (np.float32, np.float64):
                np.testing.assert_array_equal(read(data, start, stop, kind), values[start:stop].astype(kind))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@pytest.mark.parametrize("layout", ["contiguous", "chunks across rows", "growing", "lz4", "lzf"])
@given(choice=st.data())
def test_the_loader_gives_each_row_once_from_every_layout(tmp_path_factory, layout, choice):
    folder = tmp_path_factory.mktemp("l")
    values = np.concatenate([write(folder / f"{i}.h5", seed=i, **LAYOUTS[layout][1]) for i in range(2)]).astype(np.float32)
    with open_shards(folder / "*.h5", target=None) as data:
        batch = choice.draw(st.integers(1, 100))
        sampler = Sampler(
            data.shard_rows,
            batch,
            choice.draw(st.integers(1, min(batch, 3))),
            choice.draw(st.integers(0, 9)),
            choice.draw(st.sampled_from(["none", "block", "window", "global"])),
            choice.draw(st.integers(1, 20)),
            choice.draw(st.integers(1, 6)),
        )
        seen = []
        for parts in Loader(data, sampler, range(sampler.workers), threads=choice.draw(st.integers(1, 3))).batches(0):
            for part in parts:
                np.testing.assert_array_equal(part.x, values[part.rows])
                seen += part.rows.tolist()
        assert sorted(seen) == list(range(2 * ROWS))


@pytest.mark.parametrize("layout", ["contiguous", "chunks across rows", "lz4"])
def test_each_byte_of_a_shard_is_read_once_an_epoch(tmp_path, layout):
    write(tmp_path / "a.h5", **LAYOUTS[layout][1])
    for workers in (1, 2, 4):
        with open_shards(tmp_path / "a.h5", target=None) as data:
            sampler = Sampler(data.shard_rows, 12, workers, 7, block=8, window=2)
            list(Loader(data, sampler, range(workers), threads=1).batches(0))
            assert data.bytes_read == data.index.shards[0].stored("x").nbytes


@pytest.mark.parametrize("shuffle", ["none", "block", "window"])
@pytest.mark.parametrize("layout", [{}, {"chunks": (8, 3, 4)}, {"chunks": (8, 3, 4), "compression": "gzip"}])
def test_ranks_read_each_byte_of_features_and_short_targets_once_together(tmp_path, layout, shuffle):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).integers(0, 9, (64, 3, 4)).astype("<f4"), **layout)
        file["y"] = np.arange(64)
    read = 0
    for rank in range(4):  # batches of 32 give each worker whole chunks of 8
        with open_shards(tmp_path / "a.h5") as data:
            sampler = Sampler(data.shard_rows, 32, 4, 7, shuffle, block=8, window=2)
            for (batch,) in Loader(data, sampler, [rank], threads=2).batches(0):
                np.testing.assert_array_equal(batch.y, batch.rows)
            read += data.bytes_read
            whole = sum(stored.nbytes for _, stored in data.index.shards[0].fields)
    assert read == whole


@given(asked=st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, ROWS)), min_size=1, max_size=8))
def test_rows_of_a_short_field_are_right_in_any_order_and_never_read_again(once, asked):
    with open_shards(once, target=None) as data:
        for start, count in asked:
            stop = min(ROWS, start + count)
            np.testing.assert_array_equal(read(data, start, stop)[:, 0], np.arange(start, stop))
        read(data, 0, ROWS)
        before = data.bytes_read
        for start, count in asked:
            read(data, start, min(ROWS, start + count))
        assert data.bytes_read == before


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    path = tmp_path_factory.mktemp("short") / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(ROWS, dtype="<f4")[:, None]
    return path


@pytest.mark.parametrize("layout", ["contiguous", "chunks across rows", "lz4", "lzf"])
@pytest.mark.parametrize("here", [True, False])
def test_the_next_rows_are_announced_where_they_are_not_in_memory(tmp_path, monkeypatch, layout, here):
    write(tmp_path / "a.h5", **LAYOUTS[layout][1])
    told, whole = [], []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, offset, nbytes, advice: told.append((offset, offset + nbytes)))
    real = os.preadv

    def preadv(fd, buffers, offset, flags=0):
        if flags and not here:
            raise BlockingIOError
        return 1 if flags else real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with open_shards(tmp_path / "a.h5", target=None) as data:
        stored = data.index.shards[0].stored("x")
        seen = [part.rows for parts in Loader(data, Sampler([ROWS], 12, 2, 7, block=8, window=2), [0, 1]).batches(0) for part in parts]
        assert sorted(np.concatenate(seen).tolist()) == list(range(ROWS))
        data.announce(0, ROWS)
        whole = told[-1:]
        if here or stored.road == "library":
            assert not told
        else:
            assert sum(stop - start for start, stop in whole) == stored.nbytes
            assert all(whole[0][0] <= start < stop <= whole[0][1] for start, stop in told)


@pytest.mark.parametrize("here", [True, False])
def test_windows_in_memory_are_announced_seldom_and_others_whole(tmp_path, monkeypatch, here):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((640, 8), "<f4")
    announced = []
    monkeypatch.setattr(ShardedDataset, "announce", lambda self, start, stop: announced.append((start, stop)))
    monkeypatch.setattr(ShardedDataset, "hints", property(lambda self: 0 if here else len(announced)))
    with open_shards(tmp_path / "a.h5", target=None) as data:
        sampler = Sampler(data.shard_rows, 64, 1, 7, block=1, window=640, shuffle="block")
        runs = [(row, row + 1) for row in range(0, 640, 2)]
        ring = Ring(data, sampler, 0, np.dtype("f4"), 1)
        ring.begin(0, 0)
        ring._announce(group_pieces(runs, 640, lambda row: False)[0])
    assert announced[:8] == runs[:8]
    assert announced == (runs[:8] + runs[8::8] if here else runs)


def test_an_announcement_of_rows_that_cannot_be_read_leaves_the_error_to_the_read(tmp_path):
    write(tmp_path / "a.h5")
    with open_shards(tmp_path / "a.h5", target=None) as data:
        (tmp_path / "a.h5").unlink()
        data.announce(0, ROWS)
        with pytest.raises(ShardError, match="cannot be found"):
            read(data, 0, 1)


def test_long_rows_land_straight_in_their_places(tmp_path):
    values = np.random.default_rng(0).random((64, 2000)).astype("<f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values
    with open_shards(tmp_path / "a.h5", target=None) as data:
        for parts in Loader(data, Sampler([64], 9, 2, 7, block=4, window=3), [0, 1]).batches(0):
            for part in parts:
                np.testing.assert_array_equal(part.x, values[part.rows])
