"""Checkpoints: whole or not at all, whatever moment the process is killed at, and never the wrong one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from hpcml.comm import simulated
from hpcml.comm.alone import Alone
from hpcml.errors import CheckpointError
from hpcml.train import checkpoint

WEIGHTS = np.arange(7, dtype=np.float32)


def save(folder, step, keep=3, comm=None, workers=None):
    """Write a checkpoint whose weights tell its step."""
    return checkpoint.save(folder, comm or Alone(), {"step": step, "note": "x"}, {"weights": WEIGHTS + step}, workers or {}, keep)


def steps(folder):
    """The steps of the checkpoints that are there, in the order of `find`."""
    return [int(path.name.removeprefix("step-")) for path in checkpoint.find(folder)]


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    found = checkpoint.load(save(tmp_path, 5))
    np.testing.assert_array_equal(found.shared()["weights"], WEIGHTS + 5)
    assert found.step == 5
    assert found.manifest["note"] == "x"
    assert found.worker(3) == {}


@pytest.mark.parametrize("writers", [1, 2, 3, 4])
def test_workers_are_found_whatever_number_of_ranks_wrote_them(tmp_path, writers):
    from hpcml.arrays import span

    def program(comm):
        mine = span(4, comm.size, comm.rank)
        save(tmp_path, 1, comm=comm, workers={w: {"data": WEIGHTS * w} for w in range(mine.start, mine.stop)})

    simulated.run(writers, program)
    found = checkpoint.load(checkpoint.find(tmp_path)[0])
    for worker in range(4):
        np.testing.assert_array_equal(found.worker(worker)["data"], WEIGHTS * worker)


def test_the_last_few_stay(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [4, 5]


def test_order_is_by_number_also_beyond_eight_digits(tmp_path):
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step, keep=1)
    assert steps(tmp_path) == [100_000_000]


def test_foreign_names_are_left_alone(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "step-best").mkdir()
    save(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [2]
    assert (tmp_path / "checkpoints" / "step-best").exists()


def test_a_newer_corrupt_one_never_pushes_out_the_whole_ones(tmp_path):
    for step in (10, 90):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000090" / "shared.h5").unlink()
    save(tmp_path, 20, keep=1)
    assert checkpoint.newest(tmp_path)[0].step == 20


def test_a_corrupt_one_is_replaced_when_its_step_is_reached_again(tmp_path):
    (save(tmp_path, 3) / "manifest.json").write_text("{}")
    save(tmp_path, 3)
    assert checkpoint.problem(checkpoint.find(tmp_path)[0]) is None
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003"]


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


HURTS = {"flip": flip, "truncate": truncate, "missing": lambda path: path.unlink(), "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize("hurt", HURTS)
@pytest.mark.parametrize("name", ["shared.h5", "workers-0-0.h5", "manifest.json"])
def test_any_damage_to_any_file_is_found_and_the_older_one_is_taken(tmp_path, name, hurt):
    save(tmp_path, 1)
    newer = save(tmp_path, 2, workers={0: {"data": WEIGHTS}})
    HURTS[hurt](newer / name)
    found, problems = checkpoint.newest(tmp_path)
    assert found.step == 1
    assert len(problems) == 1
    assert name in problems[0]


@pytest.mark.parametrize("text", ["[]", "null", "3", '"seal"', "{}", '{"seal": 1}', '{"seal": 1, "files": {}}', "\ud800"])
def test_any_text_as_a_manifest_is_a_problem_not_a_crash(tmp_path, text):
    path = save(tmp_path, 1)
    (path / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    assert "manifest" in checkpoint.problem(path)


def test_a_manifest_changed_by_hand_is_refused(tmp_path):
    path = save(tmp_path, 1) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "step": 2}))
    assert "seal" in checkpoint.problem(path.parent)


def test_no_whole_checkpoint_is_said_with_every_reason(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step) / "shared.h5")
    with pytest.raises(CheckpointError, match=r"(?s)no whole checkpoint.*step-00000002.*step-00000001"):
        checkpoint.require_newest(tmp_path)


def test_a_disk_that_takes_no_more_leaves_nothing_half_on_any_rank(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(path, groups):
        (path.parent / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(CheckpointError, match=r"No space left.*older checkpoints are as they were"):
        simulated.run(3, lambda comm: save(tmp_path, 2, comm=comm, workers={comm.rank: {"data": WEIGHTS}}))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


MORTAL = """
import os, pathlib, shutil, signal, sys
import numpy as np
from hpcml.comm.alone import Alone
from hpcml.train import checkpoint

left = 0

def mortal(function):
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call

def life(folder):
    for where, name in [(os, "fsync"), (os, "open"), (os, "close"), (pathlib.Path, "rename"), (pathlib.Path, "mkdir"),
                        (pathlib.Path, "write_text"), (pathlib.Path, "write_bytes"), (shutil, "rmtree")]:
        setattr(where, name, mortal(getattr(where, name)))
    weights = np.arange(7, dtype=np.float32)
    checkpoint.save(folder, Alone(), {"step": 2}, {"weights": weights + 2}, {0: {"data": weights}}, keep=1)
    os._exit(17)

import h5py
root, code = pathlib.Path(sys.argv[1]), 0
for point in range(100):
    folder = root / f"killed-at-{point}"
    shutil.copytree(root / "before", folder)
    child = os.fork()
    if child == 0:
        left = point
        life(folder)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        break
sys.exit(code)
"""


def test_killed_at_any_write_point_what_is_left_is_the_whole_old_or_the_whole_new(tmp_path):
    """With keep=1, so that the older one is removed at the end: the removal is a point to be killed at, too."""
    save(tmp_path / "before", 1)
    done = subprocess.run([sys.executable, "-c", MORTAL, tmp_path], capture_output=True, text=True, timeout=50)
    assert done.returncode == 17, done.stderr  # the last life came to its end
    lives = sorted(tmp_path.glob("killed-at-*"))
    assert len(lives) > 15
    left = []
    for folder in lives:
        found, problems = checkpoint.newest(folder)
        assert problems == []
        np.testing.assert_array_equal(found.shared()["weights"], WEIGHTS + found.step)
        left.append(found.step)
        save(folder, 3)  # the next attempt goes on and leaves no litter
        assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert set(left) == {1, 2}
