"""The memory that all ranks of one node see: an MPI-3 shared window for each request. mpi4py's second door.

Windows are locked for their whole life (Lock_all); a `fence` of the communicator is Sync, Barrier, Sync,
which orders plain loads and stores.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from hpcml.arrays.memory import ALIGNMENT

SHARED_FILES = "/dev/shm"
"""Where MPI libraries keep windows on Linux. One larger than the room there is granted, and kills the ranks when touched."""

OVERHEAD = 1 << 20
"""Bytes a rank that the library itself takes there beside the blocks, and room for other users of the node."""


def room() -> int:
    """Return how many bytes of shared memory this node has left; HPCML_SHARED_BYTES limits it, 0 turns sharing off."""
    limit = os.environ.get("HPCML_SHARED_BYTES", "")
    allowed = int(limit) if limit.isdigit() else 1 << 62
    if not os.path.isdir(SHARED_FILES):
        return allowed
    free = os.statvfs(SHARED_FILES)
    return min(allowed, free.f_bavail * free.f_frsize)


def explain(need: int, found: int) -> str:
    """Return in words that a window does not fit, and what to do."""
    return (
        f"the ranks of this node need {need / 1e6:,.0f} MB more of shared memory, {SHARED_FILES} has {found / 1e6:,.0f} MB for them;"
        " enlarge it (mount -o remount,size=... on the node, --shm-size for a container)"
    )


def open_window(handle: Any, nbytes: int) -> tuple[Any, list[np.ndarray]]:
    """Return a locked window and every rank's block in it, zeroed and aligned.

    Args:
        handle: an mpi4py communicator whose ranks share a node.
        nbytes: of this rank's block.
    """
    from mpi4py import MPI

    # Blocks need not lie side by side: each is then placed near the rank that touches it first.
    info = MPI.Info.Create()
    info.Set("alloc_shared_noncontig", "true")
    window = MPI.Win.Allocate_shared(nbytes + ALIGNMENT, 1, info=info, comm=handle)
    info.Free()
    window.Lock_all()
    blocks = [_aligned(window.Shared_query(rank)[0]) for rank in range(handle.size)]
    blocks[handle.rank].fill(0)
    window.Sync()
    handle.Barrier()
    return window, blocks


def _aligned(memory: Any) -> np.ndarray:
    """Return the part of a block that starts on a 64-byte boundary, in each rank's own address space, at one offset for all.

    Every rank maps the segment at its own address, but pages are aligned everywhere, so the offset is the same.
    """
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + raw.size - ALIGNMENT]
