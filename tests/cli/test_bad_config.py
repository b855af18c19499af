"""Jobs that cannot be run, machines that cannot run them: one message, exit code 2, within seconds, nothing lost."""

from __future__ import annotations

import os
import sys

import pytest

from tests.mpirun import Child, launcher
from tests.small import explained

JOBS = {
    "unknown key": (["train.epoch=3"], ["train.epoch", "did you mean 'epochs'"]),
    "unknown section": (["trian.epochs=3"], ["trian", "did you mean 'train"]),
    "key in a wrong section": (["train.momentum=0.9"], ["train.momentum", "optimizer.momentum"]),
    "wrong type": (["train.epochs=many"], ["train.epochs", "int", "str"]),
    "not a choice": (["optimizer.name=adam"], ["optimizer.name", "adam"]),
    "out of range": (["train.epochs=0"], ["train.epochs is 0", "1 or more"]),
    "no dot": (["epochs=3"], ["--set epochs=3", "section.key=value"]),
    "more ranks than workers": (["train.virtual_workers=2"], ["3 ranks", "2 virtual workers"]),
    "batch larger than the data": (["train.batch=62"], ["62", "61 rows"]),
    "batch smaller than the workers": (["train.batch=3"], ["3 rows", "4 virtual workers"]),
    "a road that is not exact": (["sync.reducer=ring"], ["ring", "train.exact = false"]),
    "a key without meaning": (["optimizer.beta1=0.5"], ["optimizer.beta1", "sgd"]),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_cannot_run_says_why_once(job, name):
    changes, parts = JOBS[name]
    explained(job.train(3, "run", *changes), *parts)
    assert not (job.folder / "run" / "checkpoints").exists()


def test_a_config_that_is_not_there_or_not_toml(job):
    explained(job.hpcml(2, "train", "nowhere.toml"), "nowhere.toml: cannot be read")
    job.config.write_text("[data\n")
    explained(job.train(2), "job.toml: not valid TOML")


def test_a_gpu_that_is_not_there(job):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU")
    explained(job.train(2, "run", "run.device=gpu"), "GPU")


def test_a_run_folder_that_cannot_be_made(job):
    explained(job.train(2, job.config / "run"), "job.toml/run", "cannot be made")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_folder_that_cannot_be_written(job):
    (job.folder / "run").mkdir(mode=0o500)
    explained(job.train(2), "run/config.toml: cannot be written")


def test_an_argument_that_is_wrong_is_explained_once(job):
    result = job.hpcml(3, "train", job.config, "--sett", "a.b=c")
    assert result.returncode == 2
    assert result.stderr.count("unrecognized arguments: --sett") == 1
    assert result.stderr.count("usage:") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_an_mpirun_of_another_mpi_is_refused(job, rank):
    """Every process would believe that it is rank 0 of 1: only the launcher's own variables tell."""
    promise = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)}
    result = Child([sys.executable, "-m", "hpcml", "train", job.config], cwd=job.folder, env=promise).wait(20)
    assert result.returncode == 2
    assert ("started 2 ranks" in result.stderr) == (rank == 0)
    assert not (job.folder / "runs").exists()


def different(job, first, second):
    """Start rank 0 with one list of words and rank 1 with another."""
    python = [sys.executable, "-m", "hpcml"]
    return Child([launcher(), "-n", "1", *python, *first, ":", "-n", "1", *python, *second], cwd=job.folder).wait(20)


def test_ranks_with_different_configs_name_the_key_and_both_values(job):
    other = job.folder / "other.toml"
    other.write_text(job.config.read_text().replace("batch = 16", "batch = 17"))
    result = different(job, ["train", job.config, "--run", "run"], ["train", other, "--run", "run"])
    explained(result, "ranks disagree on the config's train.batch: 16 on rank 0, 17 on rank 1")


@pytest.mark.parametrize(
    ("second", "part"),
    [
        (["train", "job.toml", "--run", "run", "--resume"], "resume: False on rank 0, True on rank 1"),
        (["train", "job.toml", "--run", "elsewhere"], "'run' on rank 0, 'elsewhere' on rank 1"),
        (["evaluate", "run"], "the command: 'train' on rank 0, 'evaluate' on rank 1"),
        (["train", "absent.toml", "--run", "run"], "rank 1: absent.toml: cannot be read"),
    ],
)
def test_ranks_with_different_commands_do_not_wait_for_each_other(job, second, part):
    explained(different(job, ["train", "job.toml", "--run", "run"], second), part)


PROGRAM = """
import sys
import hpcml
comm = hpcml.init()
data = hpcml.open_shards("train-*.h5", features="x", target="y")
hidden, workers = {"layout": (4 + comm.rank, 4), "workers": (4, 1 + comm.rank), "error": (4, 2)}[sys.argv[1]]
model = hpcml.nn.mlp([4, hidden, 3])
trainer = hpcml.Trainer(model, hpcml.nn.softmax_cross_entropy, hpcml.SGD(rate=0.1), hpcml.EveryStep(), data, batch=16, workers=workers)
class Failing(hpcml.Hook):
    def after_step(self, trainer):
        if comm.rank == 1 and trainer.count == 3:
            raise ZeroDivisionError("on purpose")
trainer.hooks.append(Failing())
trainer.run(epochs=2)
"""


@pytest.fixture
def program(job):
    """Run PROGRAM on two ranks."""
    (job.folder / "program.py").write_text(PROGRAM)

    def run(what):
        return Child([launcher(), "-n", "2", sys.executable, "program.py", what], cwd=job.folder).wait(20)

    return run


def test_ranks_with_different_layouts_name_both(program):
    result = program("layout")
    assert result.returncode not in (0, 124)
    assert result.stderr.count("ranks disagree on the run's parameter layout") == 1, result.stderr


def test_ranks_with_different_workers_do_not_wait_for_each_other(program):
    result = program("workers")
    assert result.returncode not in (0, 124)
    assert "virtual workers: 1 on rank 0, 2 on rank 1" in result.stderr


def test_an_exception_on_one_rank_ends_all_with_its_traceback(program):
    result = program("error")
    assert result.returncode not in (0, 124)
    assert "[rank 1 of 2 on " in result.stderr
    assert "ZeroDivisionError: on purpose" in result.stderr
    assert "[rank 0 of 2" not in result.stderr
    assert result.seconds < 10
