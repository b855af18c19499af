"""Damaged files: never a crash, never a silent wrong row; and a quarantine that accounts for what it leaves out."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.dataset import ShardedDataset
from hpcml.data.ledger import Ledger, verdict
from hpcml.errors import DataError, ShardError

ROWS = 64
LAYOUTS = {
    "contiguous": {},
    "gzip with checksum": {"chunks": (8, 40), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf with checksum": {"chunks": (8, 40), "compression": "lzf", "fletcher32": True},
}


def write(path, **layout):
    values = np.random.default_rng(0).random((ROWS, 40)).astype("<f4")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, **layout)
        file["y"] = np.arange(ROWS)
    return values


def damage(path, field, chunk):
    """Overwrite the middle of a chunk, and give the file its time back: damage that no look at the metadata finds."""
    with h5py.File(path) as file:
        info = file[field].id.get_chunk_info(chunk)
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(info.byte_offset + info.size // 2)
        file.write(b"\xa5" * 8)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return info.byte_offset


@settings(max_examples=60)
@pytest.mark.parametrize("layout", ["gzip with checksum", "lzf with checksum"])
@given(data=st.data())
def test_flipped_bytes_and_cut_files_give_the_right_rows_or_an_error(tmp_path_factory, layout, data):
    path = tmp_path_factory.mktemp("fuzz") / "a.h5"
    values = write(path, **LAYOUTS[layout])
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunks = [file["x"].id.get_chunk_info(i) for i in range(ROWS // 8)]
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        chunk = data.draw(st.sampled_from(chunks))
        for _ in range(data.draw(st.integers(1, 3))):
            content[chunk.byte_offset + data.draw(st.integers(0, chunk.size - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    said = str(path)
    try:
        with open_shards(path) as shards:
            assert shards.x.shape == (40,)
            for (batch,) in Loader(shards, Sampler(shards.shard_rows, 16, 1, 7, block=8, window=2), [0]).batches(0):
                if batch.error is None:
                    np.testing.assert_array_equal(batch.x, values[batch.rows])
    except DataError as error:
        said = str(error)
    assert str(path) in said


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_metadata_never_ends_the_process(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "a.h5"
    write(path, **LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(4095, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    said = str(path)
    try:
        with open_shards(path) as shards:
            out = np.empty((1, *shards.x.shape), np.float64)
            if out.nbytes < 1 << 20:
                shards.read(0, 1, out)
    except DataError as error:
        said = str(error)
    assert str(path) in said


def test_a_corrupt_chunk_is_named_with_file_field_rows_and_address(tmp_path):
    write(tmp_path / "a.h5", **LAYOUTS["gzip with checksum"])
    index = open_shards(tmp_path / "a.h5").index
    address = damage(tmp_path / "a.h5", "x", 3)
    with ShardedDataset(index) as data, pytest.raises(ShardError, match=rf"a\.h5: field 'x', rows 20:30 .*address {address}"):
        data.read(20, 30, np.empty((10, 40), np.float32))


@pytest.fixture
def two_shards(tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.h5", **LAYOUTS["gzip with checksum"])
    index = open_shards(tmp_path / "*.h5").index
    damage(tmp_path / "1.h5", "x", 3)
    with ShardedDataset(index) as data:
        yield data


def test_by_default_batches_with_corrupt_rows_are_marked_and_the_others_whole(two_shards):
    marked = set()
    for (batch,) in Loader(two_shards, Sampler([ROWS] * 2, 16, 1, 7, "none"), [0]).batches(0):
        marked |= set(batch.rows.tolist()) if batch.error else set()
    assert set(range(ROWS + 24, ROWS + 32)) <= marked
    assert len(marked) < ROWS


@pytest.mark.parametrize("workers", [1, 3])
def test_a_quarantine_leaves_corrupt_rows_out_then_their_shard_and_the_ledger_knows(two_shards, workers):
    sampler = Sampler([ROWS] * 2, 16, workers, 7, block=8, window=2)
    loader = Loader(two_shards, sampler, range(workers), quarantine=True)
    for epoch, lost in ((0, set(range(ROWS + 24, ROWS + 32))), (1, set(range(ROWS, 2 * ROWS)))):
        ledger, seen = Ledger(0, 2 * ROWS), []
        for parts in loader.batches(epoch):
            for batch in parts:
                assert batch.error is None
                assert batch.x.shape[0] == batch.y.shape[0] == len(batch.rows)
                np.testing.assert_array_equal(batch.y, batch.rows % ROWS)
                ledger.add(batch.ids, len(batch.rows), batch.left_out)
                seen += batch.rows.tolist()
        assert sorted(seen) == sorted(set(range(2 * ROWS)) - lost)
        assert verdict(ledger.vector(), 2 * ROWS, "epoch")["rows_left_out"] == len(lost)
        loader.dead = loader.dead | set(loader.broken)
        assert loader.dead == {1}
