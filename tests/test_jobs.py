"""The job files are real: every script passes shellcheck and launches once. tests/test_golden.py trains every config."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcml.nn import squared_error

JOBS = Path(__file__).resolve().parent.parent / "jobs"
SCRIPTS = sorted([*JOBS.glob("*.slurm"), *JOBS.glob("*.pbs")])


def commands(script: Path) -> list[str]:
    """The lines of a script that do something."""
    return [line.strip() for line in script.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]


def launches(script: Path) -> list[str]:
    """The lines of a script that start ranks."""
    return [line for line in commands(script) if re.match(r"(exec\s+)?(mpirun|mpiexec|srun)\s", line)]


def test_there_are_job_files_to_test():
    assert {script.suffix for script in SCRIPTS} == {".slurm", ".pbs"}


def images(repository, part):
    """The rows of one part of the digits, (n, 64) float64."""
    shards = []
    for path in sorted(repository.glob(f"data/digits/{part}-*.h5")):
        with h5py.File(path) as file:
            shards.append(file["x"][...].astype(float).reshape(-1, 64))
    return np.concatenate(shards)


def test_what_the_page_sets_beside_the_autoencoder_is_true(repository):
    """The loss of a test row when the mean training row is its prediction, and when its shadow on eight principal axes is."""
    page = (repository / "docs" / "models.md").read_text()
    said = re.search(r"digits-autoencoder.toml.* ([\d.]+) is that of the mean row, ([\d.]+) that of eight", page)
    train, test = images(repository, "train"), images(repository, "test")
    mean = train.mean(axis=0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:8]
    for shown, prediction in zip(said.groups(), (mean + 0 * test, mean + (test - mean) @ axes.T @ axes), strict=True):
        assert f"{float(squared_error(prediction, test)[0]) / len(test):.1f}" == shown


@pytest.mark.parametrize("matplotlib", [True, False])
def test_an_autoencoders_picture_shows_originals_and_results(matplotlib, tmp_path, repository):
    truth = sorted((repository / "data" / "digits").glob("test-*.h5"))[0]
    with h5py.File(truth) as shard, h5py.File(tmp_path / "predictions.h5", "w") as file:
        file["prediction"] = shard["x"][...] / 2
    if not matplotlib:
        (tmp_path / "matplotlib.py").write_text("raise ImportError")
    elif importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed; pip install 'hpcml[plot]'")
    words = [JOBS / "digits-autoencoder.py", tmp_path / "predictions.h5", truth, tmp_path / "picture.png", "--lines", "1"]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{repository}"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=50, env=env)
    assert done.returncode == 0, done.stderr
    if matplotlib:
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        return
    head, size, _, points = (tmp_path / "picture.pgm").read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    assert (head, width, height) == (b"P5", 12 * 9 * 8, 2 * 9 * 8)
    grey = np.frombuffer(points, np.uint8).reshape(height, width).astype(int)
    above, below = grey[: height // 2], grey[height // 2 :]
    assert above.max() == 255
    assert (abs(above - 2 * below) <= 2).all()


@pytest.mark.parametrize(
    ("predictions", "shape", "words"),
    [
        ("none.h5", "8,8", "none.h5: no such file; write it by hpcml predict RUN --data SHARDS"),
        ("all.h5", "9,9", "--shape is 9,9; give height,width of images of 64 numbers"),
        ("all.h5", "8", "--shape is 8; give height,width of images of 64 numbers"),
        ("all.h5", "8x8", "--shape is '8x8'; give height,width, such as 8,8"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_in_words(predictions, shape, words, tmp_path, repository, monkeypatch, capsys):
    truth = sorted((repository / "data" / "digits").glob("test-*.h5"))[0]
    with h5py.File(truth) as shard, h5py.File(tmp_path / "all.h5", "w") as file:
        file["prediction"] = shard["x"][...]
    monkeypatch.setattr(sys, "argv", ["picture", *map(str, (tmp_path / predictions, truth, tmp_path / "a.pgm")), "--shape", shape])
    with pytest.raises(SystemExit):
        runpy.run_path(str(JOBS / "digits-autoencoder.py"), run_name="__main__")
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
class TestScript:
    def test_it_passes_shellcheck(self, script):
        shellcheck = Path(sys.executable).parent / "shellcheck"
        done = subprocess.run([shellcheck, "--shell=bash", script], capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_it_stops_at_the_first_error(self, script):
        assert commands(script)[0] == "set -euo pipefail"

    def test_it_starts_ranks_once(self, script):
        assert len(launches(script)) == 1

    def test_it_runs_a_config_that_exists_and_goes_on_when_run_again(self, script):
        (line,) = launches(script)
        (config,) = re.findall(r"jobs/\S+\.toml", line)
        assert (JOBS.parent / config).exists()
        assert "--resume" in line

    def test_its_config_has_the_same_stem(self, script):
        assert script.with_suffix(".toml").exists()


FAKE_MPIRUN = """#!/bin/bash
echo "mpirun $*" >>calls
if [[ -n ${FAKE_SECONDS:-} ]]; then sleep "$FAKE_SECONDS"; fi
if [[ -z ${FAKE_LOST:-} ]]; then
    while (($#)); do [[ $1 != --run ]] || { mkdir -p "$2"; echo '{}' >"$2/summary.json"; }; shift; done
fi
exit "${FAKE_CODE:-0}"
"""

FAKE_SCONTROL = """#!/bin/bash
echo "scontrol $*" >>calls
"""


@pytest.fixture
def submit(tmp_path):
    """Run a job script with a scheduler's variables, a fake mpirun and a fake scontrol; return (exit code, calls, stderr)."""
    for name, text in {"mpirun": FAKE_MPIRUN, "scontrol": FAKE_SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nodes").write_text("a\na\nb\n")

    def run(script, **extra):
        env = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "41",
            "SLURM_NTASKS": "3",
            "PBS_JOBID": "41.server",
            "PBS_NODEFILE": str(tmp_path / "nodes"),
            "PBS_O_WORKDIR": str(tmp_path),
        }
        usr1 = extra.pop("usr1_after", None)
        child = subprocess.Popen(["bash", script], cwd=tmp_path, env=env | extra, stderr=subprocess.PIPE, text=True)
        if usr1:
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(usr1)
            child.send_signal(10)
        _, err = child.communicate(timeout=30)
        calls = tmp_path / "calls"
        return child.returncode, calls.read_text().splitlines() if calls.exists() else [], err

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
class TestScriptInAScheduler:
    def test_one_rank_a_slot_and_one_folder_a_job(self, script, submit):
        code, calls, _ = submit(script)
        assert code == 0
        assert calls == ["mpirun -n 3 hpcml train jobs/digits.toml --run runs/digits-41 --resume"]

    def test_an_earlier_run_can_be_named(self, script, submit):
        assert "--run runs/old --resume" in submit(script, RUN="runs/old")[1][0]

    def test_the_exit_code_is_that_of_the_training(self, script, submit):
        assert submit(script, FAKE_CODE="7")[0] == 7

    def test_a_launcher_that_lost_a_node_and_says_0_is_not_believed(self, script, submit):
        code, _, err = submit(script, FAKE_LOST="yes")
        assert code == 1
        assert "summary.json is missing" in err


SLURM = [script for script in SCRIPTS if script.suffix == ".slurm"]


@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
class TestTimeIsNearlyUp:
    def test_the_job_goes_back_into_the_queue_and_training_goes_on_meanwhile(self, script, submit):
        code, calls, _ = submit(script, FAKE_SECONDS="3", usr1_after=1)
        assert code == 0
        assert calls[1:] == ["scontrol requeue 41"]

    def test_but_not_for_ever(self, script, submit):
        assert len(submit(script, FAKE_SECONDS="3", usr1_after=1, SLURM_RESTART_COUNT="10")[1]) == 1
