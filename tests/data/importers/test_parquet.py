"""A Parquet file gives what the same table as CSV gives, in any run of rows; empty cells are refused by row."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.errors import ConfigError, DataError
from tests.data.importers.reading import assembled, read

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("pyarrow.parquet", reason="pyarrow has no Parquet")


def write(path, group=7, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def table(rows=30):
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=rows), "n": rng.integers(0, 9, rows), "kind": [["red", "blue", "green"][i % 3] for i in range(rows)]}


def test_any_run_is_read_across_groups(tmp_path):
    columns = table()
    made = assembled([write(tmp_path / "t.parquet", **columns)], label="kind", keep=("n",))
    classes = made.attributes()["y@classes"]
    for start, stop in ((0, 30), (3, 20), (29, 30)):
        found = read(made, start, stop)
        np.testing.assert_array_equal(found["x"][:, 0], columns["a"].astype(np.float32)[start:stop])
        np.testing.assert_array_equal(found["n"], columns["n"][start:stop])
        assert [classes[code] for code in found["y"]] == columns["kind"][start:stop]


def test_dictionaries_are_text(tmp_path):
    columns = table() | {"kind": pyarrow.array(table()["kind"]).dictionary_encode()}
    made = assembled([write(tmp_path / "t.parquet", **columns)], label="kind")
    assert made.attributes()["y@classes"] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"a": [1.0, None, 3.0]}, {}, "row 1, column 'a': is empty"),
        ({"a": [1.0, 2.0], "y": [1, None]}, {"label": "y", "missing": 0.0}, "row 1, column 'y': is empty"),
        ({"a": [1.0, float("inf")]}, {}, "row 1, column 'a'.*finite"),
        ({"a": [1.0, 2.0], "y": pyarrow.array([7, 2**63], pyarrow.uint64())}, {"label": "y"}, "row 1, column 'y': 9223372036854775808"),
        ({"a": [1.0, 2.0], "y": ["b", "c\0d"]}, {"label": "y"}, "holds a NUL"),
        ({"a": [1.0], "t": ["x"]}, {}, "column 't' is string"),
        ({"a": [1.0]}, {"label": "b"}, "label column 'b' is absent"),
        ({"a": pyarrow.array([], pyarrow.float64())}, {}, "has no rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, columns, options, words):
    with pytest.raises(DataError, match=rf"t\.parquet.*{words}"):
        assembled([write(tmp_path / "t.parquet", **columns)], **options)


def test_missing_numbers_become_what_was_asked_for(tmp_path):
    made = assembled([write(tmp_path / "t.parquet", a=[1.0, None, 3.0])], missing=-1.0)
    assert read(made, 0, 3)["x"][:, 0].tolist() == [1, -1, 3]


def test_a_damaged_file_and_a_missing_package_are_named(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", **table())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"t\.parquet: is no Parquet file, or damaged"):
        assembled([path])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        assembled([path])


def test_a_page_that_is_not_what_its_checksum_says_is_named(tmp_path):
    path, table = tmp_path / "t.parquet", pyarrow.table({"a": np.arange(100.0)})
    pyarrow.parquet.write_table(table, path, write_page_checksum=True, use_dictionary=False, compression="none")
    raw = bytearray(path.read_bytes())
    raw[200] ^= 255
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"t\.parquet: column 'a' of row group 0 cannot be read"):
        assembled([path])
