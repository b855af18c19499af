"""A job of fused steps: the same bits on any number of ranks, resumed too, and never mixed with numpy's."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("numba", reason="numba is not installed; pip install 'hpcml[fast]' for fused steps")


def test_fused_steps_have_the_same_bits_on_any_ranks_and_a_run_keeps_to_them(mpirun, repository, tmp_path):
    words = ["train", repository / "jobs" / "digits-cnn.toml", "--set", "train.kernels=fast", "--set", "train.virtual_workers=3", "--set"]
    mpirun(1, *words, "train.epochs=2", "--run", tmp_path / "whole", cwd=repository).check()
    mpirun(3, *words, "train.epochs=1", "--run", tmp_path / "parts", cwd=repository).check()
    numpy = [word.replace("kernels=fast", "kernels=numpy") if isinstance(word, str) else word for word in words]
    refused = mpirun(2, *numpy, "train.epochs=2", "--run", tmp_path / "parts", "--resume", cwd=repository)
    assert refused.returncode != 0
    assert "kernels" in refused.stderr
    mpirun(2, *words, "train.epochs=2", "--run", tmp_path / "parts", "--resume", cwd=repository).check()
    whole, parts = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts"))
    assert whole["weights_sha256"] == parts["weights_sha256"]
    assert "numba" in json.dumps(whole)
