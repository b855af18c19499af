"""Everything in a shard is found: fields, what has no rows, attributes; and shards that differ are refused by name."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpcml.data.allrows import AllRows
from hpcml.data.contents import read_contents, require_alike
from hpcml.data.copying import decorator
from hpcml.data.index import Shard
from hpcml.data.writer import RowWriter
from hpcml.errors import DataError, ShardError


def write(path, rows=4, scale=2.0, **more):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(rows * 3, dtype=">f4").reshape(rows, 3)
        file["group/y"] = np.arange(rows)
        file["name"] = np.array([f"row {i}" for i in range(rows)], object)
        file["scale"] = scale
        file["axis"] = np.arange(7.0)
        file["x"].attrs["units"] = "K"
        file["x"].attrs["range"] = np.array([0, 1], "<f2")
        file["group"].attrs["note"] = "a group"
        file.attrs["origin"] = np.int64(5)
        file.attrs["nothing"] = h5py.Empty("f4")
        for name, values in more.items():
            file[name] = values
    return path


def shard(path):
    status = path.stat()
    return Shard(str(path), read_contents(path).rows, status.st_size, status.st_mtime_ns)


def test_fields_common_data_sets_and_attributes_are_told_apart(tmp_path):
    found = read_contents(write(tmp_path / "a.h5"))
    assert found.rows == 4
    assert found.schema() == {"group/y": [[], "int64"], "name": [[], "text"], "x": [[3], "float32"]}
    assert set(found.common) == {"axis", "scale"}
    assert set(found.attributes) == {"x@units", "x@range", "group@note", "@origin", "@nothing"}


def test_the_field_that_has_the_rows_can_be_named(tmp_path):
    found = read_contents(write(tmp_path / "a.h5"), "axis")
    assert (found.rows, list(found.fields)) == (7, ["axis"])


def test_without_x_the_commonest_length_counts(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"], file["c"] = np.zeros(5), np.zeros((5, 2)), np.zeros(9)
    assert list(read_contents(tmp_path / "a.h5").fields) == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "words"), [(lambda file: None, "no data set with rows"), (lambda file: file.create_dataset("s", data=1.0), "'s'")]
)
def test_a_file_without_rows_is_refused(tmp_path, make, words):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(ShardError, match=words):
        read_contents(tmp_path / "a.h5")


def test_rows_of_variable_length_are_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("ragged", (3,), h5py.vlen_dtype(np.int32))
    with pytest.raises(ShardError, match=r"'ragged'.*variable length"):
        read_contents(tmp_path / "a.h5")


def test_what_has_no_rows_and_attributes_are_carried_over(tmp_path):
    source = write(tmp_path / "a.h5")
    contents = read_contents(source)
    rows = AllRows([shard(source)], contents)
    with RowWriter(tmp_path / "b.h5", 4, contents.fields, decorate=decorator(source, contents)) as writer:
        writer.write(0, rows.read(0, 4))
    rows.close()
    assert read_contents(tmp_path / "b.h5") == contents
    with h5py.File(source) as old, h5py.File(tmp_path / "b.h5") as new:
        assert new["x"].dtype == old["x"].dtype == np.dtype(">f4")
        assert new["x"].attrs["range"].dtype == np.dtype("<f2")
        assert new["name"][1] == b"row 1"
        assert new["axis"][3] == 3.0


def test_runs_of_rows_span_shards(tmp_path):
    paths = [write(tmp_path / f"{i}.h5", rows) for i, rows in enumerate((4, 1, 5))]
    rows = AllRows([shard(path) for path in paths], read_contents(paths[0]))
    truth = np.concatenate([np.arange(n * 3).reshape(n, 3) for n in (4, 1, 5)])
    for start in range(11):
        for stop in range(start, 11):
            np.testing.assert_array_equal(rows.read(start, stop)["x"], truth[start:stop])
    assert rows.locate(4) == (str(paths[1]), 0)
    with pytest.raises(DataError, match="do not exist"):
        rows.read(3, 11)


def test_a_shard_that_changed_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    rows = AllRows([shard(path)], read_contents(path))
    write(path, 4, extra=np.zeros(3))
    with pytest.raises(ShardError, match="changed since"):
        rows.read(0, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"more": np.zeros(4)}, "'more' is absent"), ({"scale": 3.0}, "'scale', which has no rows"), ({"side": 1.0}, "'side'")],
)
def test_shards_that_are_not_alike_are_refused_by_name(tmp_path, change, words):
    a, b = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", **change)
    with pytest.raises(ShardError, match=words):
        require_alike(b, read_contents(b), a, read_contents(a))


def test_codecs_of_hdf5plugin_are_found_by_tools_that_only_copy(tmp_path):
    plugins = pytest.importorskip("hdf5plugin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(20.0).reshape(10, 2), chunks=(5, 2), **plugins.LZ4())
    command = (
        "import sys; from hpcml.data.allrows import read_rows; from hpcml.data.contents import open_file, read_contents\n"
        "read_contents(sys.argv[1])\n"
        "with open_file(sys.argv[1]) as file: print(read_rows(file, sys.argv[1], 'x', 9, 10).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", command, str(tmp_path / "a.h5")], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[[18.0, 19.0]]", found.stderr
