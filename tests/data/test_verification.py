"""Whatever is wrong with a shard is named by file, data set and rows; what is right is passed."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.data.contents import read_contents
from hpcml.data.manifest import describe_file
from hpcml.data.verification import Range, check_file, parse_range
from hpcml.errors import DataError


def write(path, x=None, **layout):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(300, dtype="f4").reshape(100, 3) if x is None else x, **layout)
        file["y"] = np.arange(100) % 10
    return path


def problems(path, known=None, ranges=(), first=None, **options):
    return check_file(path, first, known, ranges, **options).problems


def test_a_good_file_has_no_problem_and_the_entry_of_its_manifest(tmp_path):
    path = write(tmp_path / "a.h5")
    known = describe_file(path)
    findings = check_file(path, None, known, [Range("y", 0, 9)])
    assert findings.problems == []
    assert {**findings.entry, "sha256": known["sha256"]} == known


def test_nan_and_infinity_are_named_by_row_unless_allowed(tmp_path):
    x = np.zeros((100, 3), "f4")
    x[[7, 40, 41, 90], 1] = [np.nan, np.inf, -np.inf, np.nan]
    path = write(tmp_path / "a.h5", x)
    assert problems(path) == [f"{path}: field 'x' has NaN or infinity in 4 rows: 7, 40, 41 and 1 more"]
    assert problems(path, allow_nan=True) == []


def test_values_out_of_range_are_named_by_row(tmp_path):
    path = write(tmp_path / "a.h5")
    assert problems(path, ranges=[Range("y", 0, 8)]) == [f"{path}: field 'y' is outside 0:8 in 10 rows: 9, 19, 29 and 7 more"]
    assert "field 'z' of --range is absent" in problems(path, ranges=[Range("z", 0, 8)])[0]


@pytest.mark.parametrize(
    ("text", "made"), [("y=0:9", Range("y", 0, 9)), ("a/b=-1:", Range("a/b", -1, np.inf)), ("x=:2.5", Range("x", -np.inf, 2.5))]
)
def test_ranges_are_read(text, made):
    assert parse_range(text) == made


@pytest.mark.parametrize("text", ["y", "y=3", "=0:1", "y=a:b", "0:1"])
def test_other_ranges_are_refused(text):
    with pytest.raises(DataError, match="FIELD=LOW:HIGH"):
        parse_range(text)


def test_a_corrupt_chunk_is_named_by_rows_and_address(tmp_path):
    path = write(tmp_path / "a.h5", np.random.default_rng(0).random((100, 3)), chunks=(10, 3), compression="gzip", fletcher32=True)
    known = describe_file(path)
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(3)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset + 20] ^= 0xFF
    path.write_bytes(raw)
    found = problems(path, known)
    assert f"field 'x', rows 30:40 cannot be read, chunk of {chunk.size} bytes at byte {chunk.byte_offset}" in found[0]
    assert found[1:] == [f"{path}: its sha256 is not that of the manifest"]


@given(row=st.integers(0, 99), column=st.integers(0, 2))
def test_a_changed_value_is_named_by_its_rows(tmp_path_factory, row, column):
    path = write(tmp_path_factory.mktemp("changed") / "a.h5")
    known = describe_file(path)
    with h5py.File(path, "r+") as file:
        file["x"][row, column] = -1
    found = problems(path, known)
    start = row // known["block"] * known["block"]
    assert found[0] == f"{path}: field 'x', rows {start}:{min(100, start + known['block'])} are not those of the manifest"
    assert "sha256" in found[1]


def test_rows_in_another_order_are_noticed(tmp_path):
    path = write(tmp_path / "a.h5")
    known = describe_file(path)
    with h5py.File(path, "r+") as file:
        file["x"][...] = file["x"][:][::-1]
    assert any("not those of the manifest" in text or "sha256" in text for text in problems(path, known))


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("flipped") / "a.h5", chunks=(32, 3), compression="gzip")
    known = describe_file(path)
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    assert problems(path, known)


@given(size=st.integers(0, 3000))
def test_a_truncated_file_is_noticed(tmp_path_factory, size):
    path = write(tmp_path_factory.mktemp("short") / "a.h5")
    known = describe_file(path)
    path.write_bytes(path.read_bytes()[:size])
    assert str(path) in problems(path, known)[0]


def test_lost_rows_a_lost_field_and_an_extra_one_are_named(tmp_path):
    path = write(tmp_path / "a.h5")
    known = describe_file(path)
    with h5py.File(path, "r+") as file:
        file["z"] = file["y"][:]
        del file["y"]
    assert any("field 'y' is gone" in text for text in problems(path, known))
    assert any("field 'z' is not in the manifest" in text for text in problems(path, known))
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros((99, 3), "f4")
    assert f"{path}: has 99 rows, the manifest says 100" in problems(path, known)


def test_a_shard_unlike_the_first_is_named_with_it(tmp_path):
    a, b = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", np.zeros((100, 4), "f4"))
    (text,) = problems(b, first=(a, read_contents(a)))
    assert str(a) in text
    assert "(4,)" in text
