"""Numbers that stand for no value, as other programs write them: refused by row, applied, or taken as they stand, but never in silence."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpcml.data import open_shards
from hpcml.data.contents import read_contents
from hpcml.data.copying import decorator
from hpcml.data.dataset import ShardedDataset
from hpcml.data.index import Index
from hpcml.data.inspection import advise, look_into
from hpcml.data.shards import open_file
from hpcml.errors import DataError, ShardError

LAYOUTS = [{}, {"chunks": (2,)}, {"chunks": (4,), "compression": "gzip"}, {"chunks": (4,), "compression": "lzf"}]


def target(path, name="y", dtype=np.int64, **reading):
    """Return the target of a file, read by way of an index that was sent as text."""
    with open_shards(path, "x", name, **reading) as data, ShardedDataset(Index.from_json(data.index.to_json())) as sent:
        y = np.empty(sent.rows, dtype)
        sent.read(0, sent.rows, np.empty((sent.rows, 1), np.float32), y)
        return y


def write(path, values, attributes, **layout):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros((len(values), 1), "f4")
        file.create_dataset("y", data=values, **layout).attrs.update(attributes)
    return path


@settings(max_examples=30)
@given(
    values=hnp.arrays(st.sampled_from([np.dtype(text) for text in ("i1", "<i4", ">i4", "i8")]), 9, elements=st.integers(-5, 5)),
    key=st.sampled_from(["_FillValue", "missing_value", "valid_range", "valid_min", "valid_max"]),
    number=st.integers(-5, 5),
    layout=st.sampled_from(LAYOUTS),
)
def test_labels_are_those_of_the_file_or_refused_with_the_first_row_that_stands_for_none(tmp_path_factory, values, key, number, layout):
    attribute = np.array([number, 5] if key == "valid_range" else number, values.dtype)
    path = write(tmp_path_factory.mktemp("a") / "a.h5", values, {key: attribute}, **layout)
    absent = {"valid_range": values < number, "valid_min": values < number, "valid_max": values > number}.get(key, values == number)
    if absent.any():
        row = int(absent.argmax())
        with pytest.raises(DataError, match=rf"a\.h5: field 'y', row {row}: has {values[row]}, which stands for no value .* data\.cf"):
            target(path)
    else:
        np.testing.assert_array_equal(target(path), values)
    np.testing.assert_array_equal(target(path, cf=False), values)
    np.testing.assert_array_equal(target(path, cf=True, fill=9, dtype=np.float64), np.where(absent, 9, values))


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<f4"])
def test_features_are_compared_as_the_file_has_them_not_as_float32_rounds_them(tmp_path, dtype):
    fill = 2**24 + 2
    x = np.array([[1, 2], [fill - 2, 3]], dtype)
    for path, last in (("good.h5", 3), ("bad.h5", fill)):
        x[1, 1] = last
        with h5py.File(tmp_path / path, "w") as file:
            file.create_dataset("x", data=x).attrs["missing_value"] = np.int64(fill - 1 if path == "good.h5" and dtype != "<f4" else fill)
    out = np.empty((2, 2), np.float32)
    with open_shards(tmp_path / "good.h5", target=None) as data:
        data.read(0, 2, out)
    with open_shards(tmp_path / "bad.h5", target=None) as data, pytest.raises(DataError, match=rf"field 'x', row 1: has {fill}, which"):
        data.read(0, 2, out)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"scale_factor": 0.5}, "attribute scale_factor = 0.5 gives"),
        ({"add_offset": np.array([5.0])}, "attribute add_offset = 5 gives"),
        ({"_Unsigned": "true"}, "attribute _Unsigned = true gives"),
    ],
)
def test_attributes_that_change_all_numbers_need_a_decision(tmp_path, attributes, words):
    path = write(tmp_path / "a.h5", np.array([1, -2], "i2"), attributes)
    with pytest.raises(ShardError, match=rf"field 'y': {words}.*data\.cf = true to apply it, or data\.cf = false"):
        target(path)
    assert target(path, cf=False).tolist() == [1, -2]
    assert [text for text in advise(look_into(path), [1], 32) if text.startswith("y: attribute")]
    plain = write(tmp_path / "b.h5", np.array([1, -2], "i2"), {"scale_factor": 1.0, "add_offset": 0.0, "_Unsigned": "false"})
    assert target(plain).tolist() == [1, -2]


def anndata_like(path, mask, codes):
    """Write columns as AnnData 0.8 to 0.12 does: nullable whole numbers, and categories."""
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros((len(mask), 1), "f4")
        for name, kind, held in (
            ("age", "nullable-integer", {"values": np.ones(len(mask), "i8"), "mask": np.array(mask)}),
            ("kind", "categorical", {"codes": np.array(codes, "i1"), "categories": [b"a", b"b"]}),
        ):
            group = file.create_group(f"obs/{name}")
            group.attrs["encoding-type"] = kind
            for key, values in held.items():
                group[key] = values
    return path


def test_columns_of_anndata_without_a_value_are_refused(tmp_path):
    path = anndata_like(tmp_path / "a.h5ad", [False, True, False, True], [0, 1, -1, 0])
    with pytest.raises(ShardError, match=r"'obs/age/values': 2 of its rows have no value by 'obs/age/mask' \(the first is row 1\)"):
        target(path, "obs/age/values")
    with pytest.raises(DataError, match="'obs/kind/codes', row 2: has -1, which stands for no value"):
        target(path, "obs/kind/codes")
    assert target(path, "obs/age/values", cf=False).tolist() == [1, 1, 1, 1]
    assert target(path, "obs/kind/codes", cf=True, fill=2, dtype=np.float64).tolist() == [0, 1, 2, 0]
    with pytest.raises(ShardError, match="is a group; the group has the data sets 'obs/kind/categories', 'obs/kind/codes'"):
        target(path, "obs/kind")
    path = anndata_like(tmp_path / "b.h5ad", [False] * 4, [0, 1, 1, 0])
    assert target(path, "obs/age/values").tolist() == [1, 1, 1, 1]
    assert target(path, "obs/kind/codes").tolist() == [0, 1, 1, 0]


def test_empty_arrays_and_text_of_matlab_are_no_rows(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["x"] = np.zeros((6, 1), "f4")
        file["y"] = np.arange(6.0).reshape(1, 6)
        for name, values, attributes in (
            ("empty", np.array([0, 6], "u8"), {"MATLAB_class": np.bytes_("double"), "MATLAB_empty": np.uint8(1)}),
            ("text", np.arange(6, dtype="u2"), {"MATLAB_class": np.bytes_("char")}),
        ):
            file.create_dataset(name, data=values).attrs.update(attributes)
    for name, words in (("empty", "is an empty array of MATLAB"), ("text", "is text of MATLAB")):
        with pytest.raises(ShardError, match=f"field '{name}' {words}"):
            open_shards(tmp_path / "a.mat", name, None, cf=False)
    with pytest.raises(ShardError, match=r"the shape of 'y' is \(1, 6\), whose last axis has 6: rows come first, write it as \(6,\)"):
        target(tmp_path / "a.mat")
    assert list(read_contents(tmp_path / "a.mat").fields) == ["x"]
    assert {one.name: one.is_usable for one in look_into(tmp_path / "a.mat")} == {"empty": False, "text": False, "x": True, "y": True}


def test_what_netcdf4_lays_below_a_mask_is_no_value_here_nor_in_a_file_written_anew(tmp_path):
    netcdf = pytest.importorskip("netCDF4", reason="netCDF4 is not installed")
    with netcdf.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("row", 3)
        file.createVariable("x", "f4", ("row",))[:] = np.zeros(3)
        for name, options in (("y", {}), ("named", {"fill_value": -9})):
            file.createVariable(name, "i4", ("row",), **options)[:] = np.ma.masked_equal([0, 1, 2], 1)
    contents = read_contents(tmp_path / "a.nc")
    with open_file(tmp_path / "a.nc") as file, h5py.File(tmp_path / "b.h5", "w") as goal:
        for name in contents.fields:
            goal[name] = file[name][()]
        decorator(tmp_path / "a.nc", contents)(goal)
    for path in ("a.nc", "b.h5"):
        for name, number in (("y", -2147483647), ("named", -9)):
            with open_shards(tmp_path / path, name, None) as data, pytest.raises(DataError, match=f"row 1: has {number}, which"):
                data.read(0, 3, np.empty(3, np.float32))
