"""What the promise of equal bits rests on, looked at before the first step: one BLAS kernel and one number of threads."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from hpcml.arrays import blas
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.errors import DisagreementError


def fix_blas_threads(local_ranks: int, exact: bool, threads: int | None = None) -> None:
    """Tell BLAS how many threads this rank may use.

    Args:
        local_ranks: how many ranks share this node's cores.
        exact: the default is then 1 on every rank, else the rank's share of the node's cores.
        threads: a number instead of the default.
    """
    if threads is None:
        threads = 1 if exact else max(1, cores() // local_ranks)
    blas.limit_threads(threads)


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def conditions() -> dict[str, Any]:
    """Return what decides the bits of this rank's arithmetic: BLAS kernel and threads, numpy and, if used, numba, the machine."""
    found = {"blas": blas.kernel(), "blas_threads": blas.threads(), "numpy": np.__version__, "machine": platform.machine()}
    fused = sys.modules.get("hpcml.arrays.fast")
    return found if fused is None else found | {"kernels": fused.NAME}


def require_equal_conditions(comm: Communicator) -> None:
    """Raise on every rank unless all ranks compute with the same BLAS kernel, threads, numpy and machine; hosts are named.

    Raises:
        DisagreementError: naming each kind and its hosts.
    """
    kinds: dict[str, set[str]] = {}
    text = f"{comm.host}\n{conditions()}".encode()
    for other in comm.all_gather_bytes(text):
        host, _, kind = other.decode().partition("\n")
        kinds.setdefault(kind, set()).add(host)
    if len(kinds) > 1:
        sides = "; ".join(f"{kind} on {', '.join(sorted(hosts))}" for kind, hosts in kinds.items())
        raise everywhere(
            DisagreementError(
                f"ranks compute with different kernels, so exact training cannot keep its promise: {sides};"
                " use hosts of one kind, set OPENBLAS_CORETYPE to one kernel for all, or set train.exact = false"
            )
        )


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("hpcml", "numpy", "h5py", "mpi4py", "cupy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
