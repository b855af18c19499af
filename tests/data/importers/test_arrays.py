"""Arrays come out as numpy reads them, in any run of rows; damaged files are refused before any row is used."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.errors import DataError, HpcmlError
from tests.data.importers.reading import assembled, read

CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array, code):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def sample(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_is_read_in_any_run(tmp_path, dtype, zipped):
    x = sample((23, 4, 5), dtype)
    path = tmp_path / ("x-idx3-ubyte.gz" if zipped else "x.idx")
    path.write_bytes(gzip.compress(idx(x, CODES[dtype])) if zipped else idx(x, CODES[dtype]))
    made = assembled([path])
    for start, stop in ((0, 23), (5, 9), (0, 1), (22, 23), (3, 3)):
        np.testing.assert_array_equal(read(made, start, stop)["x"], x[start:stop])
    assert made.fields["x"][1] == np.dtype(dtype).newbyteorder("<")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "u2", "?", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_npy_and_npz_are_read_in_any_run(tmp_path, dtype, order, kind):
    x = np.asarray(sample((17, 3, 2), dtype), order=order)
    if kind == "npy":
        np.save(tmp_path / "a.npy", x)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(tmp_path / "a.npz", x=x)
    made = assembled([tmp_path / f"a.{kind if kind == 'npy' else 'npz'}"])
    for start, stop in ((0, 17), (4, 11), (16, 17)):
        np.testing.assert_array_equal(read(made, start, stop)["x"], x[start:stop])


def test_fields_are_named_and_files_of_a_field_follow_each_other(tmp_path):
    for i, rows in enumerate((5, 3)):
        np.save(tmp_path / f"x{i}.npy", sample((rows, 2), "f4", i))
    np.save(tmp_path / "y.npy", np.arange(8))
    made = assembled([f"x={tmp_path}/x0.npy", f"x={tmp_path}/x1.npy", f"y={tmp_path}/y.npy"])
    found = read(made, 3, 7)
    np.testing.assert_array_equal(found["x"], np.concatenate([sample((5, 2), "f4", 0), sample((3, 2), "f4", 1)])[3:7])
    np.testing.assert_array_equal(found["y"], np.arange(3, 7))


def test_arrays_of_an_npz_are_fields_and_some_can_be_taken(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.arange(4), note=np.float64(3))
    with pytest.raises(DataError, match="'note' has shape"):
        assembled([tmp_path / "a.npz"])
    assert set(read(assembled([tmp_path / "a.npz"], features=("x", "y")), 0, 4)) == {"x", "y"}
    with pytest.raises(DataError, match="no array 'z'"):
        assembled([tmp_path / "a.npz"], features=("z",))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: np.save(folder / "a.npy", np.array(["a", "b"])), "must hold real numbers"),
        (lambda folder: np.save(folder / "a.npy", np.array([{}, 1], object), allow_pickle=True), "must hold real numbers"),
        (lambda folder: np.save(folder / "a.npy", np.zeros(3, complex)), "must hold real numbers"),
        (lambda folder: np.save(folder / "a.npy", np.float32(1)), "expected rows"),
        (lambda folder: np.save(folder / "a.npy", np.zeros((0, 3))), "expected rows"),
        (lambda folder: (folder / "a.npy").write_bytes(b"not an array"), "damaged"),
        (lambda folder: (folder / "a.npy").write_bytes(b""), "damaged"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_by_name(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(DataError, match=rf"a\.npy.*{words}"):
        assembled([tmp_path / "a.npy"])


def test_fields_of_different_lengths_are_refused_with_both(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    np.save(tmp_path / "y.npy", np.zeros(5))
    with pytest.raises(DataError, match="'x' 4, 'y' 5"):
        assembled([f"x={tmp_path}/x.npy", f"y={tmp_path}/y.npy"])
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.zeros(5))
    with pytest.raises(DataError, match="'x' 4, 'y' 5"):
        assembled([tmp_path / "a.npz"])


def test_files_of_a_field_that_differ_are_refused(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((4, 2)))
    np.save(tmp_path / "1.npy", np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"1\.npy.*\(3,\).*0\.npy.*\(2,\)"):
        assembled([tmp_path / "0.npy", tmp_path / "1.npy"])


FORMATS = ("a.npy", "a.npz", "a.idx", "a.idx.gz")


def write(path, x):
    if path.name.endswith("npy"):
        np.save(path, x)
    elif path.name.endswith("npz"):
        np.savez_compressed(path, x=x)
    else:
        path.write_bytes(gzip.compress(idx(x, 13), mtime=0) if path.suffix == ".gz" else idx(x, 13))


@pytest.mark.parametrize("name", FORMATS)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(tmp_path_factory, name, share):
    path = tmp_path_factory.mktemp("short") / name
    write(path, sample((40, 3), ">f4"))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(DataError, match=name):
        assembled([path])


@pytest.mark.parametrize("name", FORMATS)
@given(position=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_never_crashes_and_under_a_checksum_never_passes(tmp_path_factory, name, position, bit):
    path = tmp_path_factory.mktemp("flip") / name
    x = sample((40, 3), ">f4")
    write(path, x)
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * position)] ^= 1 << bit
    path.write_bytes(raw)
    try:
        made = assembled([path])
        found = read(made)
    except HpcmlError:
        return
    # Flips in a name or a time of the container do not touch the rows; NPY and plain IDX have no checksum to notice by.
    assert name in ("a.npy", "a.idx") or all(np.array_equal(values, x) for values in found.values())
