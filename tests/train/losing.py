"""Jobs over real MPI of which ranks die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mpirun import Child, launcher

DYING = Path(__file__).with_name("dying.py")
FAULT_TOLERANT = ["--with-ft", "ulfm", "--mca", "mpi_ft_propagator_with_rbcast", "1", "--mca", "mpi_yield_when_idle", "1"]
STEP = "hpcml.train.recorder:Recorder.after_step"


def require_ulfm(request):
    """Skip a test that is marked so where this MPI ends all ranks when one dies."""
    if request.node.get_closest_marker("ulfm"):
        told = subprocess.run([launcher(), "--version"], capture_output=True, text=True, check=False).stdout
        if "Open MPI" not in told:
            pytest.skip("this MPI ends all ranks when one dies; `make test-ulfm` brings one that does not")


def lossy(job, run, *changes, dies=(), options=(), ranks=4, flags=FAULT_TOLERANT, timeout=40):
    """Train on ranks of which some die, as dying.py takes it."""
    words = [word for change in changes for word in ("--set", change)]
    train = ["train", str(job.config), "--run", run, *words, *options]
    return Child([launcher(), *flags, "-n", str(ranks), sys.executable, DYING, *dies, "--", *train], cwd=job.folder).wait(timeout)


def ledgers(job, run):
    """The ledger of each epoch, as it was written last."""
    return {event["epoch"]: event["ledger"] for event in job.events(run) if event["event"] == "epoch"}
