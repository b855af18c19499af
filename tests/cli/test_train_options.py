"""Rules, rates and roads from a config: each trains, the same on any number of ranks, and what it does is said."""

from __future__ import annotations

import pytest

OPTIONS = {
    "adamw": ["optimizer.name=adamw", "optimizer.rate=0.01", "optimizer.momentum=0", "optimizer.decay=0.01", "rate.name=cosine"],
    "lars": ["optimizer.name=lars", "optimizer.trust=0.02", "optimizer.rate=1.0", "rate.warmup_epochs=1"],
    "nesterov": ["optimizer.nesterov=true", "optimizer.clip=1.0", "rate.name=step", "rate.step_epochs=2", "rate.factor=0.5"],
    "local steps": ["sync.name=local-steps", "sync.every=3", "optimizer.decay=0.001", "model.dtype=float64"],
    "linear model": ["model.name=linear", "model.hidden=[]", "optimizer.rate=0.05"],
    "softmax model": ["model.name=softmax", "model.hidden=[]", "data.shuffle=global"],
    "no shuffle": ["data.shuffle=none", "run.threads=1"],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_job_learns_and_ends_with_the_same_weights_on_one_and_three_ranks(job, name):
    changes = ["train.epochs=4", *OPTIONS[name]]
    for ranks in (1, 3):
        result = job.train(ranks, str(ranks), *changes).check()
        assert result.stderr == ""
    assert job.digest("1") == job.digest("3")
    losses = [row["train_loss"] for row in job.events("1") if row["event"] == "epoch"]
    assert losses[-1] < losses[0]


def test_linear_scaling_is_printed_and_recorded(job):
    result = job.train(2, "run", "rate.base_batch=4").check()
    rule = "linear scaling rule: rate 0.1 x batch 16 / base batch 4 = 0.4"
    assert f"note: {rule}" in result.stdout
    assert rule in [row.get("text") for row in job.events()]


@pytest.mark.parametrize("road", ["all-reduce", "ring", "binary-tree", "doubling", "tree", "auto"])
def test_every_fast_road_trains_on_three_ranks(job, road):
    job.train(3, "run", "train.exact=false", f"sync.reducer={road}", "train.epochs=4").check()
    assert job.summary()["metrics"]["train_accuracy"] > 0.8
