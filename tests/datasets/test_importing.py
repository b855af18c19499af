"""An import writes the same bytes for any number of ranks, whole or not at all, and goes on where it was killed."""

from __future__ import annotations

import gzip
import struct

import h5py
import numpy as np
import pytest

from hpcml.data import gathering
from hpcml.data.importers import Options, csvfile, ranges
from hpcml.data.layout import parse_layout
from hpcml.datasets import importing
from hpcml.datasets.importing import import_sources
from hpcml.datasets.rewriting import Wish
from hpcml.errors import DataError
from tests.datasets.conftest import quiet

THIRTY = Wish(rows=30)


@pytest.fixture
def imported(world):
    def run(sources, goal, wish=THIRTY, ranks=1, **options):
        return world(ranks, lambda comm: import_sources(list(map(str, sources)), Options(**options), goal, wish, comm, quiet))[0]

    return run


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    for i, rows in enumerate((50, 3, 80)):
        values = rng.normal(size=(rows, 3)).astype(np.float32)
        lines = [f"{a!r},{b!r},{c!r},{['no', 'yes'][n % 2]}" for n, (a, b, c) in enumerate(values.tolist())]
        (tmp_path / f"t-{i}.csv").write_text("\n".join(["a,b,c,ok", *lines, ""]))
    return tmp_path / "t-*.csv"


def test_rows_are_those_of_the_tables_in_order(imported, tables, rows_of, tmp_path):
    imported([tables], tmp_path / "out", label="ok")
    x, y = rows_of(tmp_path / "out" / "*.h5", "x", "y")
    truth = np.concatenate([np.loadtxt(tmp_path / f"t-{i}.csv", delimiter=",", skiprows=1, usecols=(0, 1, 2), ndmin=2) for i in range(3)])
    np.testing.assert_array_equal(x, truth.astype(np.float32))
    assert y.tolist() == [n % 2 for rows in (50, 3, 80) for n in range(rows)]
    with h5py.File(tmp_path / "out" / "part-00000.h5") as file:
        assert list(file["y"].attrs["classes"]) == ["no", "yes"]
        assert list(file["x"].attrs["columns"]) == ["a", "b", "c"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_refused_import_leaves_nothing_behind(imported, tmp_path, ranks):
    (tmp_path / "t.csv").write_text("a,ok\n1.5,yes\nword,no\n")
    (tmp_path / "mine").mkdir()
    for goal in ("new", "mine"):
        with pytest.raises(DataError, match=r"t\.csv: line 3"):
            imported([tmp_path / "t.csv"], tmp_path / goal, ranks=ranks, label="ok")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "t.csv"]
    assert not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("codec", ["none", "shuffle+gzip"])
def test_any_number_of_ranks_writes_the_same_bytes(imported, tables, contents, tmp_path, monkeypatch, codec):
    monkeypatch.setattr(csvfile, "BATCH", 16)
    monkeypatch.setattr(gathering, "BLOCK_BYTES", 100)
    made = []
    for ranks in (1, 2, 3, 4):
        imported([tables], tmp_path / str(ranks), Wish(rows=29, layout=parse_layout(codec)), ranks, label="ok")
        made.append(contents(tmp_path / str(ranks)))
    assert made[0] == made[1] == made[2] == made[3]


