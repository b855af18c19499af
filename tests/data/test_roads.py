"""Every layout of every maker gives the rows that h5py gives, by the road that it allows."""

from __future__ import annotations

import os
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcml.data import Loader, Sampler, open_shards
from hpcml.data.dataset import ShardedDataset
from hpcml.data.index import Index
from hpcml.data.rings import Ring
from hpcml.data.windows import group_pieces
from hpcml.errors import ShardError

plugins = pytest.importorskip("hdf5plugin", reason="the codecs LZ4, Zstandard and Blosc come with hdf5plugin")

ROWS = 50
LAYOUTS = {
    "contiguous": ("contiguous", {}),
    "chunks of whole rows": ("chunked", {"chunks": (8, 3, 4)}),
    "chunks across rows": ("chunked", {"chunks": (8, 2, 3), "compression": "gzip"}),
    "one chunk": ("chunked", {"chunks": (50, 3, 4), "compression": "gzip", "shuffle": True}),
    "growing": ("chunked", {"chunks": (16, 3, 4), "maxshape": (None, 3, 4)}),
    "growing, compressed": ("chunked", {"chunks": (16, 3, 4), "maxshape": (None, 3, 4), "compression": "gzip"}),
    "fletcher": ("chunked", {"chunks": (7, 3, 4), "fletcher32": True}),
    "lz4": ("chunked", {"chunks": (8, 3, 4), **plugins.LZ4()}),
    "zstd": ("chunked", {"chunks": (8, 3, 4), **plugins.Zstd()}),
    "blosc": ("chunked", {"chunks": (8, 3, 4), **plugins.Blosc()}),
    "lzf": ("library", {"chunks": (8, 3, 4), "compression": "lzf"}),
    "scale-offset": ("library", {"chunks": (8, 3, 4), "scaleoffset": 0, "only": "i4"}),
}
DTYPES = ["<f4", ">f4", "<f8", "<f2", "i1", ">u2", "<i8", "?"]


def write(path, name="x", dtype="<f4", seed=0, **layout):
    dtype = layout.pop("only", dtype)
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 if dtype == "?" else 100, (ROWS, 3, 4)).astype(dtype)
    with h5py.File(path, "a", libver=layout.pop("libver", None), userblock_size=layout.pop("userblock", 0)) as file:
        file.create_dataset(name, data=values, **layout)
    return values


def read(data, start, stop, dtype=np.float32):
    out = np.full((stop - start, *data.x.shape), -1, dtype)
    data.read(start, stop, out)
    return out


def road(data, name="x"):
    return data.index.shards[0].stored(name).road


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_dtype_gives_the_rows_of_h5py(tmp_path, layout, dtype):
    expected, options = LAYOUTS[layout]
    values = write(tmp_path / "a.h5", dtype=dtype, **options)
    with open_shards(tmp_path / "a.h5", target=None) as data:
        assert road(data) == expected
        if layout == "scale-offset":
            assert "filter 6" in data.index.shards[0].stored("x").why
        for start, stop in ((0, ROWS), (3, 29), (49, 50), (8, 16), (7, 8)):
            for kind in (np.float32, np.float64):
                np.testing.assert_array_equal(read(data, start, stop, kind), values[start:stop].astype(kind))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@pytest.mark.parametrize("layout", ["contiguous", "chunks across rows", "growing", "lz4", "lzf"])
@given(choice=st.data())
def test_the_loader_gives_each_row_once_from_every_layout(tmp_path_factory, layout, choice):
    folder = tmp_path_factory.mktemp("l")
    values = np.concatenate([write(folder / f"{i}.h5", seed=i, **LAYOUTS[layout][1]) for i in range(2)]).astype(np.float32)
    with open_shards(folder / "*.h5", target=None) as data:
        batch = choice.draw(st.integers(1, 100))
        sampler = Sampler(
            data.shard_rows,
            batch,
            choice.draw(st.integers(1, min(batch, 3))),
            choice.draw(st.integers(0, 9)),
            choice.draw(st.sampled_from(["none", "block", "window", "global"])),
            choice.draw(st.integers(1, 20)),
            choice.draw(st.integers(1, 6)),
        )
        seen = []
        for parts in Loader(data, sampler, range(sampler.workers), threads=choice.draw(st.integers(1, 3))).batches(0):
            for part in parts:
                np.testing.assert_array_equal(part.x, values[part.rows])
                seen += part.rows.tolist()
        assert sorted(seen) == list(range(2 * ROWS))


@pytest.mark.parametrize("layout", ["contiguous", "chunks across rows", "lz4"])
def test_each_byte_of_a_shard_is_read_once_an_epoch(tmp_path, layout):
    write(tmp_path / "a.h5", **LAYOUTS[layout][1])
    for workers in (1, 2, 4):
        with open_shards(tmp_path / "a.h5", target=None) as data:
            sampler = Sampler(data.shard_rows, 12, workers, 7, block=8, window=2)
            list(Loader(data, sampler, range(workers), threads=1).batches(0))
            assert data.bytes_read == data.index.shards[0].stored("x").nbytes


