"""Ranks that die for good while their run goes on: the same bits as a run that was told so, every row accounted for, nobody waits.

Open MPI alone can do that; `make test-ulfm` brings it.
"""

from __future__ import annotations

import pytest

from tests.small import LENGTHS, Job, explained
from tests.train.losing import STEP, ledgers, lossy, require_ulfm

GROUPS = ["sync.name=elastic", "sync.every=3", "sync.groups=2", "train.epochs=4"]
MEET = "hpcml.sync.elastic:_Running.meet"


@pytest.fixture(autouse=True)
def _needs_ulfm(request):
    require_ulfm(request)


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def require_told(job, losses, *changes):
    """Require that the run is the one that was told by sync.losses what this one lost, on another number of ranks."""
    job.train(1, "told", *GROUPS, *changes, f"sync.losses={losses}").check()
    one, other = job.summary("run"), job.summary("told")
    assert one["losses"] == other["losses"] == losses
    for key in ("weights_sha256", "metrics", "conits"):
        assert one[key] == other[key], key
    assert ledgers(job, "run") == ledgers(job, "told")
    for ledger in ledgers(job, "run").values():
        assert ledger["rows_used"] + ledger.get("rows_lost", 0) == sum(LENGTHS)


@pytest.mark.ulfm
@pytest.mark.parametrize(
    ("dies", "losses"),
    {
        "in the middle of an epoch": ("3:7:kill:" + STEP, [[6, 1]]),
        "as the rank that writes and speaks": ("0:7:kill:" + STEP, [[6, 0]]),
        "before the groups first met": ("2:1:kill:" + STEP, [[0, 1]]),
        "while the groups meet": ("1:2:kill:" + MEET, [[4, 0]]),
        "while the epoch's rows are proven": ("2:2:kill:hpcml.train.audit:Audit.close", [[6, 1]]),
        "while the model is judged": ("0:2:kill:hpcml.train.trainer:evaluate", [[6, 0]]),
        "while a checkpoint is written": ("0:2:kill:hpcml.train.checkpoint:_write_files", [[6, 0]]),
        "when the checkpoint is there": ("0:2:kill:hpcml.train.checkpoint:_drop_oldest", [[6, 0]]),
        "with an error of its own": ("3:7:raise:" + STEP, [[6, 1]]),
    }.values(),
    ids=lambda value: value.split(":")[-1] if isinstance(value, str) else None,
)
def test_a_rank_dies_and_the_run_is_that_of_the_other_group(job, dies, losses):
    result = lossy(job, "run", *GROUPS, "run.survive=true", dies=[dies])
    assert "done: 16 steps" in result.stdout, (result.stdout, result.stderr)
    lost = "ranks 0-1" if losses[0][1] == 0 else "ranks 2-3"
    assert f"hpcml: {lost} on " in result.stderr
    assert f"group {losses[0][1]}, which is gone from step {losses[0][0]} on" in result.stderr
    assert "leaves the run" in result.stderr
    assert any(lost in event.get("text", "") for event in job.events())
    require_told(job, losses)


@pytest.mark.ulfm
def test_one_after_the_other_and_two_at_once(job):
    dies = ["0:2:kill:" + STEP, "2:9:kill:" + STEP, "1:9:kill:" + STEP]
    lossy(job, "run", *GROUPS, "sync.groups=4", "run.survive=true", dies=dies)
    require_told(job, [[0, 0], [9, 1], [9, 2]], "sync.groups=4")


@pytest.mark.ulfm
def test_it_is_resumed_on_others_in_mid_epoch_and_loses_again(job):
    changes = [*GROUPS, "sync.groups=4", "run.checkpoint_every=5"]
    lossy(job, "run", *changes, "run.survive=true", "train.epochs=2", dies=["3:3:kill:" + STEP])
    for newer in sorted((job.folder / "run" / "checkpoints").iterdir())[2:]:
        newer.rename(job.folder / newer.name)
    lossy(job, "run", *changes, "run.survive=true", options=["--resume"], dies=["0:1:kill:" + MEET])
    require_told(job, [[5, 0], [3, 3]], "sync.groups=4")


@pytest.mark.ulfm
def test_without_survive_a_lost_rank_ends_the_others_and_a_resume_on_fewer_goes_on(job):
    result = lossy(job, "run", *GROUPS, dies=["3:7:kill:" + STEP], timeout=30)
    assert not result.timed_out
    assert not (job.folder / "run" / "summary.json").exists()
    job.train(3, "run", *GROUPS, options=("--resume",)).check()
    job.train(1, "whole", *GROUPS).check()
    assert job.digest() == job.digest("whole")


@pytest.mark.ulfm
def test_an_error_of_all_ranks_is_told_once_and_ends_them(job):
    result = lossy(job, "run", *GROUPS, "run.survive=true", "optimizer.rate=1e30", timeout=30)
    assert result.stderr.count("hpcml: error:") == 1, result.stderr
    assert not result.timed_out


@pytest.mark.parametrize(
    ("ranks", "changes", "words"),
    [
        (2, [], ["run.survive: ", "ends all ranks when one dies", "mpirun --with-ft ulfm", "--resume goes on"]),
        (3, ["sync.groups=4", "train.virtual_workers=6"], ["ranks 0-1 would host parts of several of the groups"]),
        (2, ["sync.groups=1"], ["run.survive: there is one group"]),
        (2, ["sync.moving=1.1"], ["sync.moving is 1.1", "swing apart from 1 on"]),
        (2, ["sync.warm_epochs=1"], ["run.survive: groups can be lost", "leave sync.warm_epochs out"]),
        (2, ["sync.name=every-step", "sync.groups=0", "sync.every=8"], ["run.survive: ", "no groups that could do without each other"]),
    ],
)
def test_where_nothing_could_survive_it_is_refused(job, ranks, changes, words):
    explained(job.train(ranks, "run", *GROUPS, "run.survive=true", *changes), *words)


def test_one_rank_alone_has_nothing_to_lose_and_its_bits_are_those_of_any_run(job):
    job.train(1, "one", *GROUPS, "run.survive=true").check()
    job.train(2, "two", *GROUPS).check()
    assert job.digest("one") == job.digest("two")


def test_a_rank_killed_ends_the_run_and_a_resume_on_fewer_ranks_goes_on_with_all_groups(job):
    result = lossy(job, "run", *GROUPS, dies=["3:7:kill:" + STEP], flags=[], timeout=30)
    assert not result.timed_out
    assert not (job.folder / "run" / "summary.json").exists()
    job.train(2, "run", *GROUPS, options=("--resume",)).check()
    job.train(1, "whole", *GROUPS).check()
    assert job.digest() == job.digest("whole")
    assert "losses" not in job.summary()
