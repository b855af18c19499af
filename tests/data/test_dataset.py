"""Many files are one row space: numpy's slices of the whole are the oracle."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcml.data import handles, roads
from hpcml.data.dataset import ShardedDataset, open_shards
from hpcml.data.index import Index
from hpcml.errors import DataError, ShapeError, ShardError

LENGTHS = [5, 1, 9, 3]


def rows_of(dataset, start, stop, dtype=np.float32):
    x = np.full((stop - start, *dataset.x.shape), -1, dtype)
    y = np.full((stop - start, *dataset.y.shape), -1, np.int64)
    dataset.read(start, stop, x, y)
    return x, y


@pytest.fixture
def data(make_shards):
    with open_shards(make_shards(LENGTHS)) as dataset:
        yield dataset


@given(ends=st.tuples(st.integers(0, 18), st.integers(0, 18)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_run_of_rows_is_a_slice_of_the_whole(data, truth, ends):
    start, stop = sorted(ends)
    x, y = rows_of(data, start, stop)
    np.testing.assert_array_equal(x, truth(range(start, stop)))
    np.testing.assert_array_equal(y, np.arange(start, stop))


LAYOUTS = {
    "contiguous": {},
    "big-endian": {"dtype": ">f4", "y_dtype": ">i4"},
    "gzip": {"chunks": True, "compression": "gzip", "shuffle": True},
    "float64": {"dtype": "<f8", "y_dtype": "u1"},
    "big-endian float64 in chunks": {"dtype": ">f8", "y_dtype": ">u2", "chunks": True},
    "float16": {"dtype": "<f2", "y_dtype": "i1"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_gives_the_same_rows(make_shards, truth, monkeypatch, layout, dtype):
    monkeypatch.setattr(roads, "STAGING_BYTES", 64)
    with open_shards(make_shards(LENGTHS, **layout)) as data:
        x, y = rows_of(data, 1, 17, dtype)
        np.testing.assert_array_equal(x, truth(range(1, 17)))
        np.testing.assert_array_equal(y, np.arange(1, 17))


@pytest.mark.parametrize(("dtype", "values"), [("u1", [0, 255]), ("?", [True, False]), ("i8", [-(2**62), 2**62]), ("u4", [0, 2**32 - 1])])
def test_whole_numbers_and_truth_values_become_real_features_and_int64_targets(tmp_path, dtype, values):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = file["y"] = np.array(values, dtype)
    with open_shards(tmp_path / "a.h5") as data:
        x, y = rows_of(data, 0, 2)
    assert y.tolist() == [int(value) for value in values]
    np.testing.assert_array_equal(x, np.array(values).astype(np.float32))


def test_rows_may_have_any_shape_and_the_target_may_be_absent(tmp_path):
    x = np.arange(2 * 3 * 4 * 5, dtype="f4").reshape(2, 3, 4, 5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = x
    with open_shards(tmp_path / "a.h5", target=None) as data:
        out = np.empty((1, 3, 4, 5), np.float32)
        data.read(1, 2, out)
        np.testing.assert_array_equal(out, x[1:])
        with pytest.raises(ShapeError, match="target=None"):
            data.read(1, 2, out, np.empty(1, np.int64))


def test_locate_names_the_file_and_the_row_in_it(data):
    found = [(path.name, row) for path, row in map(data.locate, range(18))]
    assert found == [(f"part-{i}.h5", row) for i, rows in enumerate(LENGTHS) for row in range(rows)]
    for row in (-1, 18):
        with pytest.raises(DataError, match="rows 0 to 17"):
            data.locate(row)


def test_rows_and_arrays_that_do_not_fit_are_refused(data):
    x, y = np.empty((2, 3), np.float32), np.empty(2, np.int64)
    for start, stop in ((17, 19), (-1, 1), (2, 1)):
        with pytest.raises(DataError, match="0:18"):
            data.read(start, stop, x, y)
    for wrong in (np.empty((3, 3), np.float32), np.empty((2, 4), np.float32), np.empty((2, 6), np.float32)[:, ::2]):
        with pytest.raises(ShapeError, match="'x'"):
            data.read(0, 2, wrong, y)
    with pytest.raises(ShapeError, match="lose its values"):
        data.read(0, 2, np.empty((2, 3), np.int64), y)


def test_an_index_from_another_process_opens_the_same_rows(data, truth):
    with ShardedDataset(Index.from_json(data.index.to_json())) as twin:
        np.testing.assert_array_equal(rows_of(twin, 0, 18)[0], truth(range(18)))


def test_few_files_are_open_at_once_and_none_after_close(make_shards, truth, monkeypatch):
    monkeypatch.setattr(handles, "OPEN_AT_ONCE", 3)
    with open_shards(make_shards([2] * 8)) as data:
        assert data.open_files == 0
        for _ in range(2):
            np.testing.assert_array_equal(rows_of(data, 0, 16)[0], truth(range(16)))
            assert data.open_files == 3
        data.close()
        assert data.open_files == 0
        assert rows_of(data, 3, 4)[1] == [3]
    assert data.open_files == 0


@pytest.mark.parametrize("opened", [False, True])
def test_a_file_that_changed_since_the_index_is_refused(data, monkeypatch, opened):
    monkeypatch.setattr(handles, "RECHECK_SECONDS", -1.0)
    path = data.locate(5)[0]
    if opened:
        rows_of(data, 0, 18)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ShardError, match=r"part-1\.h5: changed since it was indexed"):
        rows_of(data, 0, 18)
    path.unlink()
    with pytest.raises(ShardError, match=r"part-1\.h5: was indexed but cannot be found"):
        rows_of(data, 5, 6)


def test_a_block_that_cannot_be_read_names_file_field_and_rows(make_shards):
    (path,) = make_shards([64], chunks=True, compression="gzip")
    index = open_shards(path).index
    with h5py.File(path) as file:
        info = file["x"].id.get_chunk_info(0)
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(info.byte_offset)
        file.write(b"\xff" * info.size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with ShardedDataset(index) as data, pytest.raises(ShardError, match=r"part-0\.h5: field 'x', rows 3:9 cannot be read"):
        rows_of(data, 3, 9)


def in_child(data, answers):
    try:
        answers.put(rows_of(data, 5, 6)[1].tolist())
    except ShardError as error:
        answers.put(str(error))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_open_handles_do_not_cross_a_fork_and_unopened_data_sets_do(data):
    context = multiprocessing.get_context("fork")
    for opened in (False, True):
        answers = context.SimpleQueue()
        child = context.Process(target=in_child, args=(data, answers))
        child.start()
        answer = answers.get()
        child.join(30)
        if opened:
            assert "used by its fork" in answer
            assert str(os.getpid()) in answer
        else:
            assert answer == [5]
        rows_of(data, 0, 2)


@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}])
def test_a_process_with_few_files_to_open_reads_many_shards_and_says_so_where_that_is_too_few(make_shards, truth, layout):
    index = open_shards(make_shards([2] * 40, **layout)).index
    program = (
        "import resource, sys, os, numpy as np\n"
        "from hpcml.data import Index, ShardedDataset\n"
        "import h5py, hpcml.data.codecs\n"
        "data = ShardedDataset(Index.from_json(sys.stdin.buffer.read()))\n"
        "x = np.empty((80, 3), np.float32)\n"
        "data.read(0, 2, x[:2])\n"
        "open_now = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "data.read(0, 80, x)\n"
        "assert (x[:, 0] == np.arange(80)).all()\n"
        "data.close()\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.dup(0))\n"
        "except OSError: pass\n"
        "data.read(0, 80, x)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=index.to_json(), capture_output=True, timeout=50, check=False)
    last = done.stderr.decode().strip().splitlines()[-1]
    assert "ShardError" in last
    assert "this process has as many files open as it may" in last
    assert "`ulimit -n`" in last
    assert "again" not in last
