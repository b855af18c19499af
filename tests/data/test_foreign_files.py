"""Files as other programs leave them are read as they are, or refused with the reason."""

from __future__ import annotations

import os
import shutil

import h5py
import numpy as np
import pytest

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.dataset import ShardedDataset
from hpcml.data.index import Index
from hpcml.errors import ShardError
from tests.data.written import ROWS, read, road, write


def test_compact_data_sets_are_read_by_the_library(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        kind, space = h5py.h5t.py_create(np.dtype("<f4")), h5py.h5s.create_simple((5, 2))
        h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, plist))[...] = np.arange(10).reshape(5, 2)
    with open_shards(tmp_path / "a.h5", target=None) as data:
        assert "compact" in data.index.shards[0].stored("x").why
        assert read(data, 1, 3).tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_user_block_before_the_data_shifts_nothing(tmp_path, libver):
    values = write(tmp_path / "a.h5", userblock=512, libver=libver)
    with h5py.File(tmp_path / "a.h5", "r+", libver=libver) as file:
        file.create_dataset("c", data=values, chunks=(8, 3, 4), compression="gzip")
    for name in "xc":
        with open_shards(tmp_path / "a.h5", name, None) as data:
            assert road(data, name) != "library"
            np.testing.assert_array_equal(read(data, 0, ROWS), values)


