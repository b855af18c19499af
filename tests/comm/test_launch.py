from __future__ import annotations

import sys

import pytest

from hpcml.comm.launch import promise
from tests.mpirun import Child


@pytest.mark.parametrize(
    ("environment", "promised"),
    [
        ({}, None),
        ({"HOME": "/home/x", "SLURM_NTASKS": "4"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, (4, 3, "Open MPI's mpirun")),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, (2, 1, "MPICH's mpirun (or another with PMI)")),
        ({"MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_RANK": "0"}, (8, 0, "MVAPICH's mpirun")),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "5"}, (16, 5, "Slurm's srun")),
        (
            {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMI_SIZE": "4", "PMI_RANK": "2"},
            (4, 2, "MPICH's mpirun (or another with PMI)"),
        ),
        ({"PMI_SIZE": "3"}, (3, 0, "MPICH's mpirun (or another with PMI)")),
        ({"PMI_SIZE": "", "PMI_RANK": "1"}, None),
        ({"PMI_SIZE": "many"}, None),
        ({"PMI_SIZE": "3", "PMI_RANK": "x"}, (3, 0, "MPICH's mpirun (or another with PMI)")),
    ],
)
def test_what_the_launcher_promised_is_read_from_its_names(environment, promised):
    assert promise(environment) == promised


@pytest.mark.parametrize("rank", [0, 2])
def test_a_launcher_of_another_mpi_is_refused_and_rank_0_says_why(repository, rank):
    fake = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": str(rank)}
    job = repository / "jobs" / "digits.toml"
    result = Child([sys.executable, "-m", "hpcml", "train", job], cwd=repository, env=fake).wait(50)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    if rank:
        assert result.stderr == ""
    else:
        assert "Open MPI's mpirun started 4 ranks" in result.stderr
        assert "rank 0 of 1" in result.stderr


def test_a_program_of_the_users_own_is_refused_too(tmp_path):
    script = tmp_path / "own.py"
    script.write_text("import hpcml\nhpcml.init()\nprint('it ran')\n")
    result = Child([sys.executable, script], env={"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}).wait(50)
    assert result.returncode != 0
    assert "it ran" not in result.stdout
    assert "LaunchError" in result.stderr
