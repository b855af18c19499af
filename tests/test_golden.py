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
