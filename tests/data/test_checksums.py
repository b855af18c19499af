"""Rows that a manifest knows are the rows that were written, or an error: whatever bit flips, in whatever layout."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import Index, Loader, Sampler, ShardedDataset, find_shards, index_shards
from hpcml.data.checksums import with_checksums
from hpcml.data.ledger import Ledger, verdict
from hpcml.data.manifest import NAME, build_manifest, describe_file, find_manifest, write_json
from hpcml.data.sizing import choose_block
from hpcml.errors import DataError, ShardError

ROWS, WIDTH = 200, 6
VALUES = np.random.default_rng(3).integers(0, 100, (ROWS, WIDTH))
LAYOUTS = {
    "float32": ("<f4", {}),
    "big-endian float64": (">f8", {}),
    "uint8": ("u1", {}),
    "float16": ("<f2", {}),
    "bool": ("?", {}),
    "plain chunks": ("<f4", {"chunks": (16, WIDTH)}),
    "shuffled chunks": ("<f4", {"chunks": (16, WIDTH), "shuffle": True}),
    "chunks of columns": ("<i4", {"chunks": (16, 4)}),
    "HDF5's own pipeline": ("<i4", {"chunks": (16, WIDTH), "scaleoffset": 0}),
}


def write(folder, name="a.h5", dtype="<f4", **layout):
    with h5py.File(folder / name, "w") as file:
        file.create_dataset("x", data=VALUES.astype(dtype), **layout)
        file["group/y"] = np.arange(ROWS)
    return folder / name


def describe(folder):
    """Write the manifest of a folder, as `hpcml data verify --write` does."""
    write_json(folder / NAME, build_manifest({path.name: describe_file(path) for path in sorted(folder.glob("*.h5"))}))


def index(folder, **how):
    return with_checksums(index_shards(find_shards(folder / "*.h5"), "x", "/group/y", **how), required=True)


def flip(path, byte, bit):
    """Flip one bit and give the file its time back: damage that no look at the metadata finds."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ 1 << bit]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def extents(path):
    """Return (address, bytes) of everything that holds rows."""
    with h5py.File(path) as file:
        for item in (file["x"], file["group/y"]):
            if item.chunks is None:
                yield item.id.get_offset(), item.id.get_storage_size()
            else:
                yield from ((info.byte_offset, info.size) for info in map(item.id.get_chunk_info, range(item.id.get_num_chunks())))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_right_rows_pass_in_every_layout_and_are_looked_at_once(tmp_path, layout):
    dtype, options = LAYOUTS[layout]
    write(tmp_path, dtype=dtype, **options)
    describe(tmp_path)
    data = ShardedDataset(Index.from_json(index(tmp_path).to_json()))
    loader = Loader(data, Sampler(data.shard_rows, 23, 2, 7, block=32, window=2), [0, 1])
    read = []
    for epoch in range(3):
        before = data.bytes_read
        for parts in loader.batches(epoch):
            for batch in parts:
                assert batch.error is None
                np.testing.assert_array_equal(batch.x, VALUES[batch.rows].astype(dtype).astype("f4"))
                np.testing.assert_array_equal(batch.y, batch.rows)
        read.append(data.bytes_read - before)
    data.close()
    assert read[1] <= read[0] <= 3 * sum(nbytes for _, nbytes in extents(tmp_path / "a.h5"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return layout -> (its file, the index with checksums, its extents), each made once."""
    made = {}
    for layout, (dtype, options) in LAYOUTS.items():
        folder = tmp_path_factory.mktemp("checksums")
        path = write(folder, dtype=dtype, **options)
        describe(folder)
        made[layout] = path, index(folder), list(extents(path))
    return made


@given(data=st.data())
def test_a_flipped_bit_in_the_rows_is_always_found_before_its_rows_are_used(written, data):
    layout = data.draw(st.sampled_from(list(LAYOUTS)))
    path, known, places = written[layout]
    address, nbytes = data.draw(st.sampled_from(places))
    byte, bit = address + data.draw(st.integers(0, nbytes - 1)), data.draw(st.integers(0, 7))
    flip(path, byte, bit)
    try:
        errors = 0
        with ShardedDataset(known) as rows:
            for (batch,) in Loader(rows, Sampler(rows.shard_rows, 16, 1, 7, block=8, window=2), [0]).batches(0):
                errors += batch.error is not None
                if batch.error is None:
                    np.testing.assert_array_equal(batch.x, VALUES[batch.rows].astype(LAYOUTS[layout][0]).astype("f4"))
                    np.testing.assert_array_equal(batch.y, batch.rows)
        # A byte of a truth value is true whatever it is but 0; the padding of a last chunk, and of packed bits, holds no row.
        assert errors or layout not in ("float32", "big-endian float64", "uint8", "float16")
    finally:
        flip(path, byte, bit)


def test_wrong_rows_are_named_with_file_field_rows_and_address(tmp_path):
    path = write(tmp_path)
    describe(tmp_path)
    known = index(tmp_path)
    address, _ = next(extents(path))
    block = known.shards[0].stored("x").block
    flip(path, address + (3 * block + 1) * WIDTH * 4, 5)
    expected = rf"a\.h5: field 'x', rows {3 * block}:{4 * block} .*at address {address + 3 * block * WIDTH * 4} are not those of manifest"
    with ShardedDataset(known) as data:
        data.read(0, 3 * block, np.empty((3 * block, WIDTH), np.float32))
        for _ in range(2):
            with pytest.raises(ShardError, match=expected):
                data.read(3 * block, 4 * block, np.empty((block, WIDTH), np.float32))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_quarantine_leaves_wrong_rows_out_and_the_ledger_knows(tmp_path, workers):
    for name in ("a.h5", "b.h5"):
        write(tmp_path, name)
    describe(tmp_path)
    known = index(tmp_path)
    block = known.shards[1].stored("x").block
    flip(tmp_path / "b.h5", next(extents(tmp_path / "b.h5"))[0] + block * WIDTH * 4, 0)
    lost = set(range(ROWS + block, ROWS + 2 * block))
    with ShardedDataset(known) as data:
        loader = Loader(data, Sampler(data.shard_rows, 16, workers, 7, block=block, window=2), range(workers), quarantine=True)
        ledger, seen = Ledger(0, 2 * ROWS), []
        for parts in loader.batches(0):
            for batch in parts:
                ledger.add(batch.ids, len(batch.rows), batch.left_out)
                seen += batch.rows.tolist()
        assert set(seen) | lost == set(range(2 * ROWS))
        assert lost & set(seen) == set()
        assert verdict(ledger.vector(), 2 * ROWS, "epoch")["rows_left_out"] == 2 * ROWS - len(seen)
        assert "are not those of manifest.json" in loader.broken[1]


def test_scaled_numbers_are_checked_as_they_are_in_the_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = VALUES.astype("<i2")
        file["x"].attrs["scale_factor"], file["x"].attrs["add_offset"] = 0.5, 3.0
        file["group/y"] = np.arange(ROWS)
    describe(tmp_path)
    with ShardedDataset(index(tmp_path, cf=True)) as data:
        for _ in range(2):
            x = np.empty((ROWS, WIDTH), np.float32)
            data.read(0, ROWS, x)
            np.testing.assert_array_equal(x, VALUES * 0.5 + 3)
    flip(tmp_path / "a.h5", next(extents(tmp_path / "a.h5"))[0], 0)
    with ShardedDataset(index(tmp_path, cf=True)) as data, pytest.raises(ShardError, match="not those of manifest"):
        data.read(0, ROWS, x)


def test_what_blocks_of_the_loader_read_together_is_checked_without_another_read(tmp_path):
    rows = 4096
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.random.default_rng(0).random((rows, 3072), np.float32)
        file["group/y"] = np.repeat(np.arange(rows)[:, None], 3, axis=1)
    describe(tmp_path)
    known = index(tmp_path)
    with ShardedDataset(known) as data:
        for _ in Loader(data, Sampler(data.shard_rows, 64, 1, 7, block=choose_block(known), window=8), [0]).batches(0):
            pass
        assert data.bytes_read == rows * (3072 * 4 + 3 * 8)


def test_a_file_that_is_not_the_manifests_and_one_without_checksums_are_refused(tmp_path):
    path = write(tmp_path)
    bare = index_shards([path], "x", None)
    assert with_checksums(bare) == bare
    with pytest.raises(ShardError, match=r"a\.h5: has no checksums, there is no manifest\.json beside it; .*--write.*auto"):
        with_checksums(bare, required=True)
    describe(tmp_path)
    assert with_checksums(bare).shards[0].sha256 == find_manifest(tmp_path / NAME)["files"]["a.h5"]["sha256"]
    write(tmp_path, "new.h5")
    both = index_shards([path, tmp_path / "new.h5"], "x", None)
    assert not with_checksums(both).shards[1].stored("x").hashes
    with pytest.raises(ShardError, match=r"new\.h5: has no checksums, its manifest does not list it"):
        with_checksums(both, required=True)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ShardError, match=r"a\.h5: has \d+ bytes, its manifest\.json says \d+; `hpcml data verify` says what differs.*off"):
        with_checksums(index_shards([path], "x", None))


def test_other_programs_manifests_are_none_and_damaged_ones_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / NAME).write_text(json.dumps({"name": "a web page", "icons": []}))
    assert find_manifest(tmp_path / NAME) is None
    (tmp_path / NAME).write_text('{"hpcml_manifest": 1, "files": {"a.h5": {"byt')
    with pytest.raises(DataError, match=r"manifest\.json: is damaged .*--write"):
        index(tmp_path)
