"""Resharding and splitting keep every row once, whatever the ranks; nothing appears before the proof."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcml.comm.alone import Alone
from hpcml.data import gathering
from hpcml.data.index import Shard
from hpcml.data.layout import Layout, parse_layout
from hpcml.data.manifest import load_manifest
from hpcml.data.verification import Range
from hpcml.datasets import rewriting
from hpcml.datasets.checking import statistics, verify
from hpcml.datasets.dealing import open_all
from hpcml.datasets.rewriting import Wish, reshard, split
from hpcml.errors import ConfigError, DataError, HpcmlError
from tests.datasets.conftest import quiet

FIELDS = ("x", "y", "deep/id", "name")


@pytest.fixture
def resharded(world, shards):
    def run(goal, wish, ranks=1, pattern=shards):
        return world(ranks, lambda comm: reshard(open_all(pattern, None, comm), Path(goal), wish, comm, quiet))[0]

    return run


@pytest.mark.parametrize("wish", [Wish(files=4), Wish(rows=30), Wish(files=7, layout=parse_layout("shuffle+gzip:1", 8))])
def test_the_order_of_rows_and_every_field_are_kept(resharded, shards, rows_of, tmp_path, wish):
    resharded(tmp_path / "out", wish)
    for old, new in zip(rows_of(shards, *FIELDS), rows_of(tmp_path / "out" / "*.h5", *FIELDS), strict=True):
        np.testing.assert_array_equal(old, new)
    sizes = [entry["rows"] for entry in load_manifest(tmp_path / "out" / "manifest.json")["files"].values()]
    assert sizes == ([30, 30, 30, 10] if wish.rows else [100 * (i + 1) // wish.files - 100 * i // wish.files for i in range(wish.files)])


def test_attributes_groups_dtypes_and_what_has_no_rows_are_kept(resharded, tmp_path):
    resharded(tmp_path / "out", Wish(files=2, seed=1))
    with h5py.File(tmp_path / "out" / "part-00001.h5") as file:
        assert file.attrs["origin"] == "here"
        assert file["x"].attrs["units"] == "K"
        assert file["deep"].attrs["note"] == "a group"
        assert file["scale"][()] == 2.5
        assert file["y"].dtype == np.int16
        assert file["x"].chunks is None


def test_rows_behind_links_become_rows_and_other_names_stay_names(resharded, world, tmp_path):
    x, y = np.arange(12, dtype="<f4").reshape(6, 2), np.arange(6)
    (tmp_path / "links").mkdir()
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["run/x"] = x
    with h5py.File(tmp_path / "links" / "a.h5", "w") as file:
        file["y"], file["labels/soft"], file["far"] = y, h5py.SoftLink("/y"), h5py.ExternalLink("../rows.h5", "run")
    pattern = str(tmp_path / "links" / "a.h5")
    resharded(tmp_path / "out", Wish(files=1, seed=1), pattern=pattern)
    order = gathering.shuffled(6, 1)
    with h5py.File(tmp_path / "out" / "part-00000.h5") as file:
        np.testing.assert_array_equal(file["far/x"][:], x[order])
        np.testing.assert_array_equal(file["labels/soft"][:], y[order])
        assert file.get("labels/soft", getlink=True).path == "/y"
        assert isinstance(file["far"].get("x", getlink=True), h5py.HardLink)
    shares, opened = {"a": 0.5, "b": 0.5}, open_all(pattern, "labels/soft", Alone())
    made = split(opened, tmp_path / "parts", shares, "labels/soft", None, Wish(), 0, Alone(), quiet)
    assert made.total.rows == 6
    assert statistics(opened, Alone(), quiet)["fields"]["far/x"]["max"] == 11
    problems = verify(pattern, Alone(), quiet, ranges=[Range("far/x", 0, 10), Range("labels/soft", 0, 9)]).problems
    assert problems == [f"{pattern}: field 'far/x' is outside 0:10 in 1 row: 5"]


def test_small_files_are_summed_together_and_large_ones_alone(monkeypatch):
    monkeypatch.setattr(rewriting, "BUNDLE_FILES", 3)
    monkeypatch.setattr(rewriting, "BUNDLE_BYTES", 10)
    sizes = [1, 1, 1, 1, 20, 6, 4, 1]
    bundles = rewriting._bundled([Shard(str(i), 1, size, 0) for i, size in enumerate(sizes)])
    assert [[shard.size for shard in bundle] for bundle in bundles] == [[1, 1, 1], [1], [20], [6, 4], [1]]


@pytest.mark.parametrize("unit_bytes", [1, 700, 1 << 27])
def test_a_shuffle_is_a_permutation_of_whole_rows(resharded, shards, rows_of, tmp_path, monkeypatch, unit_bytes):
    monkeypatch.setattr(rewriting, "UNIT_BYTES", unit_bytes)
    resharded(tmp_path / "out", Wish(files=3, seed=7))
    x, y, group, name = rows_of(tmp_path / "out" / "*.h5", *FIELDS)
    order = gathering.shuffled(100, 7)
    np.testing.assert_array_equal(x[:, 0], order)
    np.testing.assert_array_equal(y, order * 7 % 10)
    np.testing.assert_array_equal(group, order // 4)
    assert name.tolist() == [b"row %d" % row for row in order]


@pytest.mark.parametrize("wish", [Wish(files=5), Wish(rows=23, layout=Layout(4, "lzf"), seed=3)])
def test_any_number_of_ranks_writes_the_same_bytes(resharded, contents, tmp_path, monkeypatch, wish):
    monkeypatch.setattr(rewriting, "UNIT_BYTES", 900)
    made = []
    for ranks in (1, 2, 3, 4):
        resharded(tmp_path / str(ranks), wish, ranks)
        made.append(contents(tmp_path / str(ranks)))
    assert made[0] == made[1] == made[2] == made[3]
    assert not any(name.startswith(".") for name in made[0])


def test_what_was_finished_is_kept_and_a_finished_set_is_not_made_again(resharded, contents, tmp_path, interrupted):
    resharded(tmp_path / "whole", Wish(files=6))
    calls = interrupted()
    with pytest.raises(DataError, match="power"):
        resharded(tmp_path / "out", Wish(files=6))
    assert not list((tmp_path / "out").glob("*"))[1:]
    made = resharded(tmp_path / "out", Wish(files=6), ranks=2)
    assert len(calls) == 3 + 4
    assert not made.before
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    again = resharded(tmp_path / "out", Wish(files=6))
    assert again.before
    assert again.total.plain() == made.total.plain()
    assert len(calls) == 7


def test_rows_that_changed_on_the_way_are_never_published(resharded, tmp_path, monkeypatch):
    class Careless(rewriting.RowWriter):
        def write(self, start, arrays):
            super().write(start, {**arrays, "y": arrays["y"] * 0})

    monkeypatch.setattr(rewriting, "RowWriter", Careless)
    with pytest.raises(DataError, match="rows before and after differ"):
        resharded(tmp_path / "out", Wish(files=2))
    assert list((tmp_path / "out").glob("*.h5")) == []


def test_more_files_than_rows_and_other_work_in_the_folder_are_refused(resharded, tmp_path):
    with pytest.raises(ConfigError, match="101 files for 100 rows"):
        resharded(tmp_path / "out", Wish(files=101))
    resharded(tmp_path / "out", Wish(files=2))
    with pytest.raises(DataError, match="already holds a finished set"):
        resharded(tmp_path / "out", Wish(files=3))


def test_a_damaged_input_is_named_on_every_rank(resharded, shards, tmp_path):
    path = tmp_path / "in" / "a-2.h5"
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(2)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + 8] = bytes(8)
    path.write_bytes(raw)
    with pytest.raises(HpcmlError, match=r"a-2\.h5: field 'x', rows"):
        resharded(tmp_path / "out", Wish(files=2), 3)
    assert list((tmp_path / "out").glob("*.h5")) == []


def test_a_data_set_whose_length_is_a_shards_by_chance_is_still_common(world, tmp_path, rows_of):
    for i, rows in enumerate((6, 4)):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["x"], file["y"], file["axis"] = np.arange(rows * 2.0).reshape(rows, 2), np.arange(rows), np.arange(4.0)
    world(2, lambda comm: reshard(open_all(str(tmp_path / "?.h5"), None, comm), tmp_path / "out", Wish(rows=4, seed=0), comm, quiet))
    (axis,) = rows_of(tmp_path / "out" / "part-00000.h5", "axis")
    np.testing.assert_array_equal(axis, np.arange(4.0))


def parts(pattern, shares, goal, world, ranks=1, **options):
    keys = {"by": None, "group": None, "wish": Wish(rows=20), "seed": 5} | options

    def program(comm):
        opened = open_all(pattern, None, comm)
        return split(opened, Path(goal), shares, keys["by"], keys["group"], keys["wish"], keys["seed"], comm, quiet)

    return world(ranks, program)[0]


SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


@pytest.mark.parametrize("wish", [Wish(rows=20), Wish(rows=20, seed=5)])
def test_each_row_goes_to_one_part_whole(shards, world, rows_of, tmp_path, wish):
    parts(shards, SHARES, tmp_path / "out", world, by="y", wish=wish)
    found = {part: rows_of(tmp_path / "out" / f"{part}-*.h5", *FIELDS) for part in SHARES}
    assert [len(found[part][0]) for part in SHARES] == [70, 20, 10]
    ids = np.concatenate([values[0][:, 0] for values in found.values()])
    assert sorted(ids) == list(range(100))
    for x, y, group, name in found.values():
        np.testing.assert_array_equal(y, x[:, 0].astype(int) * 7 % 10)
        np.testing.assert_array_equal(group, x[:, 0].astype(int) // 4)
        assert name.tolist() == [b"row %d" % row for row in x[:, 0]]
        assert (np.diff(x[:, 0]) > 0).all() == (wish.seed is None)
    assert np.bincount(found["test"][1], minlength=10).tolist() == [1] * 10


def test_groups_of_numbers_or_text_stay_together(shards, world, rows_of, tmp_path):
    parts(shards, {"train": 0.5, "test": 0.5}, tmp_path / "out", world, group="deep/id")
    train, test = (set(rows_of(tmp_path / "out" / f"{part}-*.h5", "deep/id")[0]) for part in ("train", "test"))
    assert not train & test
    assert len(train | test) == 25
    parts(shards, {"train": 0.5, "test": 0.5}, tmp_path / "named", world, group="name")


def test_any_number_of_ranks_splits_alike(shards, world, contents, tmp_path):
    made = []
    for ranks in (1, 2, 3):
        parts(shards, SHARES, tmp_path / str(ranks), world, ranks, by="y", group="deep/id")
        made.append(contents(tmp_path / str(ranks)))
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"by": "labels"}, "'labels' is absent"), ({"by": "deep/idd"}, "did you mean 'deep/id'"), ({"group": "x"}, "one value a row")],
)
def test_a_field_that_cannot_be_split_by_is_refused(shards, world, tmp_path, options, words):
    with pytest.raises(DataError, match=words):
        parts(shards, SHARES, tmp_path / "out", world, 2, **options)


def test_what_was_written_is_found_right(resharded, world, tmp_path):
    resharded(tmp_path / "out", Wish(files=3, seed=0))
    report = world(2, lambda comm: verify(str(tmp_path / "out" / "*.h5"), comm, quiet))[1]
    assert report.problems == []
    assert report.manifest == str(tmp_path / "out" / "manifest.json")
