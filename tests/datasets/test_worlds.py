"""The tools in a real world of any number of ranks: the bytes and reports of one rank, also after other processes were killed."""

from __future__ import annotations

import shutil
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from hpcml.comm import simulated, world
from hpcml.data.verification import Range
from hpcml.datasets.checking import statistics, verify, write_manifest
from hpcml.datasets.dealing import open_all
from tests.datasets.conftest import quiet
from tests.datasets.dying import SMALL, TOOLS, write_inputs
from tests.mpirun import Child

pytestmark = pytest.mark.mpi

KEPT = {
    "tables-3": 0,  # between the counts of a file's ranges
    "tables-17": 0,  # before the scan of a range is noted
    "tables-34": 5,  # while the files move to their goal
    "arrays-9": 1,  # before a file has its name
    "copied-7": 1,  # before it is noted
    "copied-19": 5,  # before the manifest
    "mixed-8": 0,  # between spills
    "mixed-21": 2,
    "parted-10": 3,
    "parted-20": 5,  # before the work folder goes
}
"""Where a process is killed -> files that the next one need not write again."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    """Return a folder, the same on every rank, with inputs and, of each kill, what it left."""
    comm = world()
    shared = Path(comm.broadcast_bytes(str(tmp_path_factory.mktemp("shared")).encode()).decode())
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        if comm.rank == 0:
            write_inputs(shared)
            Child([sys.executable, "-m", "tests.datasets.dying", shared, shared, *KEPT], cwd=repository).wait(40).check()
        comm.barrier()
        yield shared
        comm.barrier()  # the folder stays until the last rank has left it


@pytest.fixture(scope="module")
def by_one(folder, tmp_path_factory):
    """Return a function from a tool to what it writes on one rank, name -> bytes."""
    goals = tmp_path_factory.mktemp("alone")

    @lru_cache
    def written(tool):
        simulated.run(1, lambda alone: TOOLS[tool](folder, goals / tool, alone))
        return {path.name: path.read_bytes() for path in (goals / tool).iterdir()}

    return written


@pytest.mark.parametrize("tool", TOOLS)
def test_every_world_writes_the_bytes_of_one_rank(folder, by_one, comm, contents, tool):
    TOOLS[tool](folder, folder / tool, comm)
    found = contents(folder / tool)
    assert found == by_one(tool)
    assert len(found) == 6


@pytest.mark.parametrize("case", KEPT)
def test_every_world_goes_on_where_a_process_was_killed(folder, by_one, comm, contents, case):
    tool, goal = case.partition("-")[0], folder / case
    noted = {path.name.removesuffix(".done") for path in goal.rglob("*.h5.done")}
    before = {path.name: path.stat().st_mtime_ns for path in goal.rglob("*.h5") if path.name in noted and "spill" not in path.name}
    comm.barrier()
    TOOLS[tool](folder, goal, comm)
    assert len(before) == KEPT[case]
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in goal.iterdir()}.items()
    assert contents(goal) == by_one(tool)


def test_every_world_reports_what_one_rank_reports(folder, comm):
    pattern, wanted = f"{folder}/a-*.h5", [Range("y", 0, 1)]

    def program(ranks):
        report = verify(pattern, ranks, quiet, ranges=wanted)
        return report.files, report.problems, report.entries, repr(statistics(open_all(pattern, None, ranks), ranks, quiet))

    found = program(comm)
    assert [found] == simulated.run(1, program)
    assert len(found[1]) == 3


def test_every_world_writes_the_manifest_of_one_rank(folder, comm, tmp_path):
    shards = folder / "shards"
    if comm.rank == 0:
        shards.mkdir()
        for path in folder.glob("a-*.h5"):
            shutil.copy(path, shards)
    comm.barrier()
    written = write_manifest(f"{shards}/*.h5", None, comm, quiet).read_bytes()
    shutil.copytree(shards, tmp_path / "shards")
    alone = simulated.run(1, lambda one: write_manifest(f"{tmp_path}/shards/*.h5", None, one, quiet))[0]
    assert alone.read_bytes() == written