def test_a_file_cut_into_ranges_gives_the_same_rows_on_any_number_of_ranks(imported, contents, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = ["plain", '"two\nlines"', '"a ""quote"""', '"\n\n"""', '"one, two"']
    lines = [f"{value:.6g},{words[n % 5]}" for n, value in enumerate(rng.normal(size=200))]
    (tmp_path / "t.csv").write_text("\n".join(["a,word", *lines, ""]))
    imported([tmp_path / "t.csv"], tmp_path / "whole", label="word")
    monkeypatch.setattr(ranges, "RANGE_BYTES", 90)
    made = []
    for ranks in (1, 2, 3, 4):
        imported([tmp_path / "t.csv"], tmp_path / str(ranks), THIRTY, ranks, label="word")
        made.append(contents(tmp_path / str(ranks)))
    assert made[0] == made[1] == made[2] == made[3]
    whole = contents(tmp_path / "whole")
    assert {name: raw for name, raw in whole.items() if name.endswith(".h5")}.items() <= made[0].items()
    assert len(whole) == len(made[0]) == 8


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_is_wrong_in_a_range_has_the_line_of_the_file(imported, tmp_path, monkeypatch, ranks):
    monkeypatch.setattr(ranges, "RANGE_BYTES", 50)
    rows = [f'{n},"text\n{n}"' for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["a,word", *rows, "1,2,3", ""]))
    with pytest.raises(DataError, match=r"t\.csv: line 122 has 3 cells, expected 2"):
        imported([tmp_path / "t.csv"], tmp_path / "out", ranks=ranks, label="word")
    (tmp_path / "t.csv").write_text("\n".join(["a,word", *rows, "1,", *rows, ""]))
    with pytest.raises(DataError, match=r"t\.csv: line 122, column 'word': '' is no class"):
        imported([tmp_path / "t.csv"], tmp_path / "out", ranks=ranks, label="word")


def test_idx_pairs_become_x_and_y(imported, rows_of, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (90, 4, 4), np.uint8)
    y = np.arange(90, dtype=np.uint8)
    with gzip.open(tmp_path / "x-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">HBBIII", 0, 8, 3, *x.shape) + x.tobytes())
    (tmp_path / "y-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 90) + y.tobytes())
    imported([f"x={tmp_path}/x-idx3-ubyte.gz", f"y={tmp_path}/y-idx1-ubyte"], tmp_path / "out", ranks=3)
    found = rows_of(tmp_path / "out" / "*.h5", "x", "y")
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], y)


def test_a_bad_row_writes_nothing_and_the_corrected_file_can_follow(imported, tables, tmp_path):
    path = tmp_path / "t-2.csv"
    good = path.read_text()
    path.write_text(good + "1,2,3\n")
    with pytest.raises(DataError, match=r"t-2\.csv: line 82 has 3 cells, expected 4"):
        imported([tables], tmp_path / "out", ranks=2, label="ok")
    assert list((tmp_path / "out").glob("*.h5")) == []
    path.write_text(good)
    assert imported([tables], tmp_path / "out", ranks=2, label="ok").made.total.rows == 133


def test_what_was_finished_is_kept(imported, tables, contents, tmp_path, monkeypatch):
    imported([tables], tmp_path / "whole", label="ok")
    describe, calls, scans = importing.describe_file, [], []

    def dies_at_the_third(path, *args):
        calls.append(path)
        if len(calls) == 3:
            raise DataError("the power is gone")
        return describe(path, *args)

    scan = importing.scan_part
    monkeypatch.setattr(importing, "describe_file", dies_at_the_third)
    monkeypatch.setattr(importing, "scan_part", lambda *args: scans.append(args) or scan(*args))
    with pytest.raises(DataError, match="power"):
        imported([tables], tmp_path / "out", label="ok")
    assert not imported([tables], tmp_path / "out", ranks=2, label="ok").made.before
    assert (len(calls), len(scans)) == (3 + 3, 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert imported([tables], tmp_path / "out", label="ok").made.before


def test_a_finished_shard_that_was_damaged_is_made_again(imported, tables, contents, tmp_path, monkeypatch):
    imported([tables], tmp_path / "whole", label="ok")
    publish = importing.finish
    monkeypatch.setattr(importing, "finish", lambda *args: (_ for _ in ()).throw(DataError("killed")))
    with pytest.raises(DataError, match="killed"):
        imported([tables], tmp_path / "out", label="ok")
    (path,) = (tmp_path / "out").rglob("part-00002.h5")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    monkeypatch.setattr(importing, "finish", publish)
    imported([tables], tmp_path / "out", label="ok")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_source_that_changed_is_imported_anew(imported, tables, tmp_path):
    imported([tables], tmp_path / "out", label="ok")
    (tmp_path / "t-1.csv").write_text("a,b,c,ok\n1,2,3,no\n")
    with pytest.raises(DataError, match="already holds a finished set"):
        imported([tables], tmp_path / "out", label="ok")
    assert imported([tables], tmp_path / "new", label="ok").made.total.rows == 131