def test_chunks_that_were_never_written_are_refused_unless_they_are_asked_for(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", (20, 2), "<f4", chunks=(5, 2), fillvalue=-9)
        data[:10] = 1
    with pytest.raises(ShardError, match=r"2 of its chunks were never written, their rows read as .*-9"):
        open_shards(tmp_path / "a.h5", target=None)
    with open_shards(tmp_path / "a.h5", target=None, cf=True, fill=0.5) as data:
        assert read(data, 9, 11).tolist() == [[1, 1], [0.5, 0.5]]
    with open_shards(tmp_path / "a.h5", target=None, cf=True) as data:
        assert np.isnan(read(data, 10, 11)).all()


@pytest.mark.parametrize("layout", [{}, {"chunks": (2, 2), "compression": "gzip"}, {"chunks": (2, 2), "compression": "lzf"}])
def test_scale_offset_and_fill_of_the_cf_convention(tmp_path, layout):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", data=np.array([[1, 2], [-99, 4]], ">i2"), **layout)
        data.attrs.update({"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": np.int16(-99)})
    with open_shards(tmp_path / "a.h5", target=None, cf=True, fill=-1) as data:
        assert data.x.dtype == "float64"
        assert read(data, 0, 2).tolist() == [[10.5, 11], [-1, 12]]
    with open_shards(tmp_path / "a.h5", target=None, cf=False) as data:
        assert read(data, 0, 2).tolist() == [[1, 2], [-99, 4]]


def test_several_features_are_one_flat_row_and_weights_come_along(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["g/b"] = np.arange(12, dtype="<f4").reshape(6, 2), np.arange(36, dtype=">i2").reshape(6, 2, 3)
        file["y"], file["w"] = np.arange(6), np.arange(6) / 4
    with open_shards(tmp_path / "a.h5", ["a", "g/b"], "y", "w") as data:
        assert (data.x.name, data.x.shape, data.x.dtype) == ("a+g/b", (8,), "float32")
        x, w = np.empty((3, 8), np.float32), np.empty(3, np.float32)
        data.read(2, 5, x, None, w)
        assert x[0].tolist() == [4, 5, 12, 13, 14, 15, 16, 17]
        assert w.tolist() == [0.5, 0.75, 1]
        twin = ShardedDataset(Index.from_json(data.index.to_json()))
        assert twin.index == data.index
        for parts in Loader(twin, Sampler([6], 4, 2, 7), [0, 1]).batches(0):
            for part in parts:
                np.testing.assert_array_equal(part.weights, part.rows / 4)
                np.testing.assert_array_equal(part.x[:, 0], part.rows * 2)
        twin.close()


def test_weights_of_several_numbers_or_below_zero_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["w"], file["v"] = np.ones((4, 2)), np.ones((4, 2)), np.array([1, 1, -2, 1.0])
    with pytest.raises(ShardError, match="weights are one number a row"):
        open_shards(tmp_path / "a.h5", target=None, weights="w")
    with open_shards(tmp_path / "a.h5", target=None, weights="v") as data:
        ((batch,),) = Loader(data, Sampler([4], 4, 1, 7), [0]).batches(0)
    assert "'v' is -2.0" in str(batch.error)
    assert "row 2" in str(batch.error)


def test_netcdf4_files_are_read_as_they_are(tmp_path):
    netcdf = pytest.importorskip("netCDF4", reason="netCDF4 is not installed")
    values = np.random.default_rng(0).random((ROWS, 4)).astype("f4")
    with netcdf.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", None)
        file.createDimension("lat", 4)
        for name, options in {"plain": {}, "packed": {"zlib": True, "shuffle": True, "fletcher32": True}}.items():
            file.createVariable(name, "f4", ("time", "lat"), **options)[:] = values
    for name in ("plain", "packed"):
        with open_shards(tmp_path / "a.nc", name, None) as data:
            assert road(data, name) == "chunked"
            np.testing.assert_array_equal(read(data, 3, 47), values[3:47])


def test_pytables_files_are_read_as_they_are(tmp_path):
    tables = pytest.importorskip("tables", reason="PyTables is not installed")
    values = np.random.default_rng(0).random((ROWS, 4)).astype("f4")
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "plain", values)
        file.create_carray("/", "packed", obj=values, filters=tables.Filters(5, "zlib", shuffle=True, fletcher32=True))
        file.create_earray("/group", "blosc", obj=values, filters=tables.Filters(5, "blosc"), createparents=True)
    for name, expected in {"plain": "contiguous", "packed": "chunked", "group/blosc": "chunked"}.items():
        with open_shards(tmp_path / "a.h5", name, None) as data:
            assert road(data, name) == expected
            np.testing.assert_array_equal(read(data, 3, 47), values[3:47])


def test_matlab_files_are_read_as_they_are(tmp_path):
    """MATLAB v7.3 is HDF5 behind 512 bytes of its own, columns first: a (4, ROWS) matrix there has ROWS rows here."""
    values = np.random.default_rng(0).random((ROWS, 4))
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file.create_dataset("small", data=values).attrs["MATLAB_class"] = np.bytes_("double")
        file.create_dataset("large", data=values, chunks=(16, 4), compression="gzip").attrs["MATLAB_class"] = np.bytes_("double")
    with (tmp_path / "a.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    for name in ("small", "large"):
        with open_shards(tmp_path / "a.mat", name, None) as data:
            assert road(data, name) != "library"
            np.testing.assert_array_equal(read(data, 3, 47, np.float64), values[3:47])


def test_a_link_that_leads_nowhere_says_where_it_led(tmp_path):
    (tmp_path / "a.h5").symlink_to(tmp_path / "gone.h5")
    with pytest.raises(ShardError, match=r"a\.h5: is a symbolic link to .*gone\.h5, which does not exist"):
        open_shards(tmp_path / "*.h5")


def test_a_file_that_a_writer_holds_open_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest", locking=False) as file:
        file["x"] = np.ones((4, 2))
        file.swmr_mode = True
        shutil.copy(tmp_path / "a.h5", tmp_path / "b.h5")  # in one process HDF5 would share the writer's file
        with pytest.raises(ShardError, match="is open for writing in another program"):
            open_shards(tmp_path / "b.h5", target=None)


def test_more_files_than_a_process_may_open_are_read_or_refused_by_name(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    values = [write(tmp_path / f"{i}.h5", seed=i) for i in range(30)]
    with open_shards(tmp_path / "*.h5", target=None) as data:
        used = len(os.listdir("/proc/self/fd"))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, hard))
            np.testing.assert_array_equal(read(data, 0, 30 * ROWS), np.concatenate(values))
            data.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
            with pytest.raises(ShardError, match="ulimit -n"):
                read(data, 0, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
