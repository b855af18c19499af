"""Data sets as a job opens them: one memory for the rows of a node, on simulated and real worlds."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcml.arrays import span
from hpcml.comm import simulated
from hpcml.comm.communicator import Op
from hpcml.config import DataConfig
from hpcml.data import Loader, Sampler
from hpcml.errors import ShardError
from hpcml.opening import kept, open_data

LENGTHS, WORKERS, WIDTH = (70, 41, 90), 5, 600


@pytest.fixture
def pattern(shared_path):
    """Shards whose x[i, j] is i + j / 1024 and whose y[i] is (i, ..., i); both are too long to be read whole as a column."""
    first = 0
    for number, rows in enumerate(LENGTHS):
        at = np.arange(first, first + rows)
        path = shared_path / f"{os.getpid()}-{number}.h5"  # every rank writes shards of its own; rank 0's are the ones that are opened
        with h5py.File(path, "w") as file:
            file["x"] = (at[:, None] + np.arange(WIDTH) / 1024).astype(np.float32)
            file["y"] = np.repeat(at[:, None], 3, axis=1)
        first += rows
    return str(shared_path / f"{os.getpid()}-*.h5")


def mapped():
    """Return the bytes of shared memory that this process has mapped."""
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm" in line]
    return sum(int(stop, 16) - int(start, 16) for start, stop in ranges)


@pytest.mark.mpi
def test_the_memory_of_the_rows_is_given_back_at_close(comm, pattern):
    keys = DataConfig(train=pattern, cache="node")
    plain = open_data(pattern, "x", "y", comm, keys)
    before = mapped()
    data = kept(plain, keys, "float32", comm, [])
    during = mapped()
    data.close()
    assert comm.size == 1 or during >= before + sum(LENGTHS) * WIDTH * 4
    assert mapped() - before < during - before or comm.size == 1
    x = np.empty((5, WIDTH), np.float32)
    data.read(0, 5, x)  # from the files
    np.testing.assert_array_equal(x[:, 0], range(5))


def an_epoch(loader, epoch):
    """Return (worker, step) -> (rows, x, y) of an epoch."""
    steps = enumerate(loader.batches(epoch))
    return {(b.worker, step): (b.rows.copy(), b.x.copy(), b.y.copy()) for step, parts in steps for b in parts if b.error is None}


def test_the_ranks_of_a_node_read_each_row_once_and_see_the_rows_of_the_files(on_every_rank, pattern):
    def program(comm):
        keys, notes = DataConfig(train=pattern, cache="node"), []
        data = kept(open_data(pattern, "x", "y", comm, keys), keys, "float32", comm, notes)
        sampler = Sampler(data.shard_rows, 13, WORKERS, 7, block=8, window=2)
        hosted = span(WORKERS, comm.size, comm.rank)
        loader = Loader(data, sampler, range(hosted.start, hosted.stop))
        for epoch in range(4):
            seen = np.zeros(data.rows, np.int64)
            for rows, x, y in an_epoch(loader, epoch).values():
                np.testing.assert_array_equal(x, (rows[:, None] + np.arange(WIDTH) / 1024).astype(np.float32))
                np.testing.assert_array_equal(y, np.repeat(rows[:, None], 3, axis=1))
                seen[rows] += 1
            comm.all_reduce(seen)
            assert (seen == 1).all()
            data.end_epoch()
        inside, _ = comm.by_node()
        read = np.array([data.bytes_read, -data.bytes_read], np.int64)
        inside.all_reduce(read)
        data.close()
        return int(read[0]), notes, inside.size, comm.size

    row = WIDTH * 4 + 3 * 8
    for read, notes, on_node, ranks in on_every_rank(program):
        assert notes == []
        assert read <= sum(LENGTHS) * row
        if on_node == ranks:
            assert read == sum(LENGTHS) * row


def test_a_node_without_room_says_so_and_reads_its_files(on_every_rank, pattern, monkeypatch):
    monkeypatch.setenv("HPCML_SHARED_BYTES", "1000")

    def program(comm):
        keys, notes = DataConfig(train=pattern, cache="node"), []
        data = kept(open_data(pattern, "x", "y", comm, keys), keys, "float32", comm, notes)
        x, read = np.empty((200, WIDTH), np.float32), []
        for _ in range(2):
            data.read(0, 200, x)
            read.append(data.bytes_read)
        data.close()
        many = np.array([comm.size > 1], np.int32)
        comm.all_reduce(many, Op.MAX)
        return notes, read, comm.host

    for notes, read, host in on_every_rank(program):
        if notes:  # a simulated world has room always
            assert read[1] > read[0]
            assert notes[0].startswith('data.cache = "node": ')
            assert host in notes[0]
            assert "shared memory" in notes[0]
            assert "HPCML_SHARED_BYTES allows" in notes[0]
        else:
            assert read[1] == read[0]


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_each_file_is_opened_by_hdf5_once_for_its_metadata_whatever_the_ranks(tmp_path, monkeypatch, ranks):
    files = 7
    for number in range(files):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.create_dataset("x", data=np.full((16, 600), number, "f4"), chunks=(4, 600), compression="gzip")
            file["y"] = np.full(16, number)
    opened, plain = [], h5py.File

    def counted(path, *args, **keys):
        opened.append(Path(path).name)
        return plain(path, *args, **keys)

    def program(comm):
        data = open_data(str(tmp_path / "*.h5"), "x", "y", comm, DataConfig(train="x"))
        comm.barrier()
        metadata = list(opened)
        comm.barrier()
        x, y = np.empty((data.rows, 600), np.float32), np.empty(data.rows, np.int64)
        data.read(0, data.rows, x, y)
        np.testing.assert_array_equal(x[:, 0], np.repeat(np.arange(files), 16))
        return metadata

    monkeypatch.setattr(h5py, "File", counted)
    for metadata in simulated.run(ranks, program):
        assert sorted(metadata) == [f"{number}.h5" for number in range(files)]
    # Reading, each rank opens one file more: there it looks whether chunks decoded here are what HDF5 makes of them.
    assert len(opened) == files + ranks


def test_files_that_differ_are_named_whichever_ranks_looked_into_them(tmp_path):
    for number in range(5):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["x"], file["y"] = np.ones((3, 4 if number != 3 else 5), "f4"), np.arange(3)
    for ranks in (1, 2, 3):
        with pytest.raises(ShardError, match=r"3\.h5: field 'x' has row shape \(5,\), expected \(4,\) as in .*\.h5"):
            simulated.run(ranks, lambda comm: open_data(str(tmp_path / "*.h5"), "x", "y", comm))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_quarantine_goes_on_without_files_that_cannot_be_opened_and_says_so(tmp_path, ranks):
    for number in range(5):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["x"], file["y"] = np.full((3, 4), number, "f4"), np.full(3, number)
    whole = (tmp_path / "0.h5").read_bytes()
    (tmp_path / "0.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.h5").write_bytes(b"")
    pattern = str(tmp_path / "*.h5")

    def program(comm, on_corrupt="quarantine", notes=None):
        return open_data(pattern, "x", "y", comm, DataConfig(train="x", on_corrupt=on_corrupt), notes=notes)

    with pytest.raises(ShardError, match=r"[03]\.h5: is (empty|a damaged or truncated)"):
        simulated.run(ranks, lambda comm: program(comm, "stop", []))
    with pytest.raises(ShardError, match=r"[03]\.h5: is (empty|a damaged or truncated)"):
        simulated.run(ranks, program)  # who keeps no notes would leave them out in silence

    def told(comm):
        notes = []
        return notes, program(comm, notes=notes)

    for notes, data in simulated.run(ranks, told):
        assert [Path(shard.path).name for shard in data.index.shards] == ["1.h5", "2.h5", "4.h5"]
        (note,) = notes
        assert "2 of 5 files cannot be opened, their rows are not in this run; the first: " in note
        assert f"{tmp_path / '0.h5'}: is a damaged or truncated HDF5 file of {len(whole) // 2} bytes" in note
    for number in (1, 2, 4):
        (tmp_path / f"{number}.h5").write_bytes(b"no HDF5")
    with pytest.raises(ShardError, match="5 of 5 files cannot be opened, so there is nothing to go on with"):
        simulated.run(ranks, lambda comm: program(comm, notes=[]))
