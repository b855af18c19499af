"""What the tests of data set tools share: folders compared byte for byte, rows read back as numpy sees them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcml.data.shards import find_shards
from hpcml.datasets import rewriting
from hpcml.errors import DataError


def quiet(what, done, total):
    """Tell nobody."""


@pytest.fixture
def contents():
    """Return a function from a folder to name -> bytes of every file in it, hidden ones too."""
    return lambda folder: {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def rows_of():
    """Return a function from a glob to one array a field, the shards one after the other."""

    def read(pattern, *names):
        parts = {name: [] for name in names}
        for path in find_shards(pattern):
            with h5py.File(path) as file:
                for name in names:
                    parts[name].append(file[name][:])
        return tuple(np.concatenate(parts[name]) for name in names)

    return read


@pytest.fixture
def shards(tmp_path):
    """Write three shards of 37, 1 and 62 rows, of four fields in several layouts, with attributes; return their glob."""
    start = 0
    (tmp_path / "in").mkdir()
    for i, rows in enumerate((37, 1, 62)):
        y = np.arange(start, start + rows)
        start += rows
        with h5py.File(tmp_path / "in" / f"a-{i}.h5", "w") as file:
            file.create_dataset(
                "x", data=(y[:, None] + np.arange(5) / 8).astype(">f4" if i else "<f4"), chunks=(min(rows, 10), 5), compression="gzip"
            )
            file["y"] = (y * 7 % 10).astype(np.int16)
            file["deep/id"] = y // 4
            file["name"] = np.array([f"row {n}" for n in y], object)
            file["scale"] = 2.5
            file["x"].attrs["units"] = "K"
            file["deep"].attrs["note"] = "a group"
            file.attrs["origin"] = "here"
    return str(tmp_path / "in" / "a-*.h5")


@pytest.fixture
def interrupted(monkeypatch):
    """Let the third file that is finished from now on meet an error; return the list of those that were begun, which grows."""
    describe, calls = rewriting.describe_file, []

    def dies_at_the_third(path, *args):
        calls.append(path)
        if len(calls) == 3:
            raise DataError("the power is gone")
        return describe(path, *args)

    def arm():
        monkeypatch.setattr(rewriting, "describe_file", dies_at_the_third)
        return calls

    return arm
