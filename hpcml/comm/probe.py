"""Finds out what the roads of device arrays can do here, in child worlds, so that a road that kills its process kills no run.

Flags and version strings are never asked: a library that says it takes device arrays may crash in one collective and be slow in the next.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hpcml.comm.device_table import DIRECT, NCCL, OPERATIONS, STAGED, Trial
from hpcml.comm.trial import MARK

SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 26)
"""Bytes: from a few numbers to a large model's gradient."""

SECONDS = 60.0
"""A child world's time: the start of two processes with CuPy takes about five."""

LAST_SECONDS = 5.0
"""What a launcher gets to end its ranks."""

_FOREIGN = re.compile(r"PMI|PRTE_|HYDRA_|HYDI_|MPI_LOCAL|MPIR_|MPIEXEC_|MV2_|SLURM_|PBS_|OMPI_|PALS_")
_SETTINGS = re.compile(r"OMPI_ALLOW_|(OMPI|PRTE)_MCA_(?!ess|orte|initial|shmem|pmix|plm|mpi_)")
"""What a launcher told its ranks must not reach the children, or they would join its world; what a site or user has set must."""


def probe(sizes: Sequence[int] = SIZES, launch: Sequence[str] = (), on: str = "gpu") -> list[Trial]:
    """Return the trials of all roads; one rank of a run calls it, and waits for the children.

    Each operation of the direct road has a world of its own, since any of them may end it.

    Args:
        sizes: bytes of the arrays.
        launch: words that start a world of two, such as ("srun", "-n", "2"); left out, mpirun on this node.
        on: "cpu" tries the probe itself on host arrays.
    """
    worlds = [(STAGED, list(OPERATIONS)), *((DIRECT, [operation]) for operation in OPERATIONS), (NCCL, list(OPERATIONS))]
    return [trial for road, operations in worlds for trial in try_road(road, operations, sizes, launch, on)]


def try_road(
    road: str, operations: Sequence[str], sizes: Sequence[int], launch: Sequence[str] = (), on: str = "gpu", seconds: float = SECONDS
) -> list[Trial]:
    """Return the trials of one road in one child world; an operation that the world did not finish has a fault that says how it ended."""
    words = list(launch) or launcher()
    if not words:
        why = "no mpirun was found to start a world of two; give one with --launch"
        return [Trial(operation, road, 0, 0.0, why) for operation in operations]
    command = [*words, sys.executable, "-m", "hpcml.comm.trial", road, ",".join(operations), ",".join(map(str, sizes)), "--on", on]
    # Words that the user gives may need what a scheduler has set; the default world must not see it.
    printed, end = run_child(command, seconds, dict(os.environ) if launch else child_environment(os.environ))
    trials = [Trial(**json.loads(line.partition(MARK)[2])) for line in printed.splitlines() if MARK in line]
    done = {operation: sum(trial.operation == operation for trial in trials) for operation in operations}
    refused = {trial.operation for trial in trials if trial.fault}
    unfinished = [operation for operation in operations if operation not in refused and (done[operation] < len(sizes) or end)]
    return trials + [Trial(operation, road, 0, 0.0, end or "the child world said nothing") for operation in unfinished]


def run_child(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> tuple[str, str]:
    """Run a command in a session of its own, and return what it printed and, if it did not end well, how it ended.

    Python starts it without a copy of this process's memory (vfork), which a network library would not survive.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True)
        except OSError as error:
            return "", f"{command[0]} cannot be started ({error.strerror})"
        code = _wait(child, seconds)
        end = "" if code == 0 else f"no end within {seconds:g} s" if code is None else f"the child world ended with {_name(code)}"
        said = _read(err).strip().splitlines()
        return _read(out), f"{end}: {said[-1][:200]}" if end and said else end


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a launcher starts a new world on this node, whatever world this process is part of."""
    kept = {name: value for name, value in environment.items() if not _FOREIGN.match(name) or _SETTINGS.match(name)}
    if os.geteuid() == 0:  # Open MPI refuses root unless told; who started this run as root has decided
        kept |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return kept


def launcher() -> list[str]:
    """Return the words that start a world of two on this node, with the mpirun that belongs to this Python; [] where there is none."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun") or shutil.which("mpiexec")
    return [found, "-n", "2"] if found else []


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit code, or None for a child that had to be ended: a launcher first gets time to end its ranks."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.terminate()
        try:
            child.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return None


def _name(code: int) -> str:
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else f"exit code {code}"


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
