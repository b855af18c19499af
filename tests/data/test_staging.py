"""Staged shards are the originals, copied once, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import socket

import numpy as np
import pytest

from hpcml.data import ShardedDataset, open_shards
from hpcml.data.staging import require_room, stage, staged, staged_path
from hpcml.errors import ShardError


@pytest.fixture
def index(make_shards, tmp_path):
    (tmp_path / "disk").mkdir()
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


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_progress_is_told_while_a_file_is_copied(index, tmp_path, monkeypatch):
    monkeypatch.setattr("hpcml.data.staging.PIECE", 1000)
    told = []

    def note(done, total):
        told.append((done, len(files(tmp_path / "disk"))))

    stage(index, tmp_path / "disk", told=note)
    sizes = [shard.size for shard in index.shards]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == sum(sizes)
    assert [there for done, there in told if 0 < done < sizes[0]] == [1] * (sizes[0] // 1000 - (sizes[0] % 1000 == 0))


def test_a_folder_that_is_not_there_or_has_no_room_is_refused_before_anything_is_copied(index, tmp_path, monkeypatch):
    require_room(index, tmp_path / "disk")
    (tmp_path / "file").touch()
    for name in ("file", "nothing/here"):
        with pytest.raises(ShardError, match=r"data\.stage is no folder on this node; make it"):
            require_room(index, tmp_path / name)
    assert not (tmp_path / "nothing").exists()
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(ShardError, match="variable in it is not set"):
        require_room(index, "$NO_SUCH_FOLDER")
    huge = dataclasses.replace(index, shards=(dataclasses.replace(index.shards[0], size=1 << 60),))
    with pytest.raises(ShardError, match=r"MB are free, the copies of the shards need 1,152,921,504,607 MB"):
        require_room(huge, tmp_path / "disk")


def test_an_original_that_changed_or_is_not_its_manifests_is_refused(index, tmp_path):
    other = dataclasses.replace(index, shards=tuple(dataclasses.replace(shard, sha256="0" * 64) for shard in index.shards))
    with pytest.raises(ShardError, match=r"part-0\.h5: sha256 .* is not the manifest's 000000000000"):
        stage(other, tmp_path / "disk")
    os.utime(index.shards[0].path, ns=(1, 1))
    with pytest.raises(ShardError, match=r"part-0\.h5: changed while it was copied"):
        stage(index, tmp_path / "disk")
    assert files(tmp_path / "disk") == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_an_interrupt_leave_nothing_half_written(index, tmp_path, monkeypatch, error):
    def full(_):
        raise error

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((ShardError, KeyboardInterrupt)) as caught:
        stage(index, tmp_path / "disk")
    assert files(tmp_path / "disk") == []
    if isinstance(error, OSError):
        assert "part-0.h5: cannot be copied" in str(caught.value)
        assert f"No space left on device); data.stage needs {index.shards[0].size:,} bytes free" in str(caught.value)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(index, tmp_path):
    place = staged_path(index, tmp_path / "disk", index.shards[0])
    place.parent.mkdir()
    here = socket.gethostname()
    dead, *others = (place.with_name(f".partial-{by}-{place.name}") for by in (f"{here}-{1 << 30}", f"{here}-{os.getppid()}", f"x{here}-1"))
    for path in (dead, *others):
        path.write_bytes(b"half")
    stage(index, tmp_path / "disk")
    assert [path.exists() for path in (dead, *others)] == [False, True, True]


def test_variables_of_the_node_are_filled_in(index, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    stage(index, "$NODE_DISK")
    assert staged(index, "$NODE_DISK").shards[0].path.startswith(str(tmp_path / "disk"))


def test_an_old_copy_is_never_taken_for_a_new_original(index, tmp_path, monkeypatch):
    stage(index, tmp_path / "disk")
    os.utime(index.shards[0].path, ns=(1, 1))
    changed = open_shards([shard.path for shard in index.shards]).index

    def killed(*names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            stage(changed, tmp_path / "disk")
    with pytest.raises(ShardError, match="is not there; stage again"):
        staged(changed, tmp_path / "disk")
    stage(changed, tmp_path / "disk")
    staged(changed, tmp_path / "disk")
    os.utime(staged_path(changed, tmp_path / "disk", changed.shards[0]), ns=(2, 2))
    with pytest.raises(ShardError, match="is not there; stage again"):
        staged(changed, tmp_path / "disk")
