"""What the launcher promised, read from its environment: pure, so that a wrong start is found before MPI is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI's mpirun"),
    ("PMI_SIZE", "PMI_RANK", "MPICH's mpirun (or another with PMI)"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MVAPICH's mpirun"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "Slurm's srun"),
)
"""In order of trust: under Slurm, an mpirun sets its own names and its daemons carry Slurm's."""


OPEN_MPI = _LAUNCHERS[0][2]
Promise = tuple[int, int, str]
"""(ranks, this rank, the launcher's name)."""


def is_kin(launcher: str, library: str) -> bool:
    """Return False where this launcher is known not to start ranks of this library: Open MPI's mpirun and MPICH or its kin."""
    return launcher != OPEN_MPI or not any(name in library for name in ("MPICH", "Intel(R) MPI", "MVAPICH"))


def promise(environment: Mapping[str, str]) -> Promise | None:
    """Return (ranks, this rank, launcher's name) as the launcher set them, or None when nobody launched us."""
    for size, rank, name in _LAUNCHERS:
        if environment.get(size, "").isdigit():
            number = environment.get(rank, "0")
            return int(environment[size]), int(number) if number.isdigit() else 0, name
    return None


FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
"""What `mpirun --with-ft ulfm` sets for its ranks."""


def outlives_ranks(mpi: Any) -> bool:
    """Return whether this world goes on when ranks die: Open MPI's ULFM, under `mpirun --with-ft ulfm`; `mpi` is mpi4py.MPI."""
    started = os.environ.get(FAULT_TOLERANCE, "0").lower() in ("1", "true")
    return started and bool(mpi.ERR_PROC_FAILED != mpi.ERR_UNKNOWN)
