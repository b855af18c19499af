"""mpi4py's door: a Communicator over the MPI library, and the start of the world.

Device arrays are staged through host memory here, so that no caller needs to know whether the library takes device pointers.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from hpcml.arrays import Array, aligned, namespace, to_host
from hpcml.comm import node
from hpcml.comm.alone import Alone
from hpcml.comm.communicator import Communicator, Op, flatten, gather_rows
from hpcml.comm.launch import promise
from hpcml.errors import CommError, LaunchError

CHUNK = 1 << 27
"""Elements in one call to the library: below every library's 2^31 limits on counts and on bytes."""


PAUSE = 50e-6
"""Seconds between two looks of a patient communicator: short against the time of a bucket, long against that of a look."""


class MpiCommunicator(Communicator):
    """A Communicator over an mpi4py communicator."""

    def __init__(self, handle: Any) -> None:
        """Wrap an mpi4py.MPI.Comm."""
        self.handle = handle
        self.rank, self.size, self.host = handle.rank, handle.size, socket.gethostname()
        from mpi4py import MPI

        self._mpi = MPI
        self._windows: list[Any] = []
        self._children: list[MpiCommunicator] = []
        self.threaded = MPI.Query_thread() >= MPI.THREAD_SERIALIZED
        self._ops = {Op.SUM: MPI.SUM, Op.MIN: MPI.MIN, Op.MAX: MPI.MAX}

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another, as bytes, so that any dtype travels."""
        empty = np.empty(0, np.uint8)
        out = empty if x is None or to is None else to_host(flatten(x)).view(np.uint8)
        target: Array = empty if into is None or source is None else flatten(into)
        landing = target if namespace(target) is np else np.empty(target.size, target.dtype)
        byte = self._mpi.BYTE
        for send, receive in _pairs(out, landing.view(np.uint8)):
            requests = []
            if source is not None and receive is not None:
                requests.append(self.handle.Irecv([receive, byte], source, 0))
            if to is not None and send is not None:
                requests.append(self.handle.Isend([send, byte], to, 0))
            self._complete(requests)
        if landing is not target:
            target.set(landing)

    def all_reduce(self, x: Array, op: Op = Op.SUM) -> None:
        """Overwrite x with the element-wise op of all ranks' x, by the library's all-reduce where it knows the dtype."""
        flat = flatten(x)
        if x.dtype.kind not in "iuf" or x.dtype == np.float16:
            super().all_reduce(x, op)  # no MPI type adds these as numpy does
            return
        host = to_host(flat)
        for start in range(0, max(flat.size, 1), CHUNK):
            self.handle.Allreduce(self._mpi.IN_PLACE, host[start : start + CHUNK], self._ops[op])
        if host is not flat:
            flat.set(host)

    def all_gather(self, x: Array, out: Array) -> None:
        """Overwrite out, of shape (size, *x.shape), with every rank's x in rank order."""
        if x.nbytes >= CHUNK or namespace(x) is not np:
            super().all_gather(x, out)
            return
        rows = gather_rows(x, out, self.size)
        mine = np.ascontiguousarray(x).view(np.uint8).reshape(-1)
        self.handle.Allgather([mine, self._mpi.BYTE], [rows.reshape(-1).view(np.uint8), self._mpi.BYTE])

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Overwrite x, on every rank, with the root's x."""
        if self.patient:
            super().broadcast(x, root)
            return
        flat = flatten(x)
        host = to_host(flat).view(np.uint8)
        for start in range(0, max(host.size, 1), CHUNK):
            self.handle.Bcast([host[start : start + CHUNK], self._mpi.BYTE], root)
        if namespace(flat) is not np:
            flat.set(host.view(flat.dtype))

    def barrier(self) -> None:
        """Return when every rank has called it."""
        if self.patient:
            self._complete([self.handle.Ibarrier()])
        else:
            self.handle.Barrier()

    def meets_within(self, seconds: float) -> bool:
        """Return whether every rank calls this within so many seconds of this one."""
        request, end = self.handle.Ibarrier(), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE)
        return True

    def _complete(self, requests: list[Any]) -> None:
        """Return when the requests are complete: as the library waits, or giving the core away between two looks."""
        if not self.patient:
            self._mpi.Request.Waitall(requests)
            return
        while not self._mpi.Request.Testall(requests):
            time.sleep(PAUSE)

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return one block of memory a rank in an MPI-3 window; None, with a note, where the node has no room for it."""
        if self.size == 1:
            return [aligned(nbytes, np.uint8)]
        need = np.array([nbytes + node.OVERHEAD], np.int64)
        self.all_reduce(need)
        room = np.array([node.room()], np.int64)
        self.all_reduce(room, Op.MIN)
        if need[0] > room[0]:
            self.shortage = node.explain(int(need[0]), int(room[0]))
            return None
        try:
            window, blocks = node.open_window(self.handle, nbytes)
        except self._mpi.Exception as error:  # a collective call: it fails on every rank of the node
            self.shortage = f"the MPI library cannot share memory inside this node ({_last_line(error)}), so each rank keeps its own copy"
            return None
        self._windows.append(window)
        return blocks

    def fence(self) -> None:
        """Return when every rank has called it and all see what was written to shared blocks before."""
        for window in self._windows:
            window.Sync()
        self.barrier()
        for window in self._windows:
            window.Sync()

    def release(self) -> None:
        """Give back the shared blocks and the communicators made from this one."""
        for child in self._children:
            child.free()
        for window in self._windows:
            window.Unlock_all()
            window.Free()
        self._children.clear()
        self._windows.clear()

    def free(self) -> None:
        """Give back this communicator too; once is enough."""
        if self.handle != self._mpi.COMM_NULL:
            self.release()
            self.handle.Free()

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color, ordered by (key, rank)."""
        return self._own(self.handle.Split(color, key))

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks that share this node's memory, the ranks with this place in each node)."""
        inside = self._own(self.handle.Split_type(self._mpi.COMM_TYPE_SHARED, self.rank))
        return inside, self.split(inside.rank, self.rank)

    def _own(self, handle: Any) -> MpiCommunicator:
        child = MpiCommunicator(handle)
        self._children.append(child)
        return child

    def abort(self, code: int = 1) -> None:
        """End every process of the world at once with this exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._mpi.COMM_WORLD.Abort(code)


def _pairs(out: np.ndarray, landing: np.ndarray) -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
    """Cut both buffers into chunks, at least one; None where only the other has one more.

    How many messages a buffer takes depends on its own length alone, since that is all that its two sides both know.
    """
    for start in range(0, max(out.size, landing.size, 1), CHUNK):
        end = start + CHUNK
        yield out[start:end] if start < max(out.size, 1) else None, landing[start:end] if start < max(landing.size, 1) else None


@cache
def world() -> Communicator:
    """Return the communicator of all ranks; start MPI at the first call.

    Returns:
        COMM_WORLD of the MPI library, or a world of one where no library can be loaded and no launcher started us.

    Raises:
        LaunchError: if the launcher promised several ranks, but this process would believe to be alone.
    """
    promised = promise(os.environ)
    # Open MPI's UCX component complains on every rank about windows inside a node, which it does not serve; a site's setting stands.
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    try:
        with warnings.catch_warnings():
            # mpi4py suspects on every rank what is told below once, with what to do
            warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if promised is not None and promised[0] > 1:
            raise LaunchError(
                f"{promised[2]} started {promised[0]} ranks, but mpi4py cannot load an MPI library ({_first_line(error)});"
                " load the site's MPI module, or pip install 'hpcml[mpi]'"
            ) from error
        return Alone()
    if promised is not None and promised[0] > 1 and MPI.COMM_WORLD.size == 1:
        raise LaunchError(
            f"{promised[2]} started {promised[0]} ranks, but mpi4py is linked to {_first_line(MPI.Get_library_version())},"
            " which sees only this one: each process would believe that it is rank 0 of 1;"
            f" start with the mpirun of the same MPI (look beside {sys.executable}), or install mpi4py for the MPI of that launcher"
        )
    if MPI.COMM_WORLD.size > 1 and not MPI.Is_initialized():
        raise CommError("MPI is not initialised; do not set mpi4py.rc.initialize to False before hpcml starts")
    return MpiCommunicator(MPI.COMM_WORLD)


def _last_line(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[-1].split())


def library_version() -> str:
    """Return the name and version of the MPI library that mpi4py is linked to, or "none" where none can be loaded."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return "none"
    return _first_line(MPI.Get_library_version())


def _first_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return " ".join(lines[0].split(",")[0].split()) if lines else "no reason given"
