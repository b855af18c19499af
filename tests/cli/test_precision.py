"""The digits in 16 bits: the same bits on any number of ranks, and float32's accuracy within a per cent."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_digits_reach_the_same_accuracy_on_any_ranks(mpirun, repository, tmp_path, precision):
    words = ["train", repository / "jobs" / "digits.toml", "--set", "train.epochs=10", "--set", f"train.precision={precision}"]
    exact = ["float32" if word == f"train.precision={precision}" else word for word in words]
    runs = {}
    for ranks, name, line in ((1, "one", words), (3, "three", words), (1, "exact", [*exact[:-2]])):
        mpirun(ranks, *line, "--run", tmp_path / name, cwd=repository).check()
        runs[name] = json.loads((tmp_path / name / "summary.json").read_text())
    assert runs["one"]["weights_sha256"] == runs["three"]["weights_sha256"] != runs["exact"]["weights_sha256"]
    assert abs(runs["one"]["metrics"]["test_accuracy"] - runs["exact"]["metrics"]["test_accuracy"]) <= 0.01
    assert ("loss_scale" in runs["one"]) == (precision == "float16")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (("train.precision=float16", "sync.name=local-steps"), 'sync.name = "local-steps" cannot'),
        (("train.precision=bfloat16", "model.dtype=float64"), "model.dtype"),
        (("train.precision=bfloat16", "train.kernels=fast"), "train.kernels"),
        (("train.precision=bfloat16", "model.name=hopfield", "train.loss=auto"), "rule of its own"),
        (("train.precision=bfloat8",), "bfloat16"),
    ],
)
def test_what_cannot_be_rounded_is_refused_by_name(mpirun, repository, tmp_path, changes, why):
    words = [word for change in changes for word in ("--set", change)]
    refused = mpirun(1, "train", repository / "jobs" / "digits-softmax.toml", *words, "--run", tmp_path / "run", cwd=repository)
    assert refused.returncode == 2
    assert why in refused.stderr
