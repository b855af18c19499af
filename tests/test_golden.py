"""The golden run: a change that should not alter results shows the same losses on jobs/digits.toml."""

from __future__ import annotations

import json

import pytest

LOSSES = {1: 2.2545, 3: 0.21013}
"""Training loss of jobs/digits.toml after some epochs. Other BLAS kernels round otherwise, so bits are compared on one machine only."""


def test_the_job_of_the_readme_learns_as_it_always_did(mpirun, repository, tmp_path):
    digests = set()
    for n in (1, 2):
        run = tmp_path / str(n)
        mpirun(n, "train", repository / "jobs" / "digits.toml", "--run", run, cwd=repository).check()
        summary = json.loads((run / "summary.json").read_text())
        digests.add(summary["weights_sha256"])
        epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = {row["epoch"]: row["train_loss"] for row in epochs if row["event"] == "epoch"}
        assert {epoch: losses[epoch] for epoch in LOSSES} == pytest.approx(LOSSES, rel=1e-3)
        assert summary["metrics"]["test_accuracy"] >= 0.97
    assert len(digests) == 1


JOBS = {
    "digits-autoencoder": (3, 38.723, {}),
    "digits-linear": (3, 0.19990, {}),
    "digits-logistic": (3, 0.69465, {"test_accuracy": 0.85}),
    "digits-lstm": (3, 0.37463, {"test_accuracy": 0.88}),
    "digits-resnet": (3, 0.30948, {"test_accuracy": 0.95}),
    "digits-softmax": (3, 0.18676, {"test_accuracy": 0.95}),
    "digits-lbfgs": (16, 0.0961, {"test_accuracy": 0.95}),
    "digits-svm": (3, 0.027513, {"test_accuracy": 0.95}),
    "digits-rbm": (12, 21.015, {}),
    "digits-som": (40, 11.435, {}),
    "digits-hopfield": (1, 76.488, {}),
    "digits-cnn": (25, 0.51857, {"test_accuracy": 0.985}),
}
"""Job -> (epochs, training loss after them, what the test metrics must reach). The convolutional network runs whole: 5 seconds."""


def test_every_job_is_trained(repository):
    """jobs/text.toml by tests/test_text_job.py, for it needs rows of its own."""
    assert {path.stem for path in (repository / "jobs").glob("*.toml")} == {"digits", "text", *JOBS}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_every_job_learns_as_it_always_did(job, mpirun, repository, tmp_path):
    epochs, loss, least = JOBS[job]
    words = ["train", repository / "jobs" / f"{job}.toml", "--set", f"train.epochs={epochs}", "--run", tmp_path / "run"]
    mpirun(2, *words, cwd=repository).check()
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert metrics["train_loss"] == pytest.approx(loss, rel=5e-3)
    for name, reached in least.items():
        assert metrics[name] >= reached


@pytest.mark.parametrize("job", ["digits-rbm", "digits-som", "digits-hopfield"])
def test_a_rule_of_its_own_gives_the_same_bits_on_any_ranks_also_resumed(job, mpirun, repository, tmp_path):
    words = ["train", repository / "jobs" / f"{job}.toml", "--set"]
    mpirun(1, *words, "train.epochs=2", "--run", tmp_path / "whole", cwd=repository).check()
    mpirun(3, *words, "train.epochs=1", "--run", tmp_path / "parts", cwd=repository).check()
    mpirun(2, *words, "train.epochs=2", "--run", tmp_path / "parts", "--resume", cwd=repository).check()
    whole, parts = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts"))
    assert whole["weights_sha256"] == parts["weights_sha256"]
    assert whole["metrics"] == parts["metrics"]
