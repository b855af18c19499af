"""Rows of variable length that a manifest knows are the rows that were written, or an error: whatever bit flips, wherever a file ends."""

from __future__ import annotations

import contextlib

import h5py
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, ShardedDataset, index_shards
from hpcml.data.checksums import with_checksums
from hpcml.data.manifest import NAME, build_manifest, describe_file, find_manifest, write_json
from hpcml.data.variable import Packing
from hpcml.data.verification import check_file
from hpcml.errors import DataError, ShardError
from tests.data.test_checksums import describe, flip

ROWS, WIDTH = 90, 12
ROADS = {"contiguous": {}, "gzip": {"chunks": (64,), "compression": "gzip"}, "library": {"chunks": (64,), "compression": "lzf"}}
KINDS = ("X", "hits", "hits/mask")
RAGGED = Packing(pad_to=9)


def write(path, **layout):
    """Write sparse and ragged rows, and return what each field is in memory."""
    csr = scipy.sparse.random(ROWS, WIDTH, 0.3, format="csr", dtype=np.float32, random_state=5)
    lengths = np.random.default_rng(1).integers(0, 10, ROWS)
    values = np.arange(1.0, lengths.sum() + 1, dtype=np.float32)
    inside = np.arange(9) < lengths[:, None]
    padded = np.zeros((ROWS, 9), np.float32)
    padded[inside] = values
    with h5py.File(path, "w") as file:
        for key in ("data", "indices", "indptr"):
            file.create_dataset(f"X/{key}", data=getattr(csr, key), **layout)
        file["X"].attrs["shape"] = csr.shape
        file.create_dataset("hits/values", data=values, **layout)
        file.create_dataset("hits/offsets", data=np.concatenate([[0], np.cumsum(lengths)]), **layout)
        file["y"] = np.arange(ROWS)
    return {"X": csr.toarray(), "hits": padded, "hits/mask": inside.astype(np.float32)}


def index(path, field="X", required=True):
    return with_checksums(index_shards([path], field, "y", packing=Packing() if field == "X" else RAGGED), required=required)


