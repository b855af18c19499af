"""Ranks of a run with a server die, and the others take over their workers: the last checkpoint goes on, nothing is lost but time.

Open MPI alone can do that; `make test-ulfm` brings it.
"""

from __future__ import annotations

import pytest

from tests.small import LENGTHS, Job, explained
from tests.train.losing import STEP, ledgers, lossy, require_ulfm

SERVER = ["sync.name=parameter-server", "train.epochs=3", "optimizer.momentum=0.0"]
SURVIVE = [*SERVER, "run.survive=true"]
BSP = ["server.consistency=bsp", "server.groups=2"]


@pytest.fixture(autouse=True)
def _needs_ulfm(request):
    require_ulfm(request)


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def require_whole(job, result, *gone):
    assert "done: 12 steps" in result.stdout, (result.stdout, result.stderr)
    for lost in gone:
        assert f"hpcml: {lost}" in result.stderr
        assert any(lost in event.get("text", "") for event in job.events())
    for ledger in ledgers(job, "run").values():
        assert ledger["rows_used"] == sum(LENGTHS)


MOMENTS = {
    "a group's worker": (["3:7:kill:" + STEP], "rank 3"),
    "a whole group": (["2:7:kill:" + STEP, "3:7:kill:" + STEP], "rank"),
    "the rank that deals, writes and speaks": (["0:7:kill:" + STEP], "rank 0"),
    "before the first checkpoint": (["1:1:kill:" + STEP], "rank 1"),
    "while the epoch's record is gathered": (["2:2:kill:hpcml.sync.server.running:gather_record"], "rank 2"),
    "while a checkpoint is written": (["0:2:kill:hpcml.train.checkpoint:_write_files"], "rank 0"),
    "with an error of its own": (["3:7:raise:" + STEP], "rank 3"),
}


@pytest.mark.ulfm
@pytest.mark.parametrize("moment", MOMENTS)
def test_under_bsp_the_bits_are_those_of_a_run_in_which_nobody_died(job, moment):
    dies, gone = MOMENTS[moment]
    result = lossy(job, "run", *SURVIVE, *BSP, dies=dies)
    require_whole(job, result, gone)
    job.train(1, "whole", *SERVER, *BSP).check()
    assert job.digest() == job.digest("whole")
    assert job.summary()["metrics"] == job.summary("whole")["metrics"]


@pytest.mark.ulfm
@pytest.mark.parametrize(
    "plan",
    [
        ["server.consistency=tap", "server.groups=2"],
        ["server.consistency=ssp", "server.ranks=1", "server.stealing=true"],
        ["sync.name=gossip-learning", "server.stealing=true"],
    ],
    ids=["tap, groups", "ssp, the server dies", "gossip learning"],
)
def test_at_their_own_pace_the_record_is_that_of_what_counted(job, plan):
    result = lossy(job, "run", *SURVIVE, *plan, dies=["0:7:kill:" + STEP])
    require_whole(job, result, "rank 0")
    job.train(2, "again", *SERVER, *plan, "train.virtual_workers=4", "server.replay=run").check()
    assert job.digest() == job.digest("again")


@pytest.mark.ulfm
def test_one_after_the_other_until_one_is_left(job):
    dies = ["3:2:kill:" + STEP, "0:6:kill:" + STEP, "2:9:kill:" + STEP]
    result = lossy(job, "run", *SURVIVE, *BSP, dies=dies)
    require_whole(job, result, "rank 3", "rank 0", "rank 2")
    assert job.summary()["ranks"] == 1
    job.train(1, "whole", *SERVER, *BSP).check()
    assert job.digest() == job.digest("whole")


def test_elsewhere_it_is_refused_by_name(job):
    explained(job.train(2, "run", *SURVIVE), "run.survive: ", "ends all ranks when one dies", "--resume goes on")


def test_one_rank_alone_has_nothing_to_lose(job):
    job.train(1, "run", *SURVIVE).check()
    job.train(1, "again", *SERVER, "server.replay=run").check()
    assert job.digest() == job.digest("again")
