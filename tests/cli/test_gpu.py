"""The whole path with device = "gpu"; and, everywhere, what happens without one."""

from __future__ import annotations

import json
import os
import sys

import pytest

from hpcml.comm.device_table import from_json
from tests.mpirun import Child

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def digits(repository, run, *changes):
    sets = [word for change in ("train.virtual_workers=4", *changes) for word in ("--set", change)]
    return ["train", repository / "jobs" / "digits.toml", *sets, "--run", run]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_road_for_device_arrays_changes_nothing_without_a_gpu(mpirun, repository, tmp_path, ranks):
    run = tmp_path / "run"
    words = digits(repository, run, "train.epochs=1", "run.device_road=nccl")
    result = mpirun(ranks, *words, cwd=repository, env=NO_GPU).check()
    assert "NCCL" not in result.stdout + result.stderr


def test_a_misspelt_road_is_refused(mpirun, repository, tmp_path):
    result = mpirun(1, *digits(repository, tmp_path / "run", "run.device_road=ncl"), cwd=repository)
    assert result.returncode == 2
    assert "run.device_road" in result.stderr


def test_a_probe_without_a_gpu_says_so_in_one_line(mpirun, tmp_path):
    result = mpirun(1, "probe", cwd=tmp_path, env=NO_GPU)
    assert result.returncode == 1
    assert result.stdout == "nothing to probe: CUDA_VISIBLE_DEVICES is empty, so no GPU is visible to this process\n"
    assert os.listdir(tmp_path) == []


def test_a_probe_under_mpirun_is_refused(mpirun, tmp_path):
    result = mpirun(2, "probe", cwd=tmp_path)
    assert result.returncode != 0
    assert "start it once, without mpirun or srun" in result.stderr


@pytest.mark.gpu
@pytest.mark.slow
def test_digits_on_a_gpu_reach_the_accuracy_with_the_same_bits_on_one_and_two_ranks(mpirun, repository, tmp_path):
    """Two ranks share one GPU where there is but one; staged, so that no probe stands before it."""
    hashes = set()
    for ranks in (1, 2):
        run = tmp_path / f"R{ranks}"
        mpirun(ranks, *digits(repository, run, "run.device=gpu", "run.device_road=staged"), cwd=repository, timeout=250).check()
        summary = json.loads((run / "summary.json").read_text())
        assert summary["metrics"]["test_accuracy"] >= 0.97
        hashes.add(summary["weights_sha256"])
    assert len(hashes) == 1


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("road", ["auto", "nccl"])
def test_two_ranks_on_a_gpu_take_other_roads_with_the_same_bits(mpirun, repository, tmp_path, road):
    """With one GPU both fall back, and say why; with more, NCCL and the probe's choice carry the same exact sums."""
    hashes = set()
    for name in ("staged", road):
        run = tmp_path / name
        env = {"HPCML_DEVICE_ROADS": str(tmp_path / "roads.json")}
        words = digits(repository, run, "train.epochs=2", "run.device=gpu", f"run.device_road={name}")
        mpirun(2, *words, cwd=repository, env=env, timeout=280).check()
        hashes.add(json.loads((run / "summary.json").read_text())["weights_sha256"])
    assert len(hashes) == 1


@pytest.mark.gpu
@pytest.mark.slow
def test_a_probe_on_a_gpu_never_ends_the_command_and_keeps_a_table(mpirun, tmp_path):

    path = tmp_path / "roads.json"
    result = Child([sys.executable, "-m", "hpcml", "probe", "--out", path]).wait(280).check()
    trials, _, hosts = from_json(path.read_text(), str(path))
    assert hosts == 1
    assert not [trial for trial in trials if trial.road == "staged" and trial.fault], result.stdout
