"""The start of a benchmark's ranks: the same program again, under mpirun."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def command(ranks: int, *options: str) -> list[str]:
    """Return the words that run this program on so many ranks, with options that tell it that it is one of them."""
    mpirun = Path(sys.executable).with_name("mpirun")
    return [str(mpirun) if mpirun.exists() else "mpirun", "-n", str(ranks), sys.executable, *sys.argv, *options]


def start(ranks: int, *options: str) -> int:
    """Run this program on so many ranks, each with one BLAS thread, and return the exit code."""
    return subprocess.run(command(ranks, *options), check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode


def start_in_folder(ranks: int) -> int:
    """Run this program on so many ranks with ``--folder`` and a fresh folder, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        return start(ranks, "--folder", folder)
