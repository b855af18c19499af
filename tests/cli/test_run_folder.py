"""What a run leaves behind, and what a start finds: configs, rows of metrics, summaries, checkpoints, and none of them lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from hpcml.config import load
from tests.mpirun import Child, clean_environment, launcher
from tests.small import LENGTHS, explained

ROWS = sum(LENGTHS)
STEPS = -(-ROWS // 16)


def test_the_folder_holds_what_the_readme_promises(job):
    job.train(2, "run", "run.log_every=2").check()
    summary = job.summary()
    wanted = {"ranks": 2, "virtual_workers": 4, "steps": 2 * STEPS, "epochs": 2, "rows": 2 * ROWS}
    assert {key: summary[key] for key in wanted} == wanted
    assert {"seconds", "rows_per_second", "metrics", "weights_sha256", "versions", "hosts"} <= summary.keys()
    assert {"train_loss", "train_accuracy", "test_loss", "test_accuracy"} == summary["metrics"].keys()
    assert {"python", "numpy", "h5py", "mpi4py", "hpcml"} <= summary["versions"].keys()
    rows = job.events()
    assert [row["event"] for row in rows] == ["start", "step", "step", "epoch", "step", "step", "epoch", "end"]
    assert all({"time", "epoch", "step"} <= row.keys() for row in rows)
    assert rows[-2]["test_loss"] == summary["metrics"]["test_loss"]
    assert job.checkpoints() == [f"step-{STEPS:08d}", f"step-{2 * STEPS:08d}"]


def test_the_resolved_config_is_the_same_job(job):
    result = job.train(2).check()
    again = job.hpcml(3, "train", "run/config.toml", "--run", "again").check()
    assert load(job.folder / "again" / "config.toml") == load(job.folder / "run" / "config.toml")
    assert job.digest("again") == job.digest()
    assert job.digest() in result.stdout
    assert job.digest() in again.stdout
    assert job.resolved()["model"]["outputs"] == 3
    assert job.resolved()["train"]["loss"] == "softmax-cross-entropy"


def test_workers_left_out_are_the_ranks_of_the_first_start_and_stay(job):
    job.config.write_text(job.config.read_text().replace("virtual_workers = 4\n", ""))
    job.train(3, "run", "train.epochs=1").check()
    assert job.resolved()["train"]["virtual_workers"] == 3
    job.train(2, options=("--resume",)).check()
    assert job.summary()["virtual_workers"] == 3


def test_a_folder_that_holds_a_run_is_refused_without_resume(job):
    job.train(1).check()
    before = (job.folder / "run" / "metrics.jsonl").read_text()
    explained(job.train(2, "run", "optimizer.rate=0.2"), "run already holds a run", "--resume")
    assert (job.folder / "run" / "metrics.jsonl").read_text() == before


def test_runs_without_a_name_are_numbered_and_the_newest_is_resumed(job):
    for _ in range(2):
        job.hpcml(1, "train", job.config, "--set", "train.epochs=1").check()
    assert sorted(path.name for path in (job.folder / "runs").iterdir()) == ["job", "job-2"]
    job.hpcml(1, "train", job.config, "--resume").check()
    assert job.summary("runs/job-2")["epochs"] == 2
    assert job.summary("runs/job")["epochs"] == 1


def test_a_run_killed_before_its_first_checkpoint_does_not_block_its_folder(job):
    job.train(1).check()
    shutil.rmtree(job.folder / "run" / "checkpoints")
    (job.folder / "run" / "summary.json").unlink()
    job.train(2).check()
    assert [row["event"] for row in job.events()].count("start") == 2


def test_a_config_of_the_user_s_own_is_never_overwritten(job):
    own = job.folder / "config.toml"
    own.write_text(job.config.read_text())
    explained(job.hpcml(2, "train", own, "--run", "."), "already holds a run")
    assert own.read_text() == job.config.read_text()


def test_resume_where_nothing_is_starts_fresh(job):
    result = job.train(2, options=("--resume",)).check()
    assert job.summary()["resumed_from"] is None
    assert "passed over" not in result.stdout


def test_resume_of_a_finished_run_changes_nothing_and_ends_well(job):
    job.train(2).check()
    summary, names = job.summary(), job.checkpoints()
    times = {name: os.stat(job.folder / "run" / "checkpoints" / name).st_mtime_ns for name in names}
    result = job.train(3, options=("--resume",)).check()
    assert job.summary() == summary
    assert {name: os.stat(job.folder / "run" / "checkpoints" / name).st_mtime_ns for name in job.checkpoints()} == times
    assert summary["weights_sha256"] in result.stdout


def test_resume_with_more_epochs_goes_on_and_equals_the_longer_run(job):
    job.train(2).check()
    job.train(3, "run", "train.epochs=4", options=("--resume",)).check()
    job.train(1, "long", "train.epochs=4").check()
    assert job.digest() == job.digest("long")
    assert job.summary()["epochs"] == 4
    assert [row["epoch"] for row in job.events() if row["event"] == "epoch"] == [1, 2, 3, 4]


def test_a_torn_row_of_metrics_is_cut_and_a_missing_epoch_row_comes_back(job):
    """What a kill between an epoch's checkpoint and its row leaves, or one in the middle of a row."""
    job.train(2).check()
    path = job.folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if json.loads(line)["step"] == 2 * STEPS)
    path.write_text("".join(lines[:last]) + '{"event": "ep')
    job.train(2, "run", "train.epochs=3", options=("--resume",)).check()
    epochs = [row for row in job.events() if row["event"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert epochs[1]["train_loss"] == json.loads(lines[last])["train_loss"]


def test_a_damaged_row_of_metrics_is_told_and_stays(job):
    job.train(2).check()
    path = job.folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    damaged = [*lines[:1], '{"event": "ep\n', "7\n", *lines[1:]]
    path.write_text("".join(damaged))
    result = job.train(2, "run", "train.epochs=3", options=("--resume",)).check()
    assert "note: run/metrics.jsonl: rows that cannot be read are left as they are: line 2, 3" in result.stdout
    assert path.read_text().startswith("".join(damaged))
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines() if '"epoch", ' in line] == [1, 2, 3]


def test_another_model_is_refused_and_named(job):
    job.train(2, "run", "train.epochs=1").check()
    before = job.resolved()
    explained(job.train(2, "run", "model.hidden=[6]", options=("--resume",)), "of another run", "parameter layout")
    explained(job.train(2, "run", "optimizer.rate=0.3", options=("--resume",)), "of another run", "optimizer", "0.3")
    explained(job.train(5, "run", options=("--resume",)), "5 ranks", "4 virtual workers")
    assert job.resolved() == before


def test_a_cosine_fixes_the_number_of_epochs(job):
    job.train(1, "run", "rate.name=cosine").check()
    message = explained(job.train(1, "run", "rate.name=cosine", "train.epochs=4", options=("--resume",)), "train.epochs", "is 16", "is 8")
    assert "SGD(" not in message
    explained(job.train(1, options=("--resume",)), "optimizer.*, rate.*", "SGD with Cosine")


def test_fewer_epochs_than_are_done_are_refused(job):
    job.train(1).check()
    before = (job.folder / "run" / "config.toml").read_bytes()
    explained(job.train(2, "run", "train.epochs=1", options=("--resume",)), "train.epochs is 1", "2 epochs", "are done")
    assert (job.folder / "run" / "config.toml").read_bytes() == before


def test_a_start_that_fails_leaves_no_folder_behind(job):
    explained(job.train(2, "deep/run", "data.train=nothing-*.h5"), "nothing-*.h5")
    assert not (job.folder / "deep").exists()
    (job.folder / "own").mkdir()
    (job.folder / "own" / "note").write_text("mine")
    explained(job.train(2, "own", "train.batch=1000"), "train.batch is 1000")
    assert [path.name for path in (job.folder / "own").iterdir()] == ["note"]


@pytest.mark.parametrize("name", ["manifest.json", "shared.h5", "workers-0-1.h5"])
def test_a_corrupt_checkpoint_is_passed_over_named_and_the_end_is_the_same(job, name):
    local = ["sync.name=local-steps", "sync.every=3", "run.checkpoint_every=3"]
    job.train(2, "run", *local).check()
    newest = job.folder / "run" / "checkpoints" / job.checkpoints()[-1]
    (newest / name).write_bytes((newest / name).read_bytes()[:-5])
    digest = job.digest()
    result = job.train(3, "run", *local, options=("--resume",)).check()
    assert f"checkpoint passed over: run/checkpoints/{newest.name}/{name}" in result.stdout
    assert f"going on from {job.checkpoints()[-2]}" in result.stdout
    assert job.digest() == digest
    assert next(row["text"] for row in job.events() if row["event"] == "note").startswith("checkpoint passed over")
    assert "CORRUPT" not in job.hpcml(1, "checkpoint", "verify", "run").check().stdout


def test_corrupt_checkpoints_are_told_by_every_command(job):
    job.train(2).check()
    newest, older = (job.folder / "run" / "checkpoints" / name / "shared.h5" for name in reversed(job.checkpoints()))
    newest.write_bytes(b"gone")
    for words in (["evaluate", "run"], ["predict", "run", "--data", "test-*.h5", "--out", "out.h5"]):
        result = job.hpcml(2, *words).check()
        assert result.stderr.count("checkpoint passed over: run/checkpoints/") == 1
    digest = job.hpcml(1, "checkpoint", "digest", "run").check()
    assert "passed over" in digest.stderr
    assert job.hpcml(1, "checkpoint", "verify", "run").returncode == 1
    assert "CORRUPT" in job.hpcml(1, "checkpoint", "list", "run").check().stdout
    older.unlink()
    explained(job.hpcml(2, "evaluate", "run"), "no whole checkpoint", "missing")
    explained(job.hpcml(1, "checkpoint", "digest", "run"), "no whole checkpoint")
    names = job.checkpoints()
    parts = ["no whole checkpoint among 2", "move run/checkpoints away", "missing", str(newest.relative_to(job.folder))]
    explained(job.train(2, options=("--resume",)), *parts)
    assert job.checkpoints() == names


def test_checkpoints_are_read_without_mpi(job):
    job.train(2).check()
    hidden = "import sys; sys.modules['mpi4py'] = sys.modules['mpi4py.MPI'] = None; from hpcml.cli.main import main; sys.exit(main())"
    for action, part in (("list", "4 workers"), ("verify", "whole"), ("digest", job.digest())):
        words = [sys.executable, "-c", hidden, "checkpoint", action, job.folder / "run"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, env=clean_environment())
        assert done.returncode == 0, done.stderr
        assert part in done.stdout


LIMITED = """
import resource, sys
from hpcml.train import init
init()  # MPI needs files of its own
sys.dont_write_bytecode = True  # Python would keep what the limit leaves of it
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
from hpcml.cli.main import main
sys.exit(main())
"""


def test_a_disk_that_takes_no_more_is_one_message_and_the_older_checkpoints_stay(job):
    """A limit on the size of a file: the first write beyond it fails as on a full disk."""
    wide = ["--set", "model.hidden=[800]", "--run", "run"]
    words = [launcher(), "-n", "2", sys.executable, "-c", LIMITED, "train", job.config, *wide]
    explained(Child(words, cwd=job.folder).wait(20), "run/checkpoints", "cannot be written (File too large)", "as they were")
    assert job.checkpoints() == []


def test_a_full_file_system_is_one_message_and_the_older_checkpoints_stay(job):
    disk = job.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system takes a right that this user has not")
    try:
        result = job.train(2, "disk/run", "model.hidden=[2000]", "run.keep=9")
        explained(result, "cannot be written (No space left on device)", "older checkpoints are as they were")
        whole = job.hpcml(1, "checkpoint", "verify", "disk/run")
        assert "CORRUPT" not in whole.stdout
        assert "step-00000004  whole" in whole.stdout
    finally:
        subprocess.run(["umount", disk], check=True)
