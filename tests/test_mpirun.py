"""The harness itself: worlds that run, fail, hang and are killed, each in a child with a limit."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.mpirun import Child, clean_environment, start

HANG = """
import pathlib, sys
from mpi4py import MPI
def waiting_for_nobody():
    pathlib.Path(sys.argv[0]).with_name(f"up-{MPI.COMM_WORLD.rank}").touch()
    MPI.COMM_WORLD.Recv(bytearray(1), source=(MPI.COMM_WORLD.rank + 1) % MPI.COMM_WORLD.size)
waiting_for_nobody()
"""

SUITE = """
import time
import pytest
from mpi4py import MPI
RANK = MPI.COMM_WORLD.rank

@pytest.mark.mpi
def test_passes(shared_path):
    assert MPI.COMM_WORLD.allgather(str(shared_path)) == [str(shared_path)] * MPI.COMM_WORLD.size

@pytest.mark.mpi
def test_one_rank_fails():
    print("printed before the failure")
    if RANK == 1:
        assert RANK == 7, "the odd one"
    MPI.COMM_WORLD.Barrier()

@pytest.mark.mpi
def test_hangs():
    deaf_wait()

def deaf_wait():
    if RANK != 0:
        MPI.COMM_WORLD.Barrier()
    time.sleep(1000)
"""


def wait_for(child, folder, n):
    """Wait until n files say that who hangs has got so far."""
    while len(list(folder.glob("up-*"))) < n and child.seconds < 40:
        time.sleep(0.01)


@pytest.fixture
def hanging(tmp_path):
    """Start n ranks that wait for each other, and return them once they do."""
    (tmp_path / "hang.py").write_text(HANG)

    def run(n):
        child = start(n, tmp_path / "hang.py")
        wait_for(child, tmp_path, n)
        return child

    return run


@pytest.fixture
def suite(tmp_path, repository):
    """Run one test of SUITE in a world of n ranks with the project's own conftest and settings."""
    (tmp_path / "test_suite.py").write_text(SUITE)

    def run(n, name, *options, timeout=45):
        words = ["-m", "pytest", "-c", repository / "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider", *options]
        return start(n, *words, f"{tmp_path}/test_suite.py::{name}", cwd=repository, env={"HPCML_TEST_GRACE": "2"}).wait(timeout)

    return run


def test_every_rank_runs_and_is_known_by_its_number(tmp_path):
    script = tmp_path / "hello.py"
    script.write_text("from mpi4py import MPI\nprint(f'rank {MPI.COMM_WORLD.rank} of {MPI.COMM_WORLD.size}\\n', end='')")
    out = start(3, script).wait(40).check().stdout
    assert sorted(out.split("\n"))[-3:] == ["rank 0 of 3", "rank 1 of 3", "rank 2 of 3"]


def test_the_limit_prints_the_stacks_of_every_rank_and_leaves_nobody(hanging):
    child = hanging(3)
    begin = child.seconds
    result = child.wait(begin)
    assert result.timed_out
    assert result.stderr.count("waiting_for_nobody") == 3, result.stderr
    assert child.ranks() == {}
    assert result.seconds - begin < 10


def test_one_rank_can_be_found_and_killed_and_the_world_ends(hanging):
    child = hanging(2)
    os.kill(child.ranks()[1], signal.SIGKILL)
    result = child.wait(child.seconds + 30)
    assert not result.timed_out
    assert result.returncode != 0


def test_the_environment_of_a_running_mpi_does_not_leak(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("PMIX_RANK", "0")
    env = clean_environment({"EXTRA": "yes"})
    assert {"PMI_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK"}.isdisjoint(env)
    assert env["EXTRA"] == "yes"


def test_a_child_without_mpi_prints_its_stacks_too(tmp_path):
    child = Child([sys.executable, "-c", f"import time\ndef doze(): open('{tmp_path}/up-0', 'w').close(); time.sleep(100)\ndoze()"])
    wait_for(child, tmp_path, 1)
    result = child.wait(0)
    assert result.timed_out
    assert "in doze" in result.stderr


def test_only_rank_0_reports_in_a_world(suite):
    result = suite(3, "test_passes").check()
    assert result.stdout.count("1 passed") == 1


def test_a_failure_on_one_rank_ends_the_world_with_its_traceback(suite):
    result = suite(3, "test_one_rank_fails")
    assert result.returncode not in (0, 124)
    assert "[rank 1 of 3] FAILED" in result.stderr
    assert "assert 1 == 7" in result.stderr
    assert "printed before the failure" in result.stderr
    assert result.seconds < 30


def test_a_hanging_test_prints_the_stacks_of_every_rank(suite):
    result = suite(3, "test_hangs", "-o", "faulthandler_timeout=1")
    assert result.returncode not in (0, 124)
    assert result.stderr.count("in deaf_wait") == 3, result.stderr


@pytest.mark.mpi
def test_a_real_world_shares_one_folder(shared_path):
    from mpi4py import MPI

    (shared_path / str(MPI.COMM_WORLD.rank)).touch()
    MPI.COMM_WORLD.Barrier()
    assert len(list(shared_path.iterdir())) == MPI.COMM_WORLD.size