def walk(known, truth):
    """Read an epoch through the loader, hold every batch without an error against the truth, and return the errors."""
    errors = []
    with ShardedDataset(known) as data:
        for (batch,) in Loader(data, Sampler(data.shard_rows, 16, 1, 7, block=8, window=2), [0]).batches(0):
            if batch.error is None:
                np.testing.assert_array_equal(batch.x, truth[batch.rows])
                np.testing.assert_array_equal(batch.y, batch.rows)
            else:
                errors.append(str(batch.error))
    return errors


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return road -> (file, truth, field -> index with checksums), each made once."""
    made = {}
    for road, layout in ROADS.items():
        folder = tmp_path_factory.mktemp("variable")
        truth = write(folder / "a.h5", **layout)
        describe(folder)
        made[road] = folder / "a.h5", truth, {field: index(folder / "a.h5", field) for field in KINDS}
    return made


@pytest.mark.parametrize("field", KINDS)
@pytest.mark.parametrize("road", ROADS)
def test_right_rows_pass_and_every_part_has_checksums(written, road, field):
    _, truth, known = written[road]
    assert all(part.hashes for _, part in known[field].shards[0].stored(field).parts)
    assert walk(known[field], truth[field]) == []


@given(data=st.data())
def test_no_flipped_bit_gives_another_row(written, data):
    path, truth, known = written[data.draw(st.sampled_from(list(ROADS)))]
    field = data.draw(st.sampled_from(KINDS))
    byte, bit = data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7))
    flip(path, byte, bit)
    try:
        with contextlib.suppress(ShardError):
            walk(known[field], truth[field])
    finally:
        flip(path, byte, bit)


@given(data=st.data())
def test_files_cut_short_or_damaged_before_they_are_indexed_are_refused_or_right(written, tmp_path_factory, data):
    path, truth, _ = written[data.draw(st.sampled_from(list(ROADS)))]
    field = data.draw(st.sampled_from(KINDS))
    raw = bytearray(path.read_bytes())
    known = data.draw(st.booleans())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for byte in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
            raw[byte] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "a.h5").write_bytes(raw)
    with contextlib.suppress(DataError):
        if known:
            (folder / NAME).write_bytes(path.with_name(NAME).read_bytes())
            walk(index(folder / "a.h5", field), truth[field])
        else:  # numbers may be others, which nothing tells, but nothing crashes
            with ShardedDataset(index(folder / "a.h5", field, required=False)) as rows:
                for _ in Loader(rows, Sampler(rows.shard_rows, 16, 1, 7, block=8, window=2), [0]).batches(0):
                    pass


def test_wrong_entries_are_named_with_file_field_rows_data_set_and_address(tmp_path):
    truth = write(tmp_path / "a.h5")
    describe(tmp_path)
    known = index(tmp_path / "a.h5")
    block = dict(known.shards[0].stored("X").parts)["X/indices"].block
    with h5py.File(tmp_path / "a.h5") as file:
        address = file["X/indices"].id.get_offset()
    flip(tmp_path / "a.h5", address + 4 * block, 1)
    (error, *_) = walk(known, truth["X"])
    expected = f"'X/indices', entries {block}:{2 * block} at address {address + 4 * block} are not those of manifest.json"
    assert "a.h5: field 'X', rows " in error
    assert expected in error
    problems = check_file(tmp_path / "a.h5", None, find_manifest(tmp_path / NAME)["files"]["a.h5"]).problems
    assert f"data set 'X/indices', entries {block}:{2 * block}, is not that of the manifest" in "\n".join(problems)


def test_rows_under_names_of_the_users_own_are_checked_too(tmp_path):
    csr = scipy.sparse.random(20, 6, 0.5, format="csr", dtype=np.float32, random_state=2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["m/v"], file["m/c"], file["m/s"], file["y"] = csr.data, csr.indices, csr.indptr, np.arange(20)
    describe(tmp_path)
    known = with_checksums(index_shards([tmp_path / "a.h5"], "m", "y", packing=Packing(sparse=("v", "c", "s"), pad_to=6)), required=True)
    assert walk(known, csr.toarray()) == []
    with h5py.File(tmp_path / "a.h5") as file:
        address = file["m/v"].id.get_offset()
    flip(tmp_path / "a.h5", address + 9, 3)
    assert any("'m/v', entries" in error for error in walk(known, csr.toarray()))


def test_a_manifest_from_before_is_none_for_them_and_refused_where_required(tmp_path):
    write(tmp_path / "a.h5")
    entry = describe_file(tmp_path / "a.h5")
    del entry["others"]
    write_json(tmp_path / NAME, build_manifest({"a.h5": entry}))
    assert not any(part.hashes for _, part in index(tmp_path / "a.h5", required=False).shards[0].stored("X").parts)
    with pytest.raises(ShardError, match=r"a\.h5: field 'X/indptr' has no checksums in manifest\.json; .*--write"):
        index(tmp_path / "a.h5")


@pytest.mark.parametrize("road", ["contiguous", "gzip"])
def test_entries_are_held_against_their_checksums_and_read_once_in_the_first_epoch_as_in_others(tmp_path, road):
    write(tmp_path / "a.h5", **ROADS[road])
    describe(tmp_path)
    known = index(tmp_path / "a.h5")
    held = sum(part.nbytes for _, stored in known.shards[0].fields for part in (dict(stored.parts).values() or [stored]))
    with ShardedDataset(known) as data:
        loader, read = Loader(data, Sampler(data.shard_rows, 16, 1, 7, block=8, window=2), [0]), []
        for epoch in range(3):
            before = data.bytes_read
            for _ in loader.batches(epoch):
                pass
            read.append(data.bytes_read - before)
    assert read[0] == held
    assert read[1] == read[2] < held
