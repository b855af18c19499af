"""Sparse and ragged rows are written anew, split and counted as other rows are: each once, bit for bit, for any number of ranks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data import open_shards
from hpcml.data.layout import Layout, parse_layout
from hpcml.data.packed import Packed, read_packed
from hpcml.data.rowsum import row_hashes
from hpcml.data.variable import RAGGED, SPARSE, Packing
from hpcml.datasets import rewriting
from hpcml.datasets.checking import statistics, verify, write_manifest
from hpcml.datasets.dealing import open_all
from hpcml.datasets.rewriting import Wish, reshard, split
from hpcml.errors import DataError
from tests.datasets.conftest import quiet

ROWS, WIDTH = (40, 25), 14


def write(folder, shape="attribute", indices=np.int32):
    """Write two shards of sparse and ragged rows, and return them as dense x, padded hits, and y."""
    folder.mkdir()
    dense, padded = [], []
    for number, rows in enumerate(ROWS):
        csr = scipy.sparse.random(rows, WIDTH, 0.25, format="csr", dtype=np.float32, random_state=number)
        lengths = np.random.default_rng(number).integers(0, 6, rows)
        values = np.random.default_rng(number).integers(1, 100, (lengths.sum(), 2)).astype(np.int16)
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["X/data"], file["X/indices"], file["X/indptr"] = csr.data, csr.indices.astype(indices), csr.indptr
            file["X"].attrs["encoding-type"] = "csr_matrix"
            if shape == "attribute":
                file["X"].attrs["shape"] = csr.shape
            else:
                file["X/shape"] = csr.shape if shape == "data set" else csr.shape[::-1]
            file["hits/values"], file["hits/offsets"] = values, np.concatenate([[0], np.cumsum(lengths)])
            file["y"] = np.arange(rows) + 100 * number
            file["scale"] = 2.5
        out = np.zeros((rows, 5, 2), np.float32)
        out[np.arange(5) < lengths[:, None]] = values
        dense.append(csr.toarray())
        padded.append(out)
    y = np.concatenate([np.arange(rows) + 100 * number for number, rows in enumerate(ROWS)])
    return np.concatenate(dense), np.concatenate(padded), y


def read(pattern):
    """Return dense x, padded hits, and y, as training would see them."""
    made = []
    for field in ("X", "hits"):
        with open_shards(str(pattern), field, "y", packing=Packing(pad_to=0 if field == "X" else 5)) as data:
            x, y = np.empty((data.rows, *data.x.shape), np.float32), np.empty(data.rows, np.int64)
            data.read(0, data.rows, x, y)
            made.append(x)
    return *made, y


@pytest.fixture
def resharded(world, tmp_path):
    def run(name, wish, ranks=1):
        return world(ranks, lambda comm: reshard(open_all(str(tmp_path / "in/*.h5"), None, comm), tmp_path / name, wish, comm, quiet))[0]

    return run


@pytest.mark.parametrize("shape", ["attribute", "data set", "reversed"])
@pytest.mark.parametrize("wish", [Wish(files=3), Wish(rows=7, layout=parse_layout("shuffle+gzip:1", 8)), Wish(rows=70, layout=Layout(4))])
def test_the_rows_stay_as_they_are_in_their_order(resharded, tmp_path, shape, wish):
    truth = write(tmp_path / "in", shape)
    resharded("out", wish)
    for found, expected in zip(read(tmp_path / "out/*.h5"), truth, strict=True):
        np.testing.assert_array_equal(found, expected)
    with h5py.File(tmp_path / "out/part-00000.h5") as file:
        assert file["X"].attrs["encoding-type"] == "csr_matrix"
        assert file["X/data"].dtype == np.float32
        assert file["X/indices"].dtype == np.int32
        rows = file["y"].shape[0]
        told = file["X"].attrs["shape"] if shape == "attribute" else file["X/shape"][()]
        assert sorted(told.tolist()) == sorted((rows, WIDTH))


@pytest.mark.parametrize("unit_bytes", [1, 900, 1 << 27])
def test_a_shuffle_moves_whole_rows(resharded, tmp_path, monkeypatch, unit_bytes):
    truth = write(tmp_path / "in")
    monkeypatch.setattr(rewriting, "UNIT_BYTES", unit_bytes)
    resharded("out", Wish(files=3, seed=7))
    order = rewriting.shuffled(sum(ROWS), 7)
    for found, expected in zip(read(tmp_path / "out/*.h5"), truth, strict=True):
        np.testing.assert_array_equal(found, expected[order])


@pytest.mark.parametrize("wish", [Wish(files=5), Wish(rows=9, layout=Layout(4, "gzip"), seed=3)])
def test_any_number_of_ranks_writes_the_same_bytes(resharded, contents, tmp_path, wish):
    write(tmp_path / "in")
    made = []
    for ranks in (1, 2, 3, 4):
        resharded(str(ranks), wish, ranks)
        made.append(contents(tmp_path / str(ranks)))
    assert made[0] == made[1] == made[2] == made[3]


def test_what_was_finished_is_kept(resharded, contents, tmp_path, interrupted):
    write(tmp_path / "in")
    resharded("whole", Wish(files=4))
    calls = interrupted()
    with pytest.raises(DataError, match="power"):
        resharded("out", Wish(files=4))
    assert not list((tmp_path / "out").glob("*.h5"))
    resharded("out", Wish(files=4), 2)
    assert len(calls) == 3 + 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_entry_that_changes_on_the_way_is_never_published(resharded, tmp_path, monkeypatch):
    class Careless(rewriting.RowWriter):
        def write(self, start, arrays):
            hits = arrays["hits"].copy()
            hits[0] = bytes(len(hits[0]))
            super().write(start, {**arrays, "hits": hits})

    write(tmp_path / "in")
    monkeypatch.setattr(rewriting, "RowWriter", Careless)
    with pytest.raises(DataError, match="rows before and after differ"):
        resharded("out", Wish(files=2))
    assert list((tmp_path / "out").glob("*.h5")) == []


def test_a_split_gives_each_row_to_one_part(world, tmp_path):
    x, hits, y = write(tmp_path / "in")

    def program(comm):
        opened = open_all(str(tmp_path / "in/*.h5"), None, comm)
        split(opened, tmp_path / "out", {"train": 0.8, "test": 0.2}, None, None, Wish(rows=20, seed=1), 3, comm, quiet)

    world(2, program)
    found = [np.concatenate(parts) for parts in zip(*(read(tmp_path / f"out/{part}-*.h5") for part in ("train", "test")), strict=True)]
    order = np.argsort(found[2])
    for got, expected in zip(found, (x, hits, y), strict=True):
        np.testing.assert_array_equal(got[order], expected)
    with pytest.raises(DataError, match="'X' has rows of variable length; classes and groups are one value a row"):
        world(2, lambda comm: rewriting.read_codes(open_all(str(tmp_path / "in/*.h5"), None, comm), "X"))


def test_verify_and_stats_know_them_for_any_number_of_ranks(world, tmp_path):
    x, hits, _ = write(tmp_path / "in")
    pattern = str(tmp_path / "in/*.h5")
    write_path = world(2, lambda comm: write_manifest(pattern, None, comm, quiet))[0]
    assert Path(write_path).exists()
    assert world(3, lambda comm: verify(pattern, comm, quiet))[0].problems == []
    made = [world(ranks, lambda comm: statistics(open_all(pattern, None, comm), comm, quiet))[0] for ranks in (1, 2, 3)]
    assert made[0] == made[1] == made[2]
    fields = made[0]["fields"]
    assert fields["X"]["dtype"] == f"sparse float32 of {WIDTH} columns"
    np.testing.assert_allclose(fields["X"]["mean"], x[x != 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(fields["hits"]["columns"]["mean"], hits[hits[..., 0] != 0].mean(axis=0), rtol=1e-6)


def test_a_file_of_nothing_but_sparse_rows_at_its_root_is_one_too(world, tmp_path):
    csr = scipy.sparse.random(30, 8, 0.4, format="csr", dtype=np.float64, random_state=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["indices"], file["indptr"] = csr.data, csr.indices, csr.indptr
        file.attrs["shape"] = csr.shape
    world(2, lambda comm: reshard(open_all(str(tmp_path / "a.h5"), None, comm), tmp_path / "out", Wish(files=2), comm, quiet))
    with open_shards(str(tmp_path / "out/*.h5"), "/", None) as data:
        x = np.empty((30, 8))
        data.read(0, 30, x)
    np.testing.assert_array_equal(x, csr.toarray())
    assert world(1, lambda comm: verify(str(tmp_path / "out/*.h5"), comm, quiet))[0].problems == []


NAMED = Packing(sparse=("v", "deep/c", "s"), ragged=("w", "o"))


def test_rows_under_other_names_are_those_under_the_usual_ones(world, tmp_path, contents):
    write(tmp_path / "in", indices=np.int64)
    pattern, wish = str(tmp_path / "in/*.h5"), Wish(files=2, seed=3)
    truth = world(2, lambda comm: reshard(open_all(pattern, None, comm), tmp_path / "usual", wish, comm, quiet))
    usual = {"X": (SPARSE, NAMED.sparse), "hits": (RAGGED, NAMED.ragged)}
    for path in (tmp_path / "in").iterdir():
        with h5py.File(path, "a") as file:
            for field, (names, others) in usual.items():
                for old, new in zip(names, others, strict=True):
                    file.move(f"{field}/{old}", f"{field}/{new}")

    def program(comm):
        opened = open_all(pattern, None, comm, NAMED)
        made = reshard(opened, tmp_path / f"named-{comm.size}", wish, comm, quiet)
        return made.total.plain(), statistics(opened, comm, quiet)["fields"]["hits"]["mean"]

    found = [world(ranks, program)[0] for ranks in (1, 3)]
    assert found[0] == found[1]
    assert found[0][0] == truth[0].total.plain()
    assert contents(tmp_path / "named-1") == contents(tmp_path / "named-3")
    for path in (tmp_path / "named-1").glob("*.h5"):
        with h5py.File(path) as file, h5py.File(tmp_path / "usual" / path.name) as other:
            for field, (names, others) in usual.items():
                for old, new in zip(names, others, strict=True):
                    np.testing.assert_array_equal(file[f"{field}/{new}"][:], other[f"{field}/{old}"][:])
    assert world(2, lambda comm: verify(str(tmp_path / "named-1/*.h5"), comm, quiet, packing=NAMED))[0].problems == []


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=st.integers(0, 99), wide=st.booleans(), big=st.booleans())
def test_a_row_has_the_same_bytes_in_any_place_order_and_dtype_of_columns(tmp_path_factory, lengths, seed, wide, big):
    random = np.random.default_rng(seed)
    entries, columns = random.random((sum(lengths), 2), np.float32), random.integers(0, 9, sum(lengths))
    edges = np.concatenate([[0], np.cumsum(lengths)])
    path = tmp_path_factory.mktemp("packed") / "a.h5"
    with h5py.File(path, "w") as file:
        file["data"], file["indptr"] = entries.astype(">f4" if big else "<f4"), edges
        file["indices"] = columns.astype(np.int64 if wide else np.uint8)
        rows = np.concatenate([read_packed(file, i, i + 1, SPARSE) for i in range(len(lengths))])
        np.testing.assert_array_equal(rows, read_packed(file, 0, len(lengths), SPARSE))
    expected = [entries[a:b].tobytes() + columns[a:b].tobytes() for a, b in pairwise(edges)]
    assert rows.tolist() == expected
    packed = Packed(("data", "indices", "indptr"), ("<f4", "<i8", "<i8"), (2,), 9, 1)
    np.testing.assert_array_equal(packed.lengths(rows), lengths)
    np.testing.assert_array_equal(packed.entries(rows), entries)
    np.testing.assert_array_equal(packed.columns_of(rows), columns)
    turned = random.permutation(len(lengths))
    np.testing.assert_array_equal(row_hashes("X", rows[turned]), row_hashes("X", rows)[turned])


def test_verify_names_columns_outside_a_row(world, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X/data"], file["X/indptr"], file["X/indices"] = np.ones(3), np.array([0, 1, 3]), np.array([0, 4, 2])
        file["X"].attrs["shape"] = (2, 4)
    (problem,) = world(1, lambda comm: verify(str(tmp_path / "a.h5"), comm, quiet))[0].problems
    assert "field 'X/indices' is outside 0:3 in 1 row: 1" in problem


def test_columns_that_the_first_shards_dtype_cannot_hold_are_refused(world, tmp_path):
    for number, (dtype, column) in enumerate(((np.uint8, 3), (np.int64, 300))):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["X/data"], file["X/indptr"], file["y"] = np.ones(2), np.array([0, 1, 2]), np.arange(2)
            file["X/indices"] = np.array([0, column], dtype)
            file["X"].attrs["shape"] = (2, 400)
    with pytest.raises(DataError, match="'X': column 300 does not fit uint8"):
        world(2, lambda comm: reshard(open_all(str(tmp_path / "?.h5"), None, comm), tmp_path / "out", Wish(files=2), comm, quiet))
