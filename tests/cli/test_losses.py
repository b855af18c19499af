"""Runs that go on without lost groups: the same bits on any number of ranks, resumed or not, every row accounted for."""

from __future__ import annotations

import pytest

from tests.small import LENGTHS, explained

GROUPS = ["sync.name=elastic", "sync.every=3", "sync.groups=2", "train.epochs=4"]
LOST = [*GROUPS, "sync.losses=[[6, 1]]"]
"""An epoch has 4 steps; the groups meet after steps 3, 6, 9, ..., so the second group is gone in the middle of the second epoch."""


def ledgers(job, run):
    return [event["ledger"] for event in job.events(run) if event["event"] == "epoch"]


def test_other_ranks_and_a_resume_on_others_end_with_the_same_bits(job):
    job.train(1, "whole", *LOST).check()
    job.train(4, "many", *LOST).check()
    job.train(3, "parts", *LOST, "train.epochs=2", "run.checkpoint_every=1").check()
    job.train(2, "parts", *LOST, options=("--resume",)).check()
    whole = job.summary("whole")
    assert whole["losses"] == [[6, 1]]
    for run in ("many", "parts"):
        assert job.summary(run)["weights_sha256"] == whole["weights_sha256"]
        assert job.summary(run)["metrics"] == whole["metrics"]
        assert ledgers(job, run) == ledgers(job, "whole")


def test_a_checkpoint_remembers_the_loss_and_a_resume_needs_not_be_told(job):
    job.train(2, "told", *LOST).check()
    job.train(3, "remembered", *LOST, "train.epochs=2").check()
    job.train(1, "remembered", *GROUPS, options=("--resume",)).check()
    assert job.digest("remembered") == job.digest("told")
    assert job.summary("remembered")["losses"] == [[6, 1]]


def test_rows_of_the_lost_group_are_lost_in_its_epoch_and_dealt_to_the_others_from_the_next_on(job):
    job.train(2, "run", *LOST).check()
    first, second, *rest = ledgers(job, "run")
    rows = sum(LENGTHS)
    assert [epoch["rows_used"] for epoch in (first, *rest)] == [rows] * 3
    assert "rows_lost" not in first
    # Steps 2 and 3 of the epoch have 16 and 13 rows, of which the second group of two workers has 8 and 7.
    assert second["rows_lost"] == 15
    assert second["rows_used"] == rows - 15


def test_a_loss_before_the_first_step_is_a_run_of_the_others(job):
    job.train(1, "run", *GROUPS, "sync.losses=[[0, 0]]").check()
    job.train(2, "two", *GROUPS, "sync.losses=[[0, 0]]").check()
    assert job.digest("two") == job.digest("run")
    first, *rest = ledgers(job, "run")
    assert first["rows_used"] + first["rows_lost"] == sum(LENGTHS)
    assert all(epoch["rows_used"] == sum(LENGTHS) for epoch in rest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["sync.losses=[[3, 2]]"], ["sync.losses is [[3, 2]], there are groups 0 to 1", "name each lost group once"]),
        (["sync.losses=[[3, 0], [3, 1]]"], ["sync.losses names all 2 groups; one must stay"]),
        (["sync.losses=[[3, 0]]", "sync.moving=1.2"], ["sync.moving is 1.2", "swing apart from 1 on"]),
        (["sync.losses=[[3]]"], ["sync.losses is [[3]]; give a list of [step, group]"]),
        (["sync.losses=[[3, 0]]", "sync.warm_epochs=1"], ["leave sync.warm_epochs out"]),
        (["sync.losses=[[3, 0]]", "data.on_corrupt=quarantine"], ["rows are counted as lost or"]),
        (
            ["sync.losses=[[3, 0]]", "sync.name=every-step", "sync.groups=0", "sync.every=8"],
            ['"every-step" has no groups that could do without each other', "leave it out"],
        ),
    ],
)
def test_losses_that_cannot_be_are_refused(job, changes, words):
    explained(job.train(2, "run", *GROUPS, *changes), *words)