@pytest.mark.parametrize("shuffle", ["none", "block", "window"])
@pytest.mark.parametrize("layout", [{}, {"chunks": (8, 3, 4)}, {"chunks": (8, 3, 4), "compression": "gzip"}])
def test_ranks_read_each_byte_of_features_and_short_targets_once_together(tmp_path, layout, shuffle):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).integers(0, 9, (64, 3, 4)).astype("<f4"), **layout)
        file["y"] = np.arange(64)
    read = 0
    for rank in range(4):  # batches of 32 give each worker whole chunks of 8
        with open_shards(tmp_path / "a.h5") as data:
            sampler = Sampler(data.shard_rows, 32, 4, 7, shuffle, block=8, window=2)
            for (batch,) in Loader(data, sampler, [rank], threads=2).batches(0):
                np.testing.assert_array_equal(batch.y, batch.rows)
            read += data.bytes_read
            whole = sum(stored.nbytes for _, stored in data.index.shards[0].fields)
    assert read == whole


@given(asked=st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, ROWS)), min_size=1, max_size=8))
def test_rows_of_a_short_field_are_right_in_any_order_and_never_read_again(once, asked):
    with open_shards(once, target=None) as data:
        for start, count in asked:
            stop = min(ROWS, start + count)
            np.testing.assert_array_equal(read(data, start, stop)[:, 0], np.arange(start, stop))
        read(data, 0, ROWS)
        before = data.bytes_read
        for start, count in asked:
            read(data, start, min(ROWS, start + count))
        assert data.bytes_read == before


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    path = tmp_path_factory.mktemp("short") / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(ROWS, dtype="<f4")[:, None]
    return path


@pytest.mark.parametrize("layout", ["contiguous", "chunks across rows", "lz4", "lzf"])
@pytest.mark.parametrize("here", [True, False])
def test_the_next_rows_are_announced_where_they_are_not_in_memory(tmp_path, monkeypatch, layout, here):
    write(tmp_path / "a.h5", **LAYOUTS[layout][1])
    told, whole = [], []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, offset, nbytes, advice: told.append((offset, offset + nbytes)))
    real = os.preadv

    def preadv(fd, buffers, offset, flags=0):
        if flags and not here:
            raise BlockingIOError
        return 1 if flags else real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with open_shards(tmp_path / "a.h5", target=None) as data:
        stored = data.index.shards[0].stored("x")
        seen = [part.rows for parts in Loader(data, Sampler([ROWS], 12, 2, 7, block=8, window=2), [0, 1]).batches(0) for part in parts]
        assert sorted(np.concatenate(seen).tolist()) == list(range(ROWS))
        data.announce(0, ROWS)
        whole = told[-1:]
        if here or stored.road == "library":
            assert not told
        else:
            assert sum(stop - start for start, stop in whole) == stored.nbytes
            assert all(whole[0][0] <= start < stop <= whole[0][1] for start, stop in told)


@pytest.mark.parametrize("here", [True, False])
def test_windows_in_memory_are_announced_seldom_and_others_whole(tmp_path, monkeypatch, here):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((640, 8), "<f4")
    announced = []
    monkeypatch.setattr(ShardedDataset, "announce", lambda self, start, stop: announced.append((start, stop)))
    monkeypatch.setattr(ShardedDataset, "hints", property(lambda self: 0 if here else len(announced)))
    with open_shards(tmp_path / "a.h5", target=None) as data:
        sampler = Sampler(data.shard_rows, 64, 1, 7, block=1, window=640, shuffle="block")
        runs = [(row, row + 1) for row in range(0, 640, 2)]
        ring = Ring(data, sampler, 0, np.dtype("f4"), 1)
        ring.begin(0, 0)
        ring._announce(group_pieces(runs, 640, lambda row: False)[0])
    assert announced[:8] == runs[:8]
    assert announced == (runs[:8] + runs[8::8] if here else runs)


def test_an_announcement_of_rows_that_cannot_be_read_leaves_the_error_to_the_read(tmp_path):
    write(tmp_path / "a.h5")
    with open_shards(tmp_path / "a.h5", target=None) as data:
        (tmp_path / "a.h5").unlink()
        data.announce(0, ROWS)
        with pytest.raises(ShardError, match="cannot be found"):
            read(data, 0, 1)


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


def test_long_rows_land_straight_in_their_places(tmp_path):
    values = np.random.default_rng(0).random((64, 2000)).astype("<f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values
    with open_shards(tmp_path / "a.h5", target=None) as data:
        for parts in Loader(data, Sampler([64], 9, 2, 7, block=4, window=3), [0, 1]).batches(0):
            for part in parts:
                np.testing.assert_array_equal(part.x, values[part.rows])


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
