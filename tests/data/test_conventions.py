"""CF attributes: every fill value is found, exactly, and what contradicts itself is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpcml.data import open_shards
from hpcml.data.cache import CachedDataset
from hpcml.errors import ShardError


def rows(data, dtype=np.float64):
    with data:
        out = np.full((data.rows, *data.x.shape), -1, dtype)
        data.read(0, data.rows, out)
        return out


def write(path, values, **attributes):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values).attrs.update(attributes)
    return path


LEAST, MOST = np.iinfo(np.int64).min + 2, np.iinfo(np.uint64).max - 1


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (np.array([[1.0], [np.nan]], "f4"), {"_FillValue": np.float32(np.nan)}),
        (np.array([[1], [LEAST]], "i8"), {"_FillValue": np.int64(LEAST)}),
        (np.array([[1], [MOST]], "u8"), {"_FillValue": np.uint64(MOST)}),
        (np.array([[1], [-2]], "i2"), {"_FillValue": np.int16(-1), "missing_value": np.int16(-2)}),
        (np.array([[1], [-2]], "i2"), {"missing_value": np.array([-1, -2], "i2")}),
        (np.array([[1], [-2]], "i2"), {"missing_value": -2.0}),
        (np.array([[1], [1e20]], ">f4"), {"missing_value": 1e20}),
    ],
)
def test_each_kind_of_fill_value_is_found(tmp_path, values, attributes):
    path = write(tmp_path / "a.h5", values, **attributes)
    assert rows(open_shards(path, target=None, cf=True, fill=7)).tolist() == [[1], [7]]
    assert np.isnan(rows(open_shards(path, target=None, cf=True))).tolist() == [[False], [True]]


def test_neighbours_of_a_large_fill_value_and_numbers_that_the_dtype_lacks_are_no_fill_values(tmp_path):
    path = write(tmp_path / "a.h5", np.array([[LEAST - 1], [LEAST]], "i8"), _FillValue=np.int64(LEAST))
    assert (rows(open_shards(path, target=None, cf=True, fill=7)) == 7).tolist() == [[False], [True]]
    path = write(tmp_path / "b.h5", np.array([[241], [3]], "u1"), missing_value=-9999, scale_factor=2.0)
    assert rows(open_shards(path, target=None, cf=True, fill=7)).tolist() == [[482], [6]]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"scale_factor": "ten"}, "attribute scale_factor is 'ten', expected a number"),
        ({"add_offset": np.array([1.0, 2.0])}, "attribute add_offset has 2 numbers, expected one"),
        ({"_Unsigned": "true"}, "has _Unsigned = true: its int8 are unsigned numbers; write it as uint8"),
    ],
)
def test_attributes_that_cannot_be_applied_are_named(tmp_path, attributes, words):
    path = write(tmp_path / "a.h5", np.array([[-56], [3]], "i1"), **attributes)
    with pytest.raises(ShardError, match=f"field 'x':? {words}"):
        open_shards(path, target=None, cf=True)
    assert rows(open_shards(path, target=None, cf=False)).tolist() == [[-56], [3]]


def test_parts_never_written_that_are_no_fill_values_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (20, 2), "f4", chunks=(5, 2), data=None)[:5] = 1
        file["x"].attrs["_FillValue"] = np.float32(-9)
    with pytest.raises(ShardError, match=r"never written and read as 0\.0, which is not its fill value -9\.0"):
        open_shards(tmp_path / "a.h5", target=None, cf=True, fill=0)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_scaled_halves_are_kept_with_all_their_digits(tmp_path, real):
    values = np.random.default_rng(0).random((9, 3)).astype("f2")
    data = open_shards(write(tmp_path / "a.h5", values, scale_factor=0.1), target=None, cf=True)
    np.testing.assert_array_equal(rows(CachedDataset(data.index, dtype=real), real), rows(data, real))
