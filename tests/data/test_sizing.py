"""Blocks and windows are chosen by bytes: good reads, whole chunks, within the memory given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.index import Field, Index, Shard
from hpcml.data.sizing import READ_BYTES, amplification, choose_block, fit_window, parse_bytes, row_bytes
from hpcml.data.storage import Stored
from hpcml.errors import ConfigError


def index(rows, width, chunk=1):
    stored = Stored("chunked", "", "<f4", chunk=(chunk, width)) if chunk > 1 else Stored("contiguous", "", "<f4")
    return Index(Field("x", (width,), "float32"), Field("y", (), "int64"), (Shard("a.h5", rows, 1, 1, (("x", stored),)),))


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.integers(1, 500))
def test_blocks_are_whole_chunks_of_at_most_one_good_read(rows, width, chunk):
    block = choose_block(index(rows, width, chunk))
    assert block % chunk == 0
    assert block >= 32
    assert block < 32 + chunk or (block - chunk) * width * 4 <= READ_BYTES


def test_small_data_keep_the_blocks_they_had():
    assert choose_block(index(1438, 64)) == 32
    assert choose_block(index(73_728, 3072)) == 32
    assert choose_block(index(10**6, 3072)) == 64
    assert choose_block(index(10**9, 64)) == 4096


@pytest.mark.parametrize(
    ("text", "value"), [("2GB", 2 * 10**9), ("512 MiB", 512 << 20), ("1.5kb", 1500), ("1000", 1000), ("64B", 64), ("1 tib", 1 << 40)]
)
def test_bytes_are_read_as_people_write_them(text, value):
    assert parse_bytes(text, "data.memory") == value


@pytest.mark.parametrize("text", ["", "much", "2 GB of it", "-1GB", "GB"])
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError, match=r"data\.memory"):
        parse_bytes(text, "data.memory")


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 64), st.integers(1, 40))
def test_a_window_that_fits_keeps_the_loader_within_its_memory(make_bound, window, block, batch, kilobytes):
    data, memory = make_bound, kilobytes * 1000
    bytes_a_row = row_bytes(data.index, 4)
    batch = min(batch, data.rows)
    try:
        fitted = fit_window(window, block, batch, 2, bytes_a_row, memory)
    except ConfigError:
        assert memory < (2 * block + 5 * batch + 1) * bytes_a_row
        return
    assert 1 <= fitted <= window
    grain = 16 * bytes_a_row * (2 * -(-fitted * block // batch) + 3)  # what it costs that batches begin on cache lines
    assert Loader(data, Sampler(data.shard_rows, batch, 1, 7, block=block, window=fitted), [0]).nbytes <= memory + grain


@pytest.fixture(scope="module")
def make_bound(tmp_path_factory):
    import h5py
    import numpy as np

    path = tmp_path_factory.mktemp("bound") / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.ones((3000, 5), "f4"), np.ones(3000, int)
    with open_shards(path) as data:
        yield data


def test_amplification_is_one_where_blocks_are_chunks_and_grows_where_they_are_not():
    assert amplification(index(10**6, 4, 64), 64, "window", 4096) == 1
    assert amplification(index(10**6, 4), 32, "global", 4096) == 1
    assert 1.9 < amplification(index(10**6, 4, 64), 32, "window", 4096) <= 2
    assert 60 < amplification(index(10**6, 4, 64), 32, "global", 4096) <= 64
