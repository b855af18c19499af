"""Workers at their own pace over real MPI, from a config: they learn, and what they did can be done again."""

from __future__ import annotations

import pytest

from tests.small import Job, explained

SERVER = ("sync.name=parameter-server", "optimizer.momentum=0.0")


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_a_run_over_mpi_is_replayed_on_other_ranks_with_the_same_bits(job):
    job.train(4, "tap", *SERVER).check()
    summary = job.summary("tap")
    assert summary["server"]["writes"] >= 4
    assert summary["server"]["bytes_sent"] > 0
    assert sum(summary["conits"]["staleness"].values()) == summary["server"]["reads"]
    for ranks in (1, 3):
        job.train(ranks, f"again{ranks}", *SERVER, "server.replay=tap").check()
        assert job.digest(f"again{ranks}") == job.digest("tap")
        assert job.summary(f"again{ranks}")["metrics"] == summary["metrics"]


def test_clock_by_clock_it_has_the_bits_of_every_step(job):
    job.train(2, "steps").check()
    for ranks, servers in ((1, "all"), (3, "all"), (3, 1)):
        run = f"bsp{ranks}{servers}"
        job.train(ranks, run, "sync.name=parameter-server", "server.consistency=bsp", f"server.ranks={servers}").check()
        assert job.digest(run) == job.digest("steps")


def test_a_run_goes_on_on_other_ranks(job):
    job.train(3, "run", *SERVER, "train.epochs=1").check()
    job.train(2, "run", *SERVER, "train.epochs=2", options=("--resume",)).check()
    job.train(1, "again", *SERVER, "train.epochs=2", "server.replay=run").check()
    assert job.digest("again") == job.digest("run")


def test_more_servers_than_the_ranks_allow_are_told_and_the_bits_stay(job):
    job.train(2, "steps").check()
    told = job.train(2, "run", "sync.name=parameter-server", "server.consistency=bsp", "server.ranks=2").check().stdout
    assert "note: server.ranks is 2, and so needs more ranks than 2: every rank both serves and computes" in told
    assert job.digest("run") == job.digest("steps")
    told = job.train(2, "one", "sync.name=parameter-server", "server.consistency=bsp", "server.ranks=1").check().stdout
    assert "server.ranks" not in told
    assert " 0 rows/s" not in told


def test_backup_workers_race_and_the_race_is_replayed(job):
    race = ("sync.name=parameter-server", "server.consistency=bsp", "sync.spare=1", "train.virtual_workers=4")
    job.train(4, "race", *race).check()
    late = sum(row["ledger"].get("rows_too_late", 0) for row in job.events("race") if row["event"] == "epoch")
    assert late > 0
    job.train(2, "again", *race, "server.replay=race").check()
    assert job.digest("again") == job.digest("race")


def test_a_run_whose_gradients_come_late_says_once_what_to_lower(job):
    late = ("sync.name=parameter-server", "optimizer.momentum=0.9")
    told = job.train(2, "tap", *late, "optimizer.rate=0.01", "server.consistency=tap").check().stdout
    assert told.count("set optimizer.momentum = 0.0; under tap also optimizer.rate = 0.005") == 1
    for name, changes in {"bsp": (*late, "server.consistency=bsp"), "lowered": SERVER}.items():
        assert "gradients late" not in job.train(2, name, *changes).check().stdout


REFUSED = {
    "late workers without shared clocks": ((*SERVER, "sync.spare=1"), 'server.consistency = "bsp"'),
    "a warm start without end": ((*SERVER, "server.consistency=ssp", "server.warm=9"), "server.warm is 9"),
    "a pull too strong": (("sync.name=async-easgd", "server.beta=2"), "0 < beta <= 1"),
    "a key of another": (("sync.name=downpour", "server.beta=0.5"), "async-easgd"),
    "a bound that binds nobody": ((*SERVER, "server.bound=2"), 'means nothing to "tap"'),
    "a server without one": (("server.ranks=1",), "parameter-server"),
    "a server count of zero": ((*SERVER, "server.ranks=0"), 'server.ranks is 0; it must be 1 or more, or "all"'),
    "checkpoints on the way": ((*SERVER, "run.checkpoint_every=3"), "letters are on their way"),
    "a road": ((*SERVER, "train.exact=false", "sync.reducer=ring"), "leave it out"),
    "a rule that looks": ((*SERVER, "optimizer.clip=1.0"), "look at whole vectors"),
    "nothing to replay": ((*SERVER, "server.replay=nowhere"), "no arrival order to replay"),
    "too many workers' ranks": ((*SERVER, "train.virtual_workers=1"), "ranks for 1 virtual workers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_message(job, name):
    changes, message = REFUSED[name]
    explained(job.train(2, "run", *changes), message)
