"""Every layout is told apart, its speed measured, and what would help is said in words."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpcml.data.inspection import advise, look_into, measure
from hpcml.errors import ShardError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.h5"
    rows = np.arange(4000.0, dtype="f4").reshape(1000, 4)
    with h5py.File(path, "w") as made:
        made["plain"] = rows
        made["big"] = rows.astype(">f8")
        made.create_dataset("group/gz", data=rows, chunks=(100, 4), compression="gzip", shuffle=True, fletcher32=True)
        made.create_dataset("cut", data=rows, chunks=(100, 2))
        made.create_dataset("scaled", data=rows.astype("i4"), chunks=(100, 4), scaleoffset=0)
        made["text"] = np.array(["a", "b"], object)
        made["scalar"] = 1.0
        made["nothing"] = h5py.Empty("f4")
        made.create_dataset("unwritten", (1000, 8), "f4")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(made.id, b"compact", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((4,)), plist)
        layout = h5py.VirtualLayout((1000, 4), "f4")
        layout[:] = h5py.VirtualSource(path, "plain", (1000, 4))
        made.create_virtual_dataset("virtual", layout)
    return path


def test_layouts_codecs_and_roads_are_told_apart(file):
    found = {one.name: one for one in look_into(file)}
    assert {name: one.layout for name, one in found.items() if name not in ("group/gz", "cut", "scaled")} == {
        "plain": "contiguous",
        "big": "contiguous",
        "text": "contiguous",
        "scalar": "contiguous",
        "nothing": "empty",
        "unwritten": "contiguous",
        "compact": "compact",
        "virtual": "virtual",
    }
    zipped = found["group/gz"]
    assert (zipped.layout, zipped.chunk, zipped.filters) == ("chunked", (100, 4), ("shuffle", "gzip", "fletcher32"))
    assert zipped.stored < zipped.nbytes == 16000
    assert zipped.road == "raw chunks, decoded by threads"
    assert found["plain"].road == "positioned reads"
    assert found["scaled"].road.startswith("HDF5's own pipeline: ")
    assert found["virtual"].road == "HDF5's own pipeline: its rows are in other files (virtual or external storage)"
    assert found["text"].road == "none: not rows of numbers"
    assert (found["big"].order, found["big"].dtype, found["big"].row_bytes) == ("big", "float64", 32)
    assert [name for name, one in found.items() if one.is_usable] == [
        "big",
        "compact",
        "cut",
        "group/gz",
        "plain",
        "scaled",
        "virtual",
    ]


def test_a_short_read_is_measured(file):
    speed = measure(file, "group/gz")
    assert speed.nbytes == 16000
    assert speed.cold > 0
    assert speed.warm > 0


def test_what_cannot_be_read_is_named(file, tmp_path):
    with pytest.raises(ShardError, match="'gone'"):
        measure(file, "gone")
    (tmp_path / "b.h5").write_bytes(b"nothing")
    with pytest.raises(ShardError, match=r"b\.h5"):
        look_into(tmp_path / "b.h5")


def test_advice_names_the_data_set_and_the_remedy(file):
    text = "\n".join(advise(look_into(file), [10], 32))
    assert "unwritten: was created but never written" in text
    assert "big: is float64" in text
    assert "plain" not in text


def test_chunks_that_are_too_large_too_small_or_cut_rows_are_told(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made.create_dataset("large", (4096, 1024), "f4", chunks=(4096, 1024))[0] = 1
        made.create_dataset("small", (40960, 64), "f4", chunks=(8, 64))[0] = 1
        made.create_dataset("cut", (4096, 1024), "f4", chunks=(32, 32))[0] = 1
    text = "\n".join(advise(look_into(tmp_path / "a.h5"), [10], 32))
    assert "large: a chunk holds 4096 rows" in text
    assert "data.block = 4096" in text
    assert "small: chunks of 2,048 bytes" in text
    assert "cut: chunks (32, 32) cut rows apart" in text


def test_many_small_files_are_told(file):
    assert "hpcml data reshard --files" in advise([], [1000] * 100, 32)[0]
    assert advise([], [1000] * 10, 32) == []
