"""The memory that all ranks of one node see: an MPI-3 shared window for each request. mpi4py's second door.

Windows are locked for their whole life (Lock_all); a `fence` of the communicator is Sync, Barrier, Sync,
which orders plain loads and stores. Where ranks outnumber the cores the barrier is of counters in such a window.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np

from hpcml.arrays.memory import ALIGNMENT
from hpcml.comm.barrier import Barrier
from hpcml.comm.bell import Bell, Gather, introduce

SHARED_FILES = "/dev/shm"
"""Where MPI libraries keep windows on Linux. One larger than the room there is granted, and kills the ranks when touched."""

VARIABLE = "HPCML_SHARED_BYTES"
"""Limits what a window may take; 0 turns sharing off."""

OVERHEAD = 1 << 20
"""Bytes a rank that the library itself takes there beside the blocks, and room for other users of the node."""


def allowed() -> int:
    """Return how many bytes a window may have: $HPCML_SHARED_BYTES, or more than there are; 0 if that is no number of bytes."""
    limit = os.environ.get(VARIABLE, "").strip()
    if not limit:
        return 1 << 62
    return int(limit) if limit.isdecimal() else 0


def room() -> int:
    """Return how many bytes a window of this node may have: what is left of its shared memory, or what HPCML_SHARED_BYTES allows."""
    most = allowed()
    if not os.path.isdir(SHARED_FILES):
        return most
    free = os.statvfs(SHARED_FILES)
    return min(most, free.f_bavail * free.f_frsize)


def explain(host: str, need: int, found: int) -> str:
    """Return in words that a window does not fit, and what to do; `found` is the least room that a rank of the node saw."""
    wanted = f"the ranks on {host} need {need / 1e6:,.1f} MB more of shared memory"
    limit = os.environ.get(VARIABLE, "").strip()
    if limit and not limit.isdecimal():
        return f"{wanted}, and {VARIABLE} is {limit!r}; give a number of bytes such as 67108864, or 0 to share no memory"
    if found >= allowed():
        return f"{wanted}, {VARIABLE} allows {found / 1e6:,.1f} MB; raise it, or unset it to use all of {SHARED_FILES}"
    return (
        f"{wanted}, {SHARED_FILES} has {found / 1e6:,.1f} MB for them;"
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


def open_barrier(handle: Any, gather: Gather) -> tuple[Barrier | None, list[Any]]:
    """Return a barrier of the ranks of a node and the windows that it stands in; none where they have no bells in reach.

    Args:
        handle: as `open_window` takes it.
        gather: returns what every rank gave, in rank order; every rank calls it.
    """
    from mpi4py import MPI

    bell = Bell()
    names, heard = introduce(bell, gather)
    if not all(heard):
        bell.close()
        return None, []
    window, blocks = open_window(handle, Barrier.nbytes(handle.size) if handle.rank == 0 else 0)
    return Barrier(blocks[0], handle.rank, bell, names, window.Sync, partial(handle.Iprobe, MPI.ANY_SOURCE)), [window]


def outnumber(size: int, gather: Gather) -> bool:
    """Return whether so many ranks of a node are more than the cores that they may use together; every rank calls it."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {core for text in gather(" ".join(map(str, mine)).encode()) for core in text.split()}
    return size > len(cores)


def _aligned(memory: Any) -> np.ndarray:
    """Return the part of a block that starts on a 64-byte boundary, in each rank's own address space, at one offset for all.

    Every rank maps the segment at its own address, but pages are aligned everywhere, so the offset is the same.
    """
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + raw.size - ALIGNMENT]
