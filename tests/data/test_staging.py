"""Staged shards are the originals, copied once, whole or not at all."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hpcml.data import ShardedDataset, open_shards
from hpcml.data.staging import stage, staged, staged_path
from hpcml.errors import ShardError


@pytest.fixture
def index(make_shards):
    return open_shards(make_shards([5, 1, 9])).index


def test_processes_share_the_copying_and_read_the_copies(index, truth, tmp_path):
    told = []
    for part in range(2):
        stage(index, tmp_path / "disk", part, 2, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    copies = staged(index, tmp_path / "disk")
    assert copies.fingerprint() == index.fingerprint()
    with ShardedDataset(copies) as data:
        x = np.empty((15, 3), np.float32)
        data.read(0, 15, x)
        np.testing.assert_array_equal(x, truth(range(15)))
        assert str(data.locate(7)[0]).startswith(str(tmp_path / "disk"))


def test_copies_that_are_there_are_kept_and_others_made_again(index, tmp_path):
    stage(index, tmp_path / "disk")
    places = [staged_path(index, tmp_path / "disk", shard) for shard in index.shards]
    times = [place.stat().st_mtime_ns for place in places]
    stage(index, tmp_path / "disk")
    assert [place.stat().st_mtime_ns for place in places] == times
    os.truncate(places[1], 100)
    with pytest.raises(ShardError, match=r"part-1\.h5: the copy of .* is not there"):
        staged(index, tmp_path / "disk")
    stage(index, tmp_path / "disk")
    staged(index, tmp_path / "disk")


def test_an_original_that_changed_and_a_folder_that_cannot_be_written_are_refused(index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match="cannot be written"):
        stage(index, tmp_path / "file")
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(ShardError, match="variable in it is not set"):
        stage(index, "$NO_SUCH_FOLDER")
    os.utime(index.shards[2].path, ns=(1, 1))
    with pytest.raises(ShardError, match=r"part-2\.h5: changed while it was copied"):
        stage(index, tmp_path / "disk")
    assert not list((tmp_path / "disk").rglob(".partial*part-2*"))


def test_a_full_disk_leaves_nothing_half_written(index, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ShardError, match=r"No space left on device.*bytes free"):
        stage(index, tmp_path / "disk")
    assert not [path for path in (tmp_path / "disk").rglob("*") if path.is_file()]


def test_variables_of_the_node_are_filled_in(index, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    stage(index, "$NODE_DISK")
    assert staged(index, "$NODE_DISK").shards[0].path.startswith(str(tmp_path / "disk"))
