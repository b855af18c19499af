"""Rows that lie in other files, virtual or external, are those of their sources, and no hole is taken for rows."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from hpcml.data import open_shards
from hpcml.data.dataset import ShardedDataset
from hpcml.data.index import Index
from hpcml.errors import ShardError
from tests.data.written import ROWS, read, road, write


def numbered(folder, parts, rows=4):
    """Write part-0.h5 ... and a virtual data set over "part-%b.h5" that grows with them; return its rows."""
    values = np.arange(parts * rows * 2, dtype="<f4").reshape(parts, rows, 2)
    for number in range(parts):
        with h5py.File(folder / f"part-{number}.h5", "w") as file:
            file["x"] = values[number]
    no_end = h5py.h5s.UNLIMITED
    space, block, plist = (
        h5py.h5s.create_simple((parts * rows, 2), (no_end, 2)),
        h5py.h5s.create_simple((rows, 2)),
        h5py.h5p.create(h5py.h5p.DATASET_CREATE),
    )
    space.select_hyperslab((0, 0), (no_end, 1), stride=(rows, 1), block=(rows, 2))
    plist.set_virtual(space, b"part-%b.h5", b"x", block)
    with h5py.File(folder / "v.h5", "w", libver="latest") as file:
        whole = h5py.h5s.create_simple((0, 2), (no_end, 2))
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, whole, plist)
    return values.reshape(-1, 2)


def test_virtual_rows_over_numbered_files_are_read_and_a_missing_file_is_no_shorter_set(tmp_path):
    values = numbered(tmp_path, 3)
    with open_shards(tmp_path / "v.h5", target=None) as data:
        assert data.rows == 12
        np.testing.assert_array_equal(read(data, 0, 12), values)
        assert [os.path.basename(source.path) for source in data.index.shards[0].sources] == [f"part-{i}.h5" for i in range(3)]
    (tmp_path / "part-1.h5").rename(tmp_path / "gone.h5")
    with pytest.raises(ShardError, match=r"part-1.h5 is absent, though part-2.h5 is there; HDF5 would leave rows out"):
        open_shards(tmp_path / "v.h5", target=None)


def test_virtual_data_sets_give_the_rows_of_their_sources(tmp_path):
    values = [write(tmp_path / f"part-{i}.h5", seed=i) for i in range(2)]
    layout = h5py.VirtualLayout((2 * ROWS, 3, 4), "<f4")
    for i in range(2):
        layout[i * ROWS : (i + 1) * ROWS] = h5py.VirtualSource(f"part-{i}.h5", "x", (ROWS, 3, 4))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with open_shards(tmp_path / "all.h5", target=None) as data:
        assert road(data) == "library"
        np.testing.assert_array_equal(read(data, 40, 60), np.concatenate(values)[40:60])
        index = data.index
    os.utime(tmp_path / "part-1.h5", ns=(1, 1))
    with ShardedDataset(Index.from_json(index.to_json())) as data, pytest.raises(ShardError, match=r"part-1\.h5: changed"):
        read(data, 0, 1)


def test_virtual_data_sets_with_holes_are_refused(tmp_path):
    write(tmp_path / "part.h5")
    layout = h5py.VirtualLayout((2 * ROWS, 3, 4), "<f4")
    layout[:ROWS] = h5py.VirtualSource("part.h5", "x", (ROWS, 3, 4))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with pytest.raises(ShardError, match="600 of 1200 numbers have no source"):
        open_shards(tmp_path / "all.h5", target=None)


def test_rows_mapped_twice_do_not_hide_rows_without_a_source(tmp_path):
    write(tmp_path / "part.h5")
    source, layout = h5py.VirtualSource("part.h5", "x", (ROWS, 3, 4)), h5py.VirtualLayout((2 * ROWS, 3, 4), "<f4")
    layout[:ROWS], layout[:ROWS] = source, source
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with pytest.raises(ShardError, match="600 of 1200 numbers have no source"):
        open_shards(tmp_path / "all.h5", target=None)


def test_every_other_row_and_virtual_sets_of_virtual_sets_are_read_and_their_changes_seen(tmp_path):
    values = [write(tmp_path / f"part-{i}.h5", seed=i) for i in range(2)]
    layout, above = h5py.VirtualLayout((2 * ROWS, 3, 4), "<f4"), h5py.VirtualLayout((2 * ROWS, 3, 4), "<f4")
    for i in range(2):
        layout[i::2] = h5py.VirtualSource(f"part-{i}.h5", "x", (ROWS, 3, 4))
    above[:] = h5py.VirtualSource("all.h5", "x", (2 * ROWS, 3, 4))
    for name, made in (("all", layout), ("above", above)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_virtual_dataset("x", made)
    with open_shards(tmp_path / "above.h5", target=None) as data:
        np.testing.assert_array_equal(read(data, 0, 2 * ROWS)[1::2], values[1])
        index = data.index
    os.utime(tmp_path / "part-1.h5", ns=(1, 1))
    with ShardedDataset(index) as data, pytest.raises(ShardError, match=r"part-1\.h5: changed"):
        read(data, 0, 1)


def test_external_rows_are_found_beside_the_file_and_a_short_one_is_refused(tmp_path):
    values = np.arange(12, dtype="<f4").reshape(6, 2)
    (tmp_path / "rows.bin").write_bytes(b"head" + values.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (6, 2), "<f4", external=[("rows.bin", 4, 48)])
    with open_shards(tmp_path / "a.h5", target=None) as data:
        np.testing.assert_array_equal(read(data, 1, 5), values[1:5])
    (tmp_path / "rows.bin").write_bytes(b"head" + values.tobytes()[:-1])
    with pytest.raises(ShardError, match=r"rows\.bin holds 51 bytes of the 52"):
        open_shards(tmp_path / "a.h5", target=None)
