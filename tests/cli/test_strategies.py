"""Every strategy from a config: the same bits on any number of ranks, stopped and resumed or not, and what the summary says of it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from tests.small import LENGTHS, explained

STRATEGIES = {
    "one-shot": ["sync.name=local-steps", "sync.schedule=once"],
    "adaptive": ["sync.name=local-steps", "sync.schedule=adaptive", "sync.every=3"],
    "post-local": ["sync.name=local-steps", "sync.every=3", "sync.warm_epochs=0.5"],
    "block momentum": ["sync.name=local-steps", "sync.every=3", "sync.outer=block-momentum"],
    "slow momentum": ["sync.name=local-steps", "sync.every=3", "sync.outer=slow-momentum"],
    "DiLoCo": ["sync.name=local-steps", "sync.every=3", "sync.outer=sgd", "sync.outer_rate=0.7"],
    "EASGD": ["sync.name=elastic", "sync.every=3"],
    "two groups": ["sync.name=elastic", "sync.every=3", "sync.groups=2", "sync.warm_epochs=0.25"],
    "gossip": ["sync.name=gossip", "sync.every=1", "sync.topology=pairs"],
    "D-PSGD": ["sync.name=gossip", "sync.every=1", "sync.earlier=true"],
    "push-sum": [
        "sync.name=push-sum",
        "sync.every=3",
        "sync.topology=matrix",
        "sync.matrix=[[0.5,0,0,0.5],[0.5,0.5,0,0],[0,0.25,0.5,0],[0,0.25,0.5,0.5]]",
    ],
    "delayed": ["sync.name=delayed"],
    "backup workers": ["sync.spare=1"],
    "L-BFGS": ["sync.name=lbfgs", "optimizer.momentum=0.0"],
    "ensemble": ["sync.name=ensemble", "sync.combine=vote"],
    "stacked ensemble after a warm start": ["sync.name=ensemble", "sync.combine=stack", "sync.warm_epochs=1.5"],
}
"""Changes to the small job, by strategy; an epoch has 4 steps, so runs stop in the middle of a period."""


@pytest.mark.parametrize("name", STRATEGIES)
def test_other_ranks_and_a_resume_on_others_end_with_the_same_bits(job, name):
    changes = [*STRATEGIES[name], "train.epochs=3"]
    job.train(1, "whole", *changes).check()
    job.train(3, "parts", *changes[:-1], "train.epochs=1").check()
    job.train(2, "parts", *changes, options=("--resume",)).check()
    whole, parts = job.summary("whole"), job.summary("parts")
    assert whole["weights_sha256"] == parts["weights_sha256"]
    assert whole["metrics"] == parts["metrics"]
    assert whole["conits"] == parts["conits"]
    if name == "backup workers":
        epochs = [event["ledger"] for event in job.events("parts") if event["event"] == "epoch"]
        assert all(epoch["rows_used"] + epoch["rows_too_late"] == sum(LENGTHS) for epoch in epochs)
        assert all(0 < epoch["rows_too_late"] < sum(LENGTHS) / 3 for epoch in epochs)
    elif "ensemble" in name or name == "L-BFGS":
        assert whole["conits"] is None
    else:
        assert sum(whole["conits"]["staleness"].values()) > 0


def test_a_record_of_arrivals_is_followed_whatever_the_ranks(job):
    (job.folder / "arrivals.jsonl").write_text("[3, 2, 1, 0]\n[0, 1, 2, 3]\n" * 4)
    changes = ["sync.spare=2", "sync.arrivals=arrivals.jsonl"]
    job.train(1, "one", *changes).check()
    job.train(3, "three", *changes).check()
    assert job.digest("one") == job.digest("three")
    explained(job.train(2, "long", *changes, "train.epochs=3"), "the record of arrivals has 8 steps, step 8 is asked for")


@pytest.mark.parametrize("combine", ["mean", "vote", "best", "stack"])
def test_an_ensemble_is_judged_and_predicts_as_it_was_judged_in_training(job, combine):
    job.train(2, "run", "sync.name=ensemble", f"sync.combine={combine}", "train.epochs=6").check()
    accuracy, loss = (job.summary()["metrics"][f"test_{name}"] for name in ("accuracy", "loss"))
    assert accuracy > 0.8
    told = job.hpcml(3, "evaluate", "run").check().stdout
    assert f"accuracy {accuracy:.6f}" in told
    assert f"loss {loss:.6f}" in told
    for ranks in (1, 3):
        job.hpcml(ranks, "predict", "run", "--data", "test-*.h5", "--out", f"{ranks}.h5").check()
    with h5py.File(job.folder / "1.h5") as one, h5py.File(job.folder / "3.h5") as three, h5py.File(job.folder / "test-0.h5") as truth:
        np.testing.assert_array_equal(one["prediction"], three["prediction"])
        assert (one["class"][:] == truth["y"][:]).mean() == pytest.approx(accuracy)
        np.testing.assert_allclose(one["prediction"][:].sum(axis=1), 1, rtol=1e-5)
    assert any("label shares of the workers' own rows" in event.get("text", "") for event in job.events())


WITHOUT_SENSE = {
    "votes without classes": (
        ["sync.name=ensemble", "sync.combine=vote", "train.loss=squared-error", "model.outputs=1"],
        ["vote for classes"],
    ),
    "an outer optimizer over nothing": (["sync.name=local-steps", "sync.outer_rate=0.5"], ["sync.outer_rate", "average"]),
    "a period of every step": (["sync.every=3"], ['sync.every means nothing to "every-step"', "set it to 8"]),
    "a period of no meetings": (["sync.name=local-steps", "sync.schedule=once", "sync.every=3"], ['sync.every means nothing to "once"']),
    "more groups than workers": (["sync.name=elastic", "sync.groups=5"], ["sync.groups is 5, there are 4 workers", "4 groups or fewer"]),
    "a centre that swings": (["sync.name=elastic", "sync.moving=1.7"], ["swing apart from 1.6 on", "0.9"]),
    "rows that sum to less": (
        ["sync.name=gossip", "sync.topology=matrix", "sync.matrix=[[0.5,0,0,0.5],[0.5,0.5,0,0],[0,0.25,0.5,0],[0,0.25,0.5,0.5]]"],
        ["row 2 sums to 0.75, it must be 1", "push-sum"],
    ),
    "columns that sum to more": (
        ["sync.name=push-sum", "sync.topology=matrix", "sync.matrix=[[1,0,0,0],[0.5,0.5,0,0],[0,0,1,0],[0,0,0,1]]"],
        ["column 0 sums to 1.5, it must be 1", "Metropolis weights: [[0.5, 0.5"],
    ),
    "two islands": (
        ["sync.name=gossip", "sync.topology=matrix", "sync.matrix=[[0.5,0.5,0,0],[0.5,0.5,0,0],[0,0,0.5,0.5],[0,0,0.5,0.5]]"],
        ["not connected: worker 0 never hears of worker 2", "'ring'"],
    ),
    "L-BFGS with momentum": (["sync.name=lbfgs", "optimizer.momentum=0.9"], ["finds its own directions", "momentum = 0.0"]),
    "L-BFGS with a warm-up": (["sync.name=lbfgs", "optimizer.momentum=0.0", "rate.warmup_epochs=1"], ["leave [rate] out"]),
    "L-BFGS without rows": (["sync.name=lbfgs", "optimizer.momentum=0.0", "data.on_corrupt=quarantine"], ['set it to "stop"']),
    "pairs of another": (["sync.memory=5"], ["sync.memory means nothing", "every-step"]),
    "votes of no cache": (["sync.name=gossip-learning", "sync.combine=vote"], ["set server.cache"]),
    "nobody left to count": (["sync.spare=4"], ["sync.spare is 4", "give 3 or fewer"]),
    "a slow worker that is not there": (["sync.spare=1", "sync.slow=[4]"], ["there are workers 0 to 3"]),
    "slow workers and all count": (["sync.slow=[1]"], ["means nothing without sync.spare"]),
    "no record": (["sync.spare=1", "sync.arrivals=nowhere.jsonl"], ["nowhere.jsonl: no readable record"]),
    "a matrix for others": (["sync.name=gossip", "sync.topology=matrix", "sync.matrix=[[1]]"], ["1 x 1, there are 4 workers"]),
    "a matrix that is not there": (["sync.name=gossip", "sync.topology=matrix"], ["need each other"]),
}


@pytest.mark.parametrize("name", WITHOUT_SENSE)
def test_a_combination_without_sense_is_refused_with_its_reason(job, name):
    changes, parts = WITHOUT_SENSE[name]
    explained(job.train(2, "run", *changes), *parts)
