"""mpi4py's door: a Communicator over the MPI library.

Device arrays are staged through host memory unless a probe has shown that the library takes device pointers: handing one over is safe.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array, aligned, namespace, on_device
from hpcml.arrays.pinned import settle
from hpcml.comm import node
from hpcml.comm.barrier import Barrier
from hpcml.comm.communicator import Communicator, Op, flatten, gather_rows, is_short, reduce_wide
from hpcml.comm.last_words import wait_until_read
from hpcml.comm.launch import outlives_ranks
from hpcml.comm.mail import Mail, MpiMail
from hpcml.comm.staging import Staging
from hpcml.errors import CommError

CHUNK = 1 << 27
"""Elements in one call to the library: below every library's 2^31 limits on counts and on bytes."""


PAUSES = 50e-6, 400e-6
"""Seconds between two looks of a patient communicator: the first short against the time of a bucket on a fast network, and longer
ones, up to the last, for whoever waits on: each look takes the core and the interpreter from the thread that computes."""


LOOKS = 200
"""How often a rank that shares its core looks for the others before it sleeps: about as long as a fence takes where nobody is late."""


class MpiCommunicator(Communicator):
    """A Communicator over an mpi4py communicator."""

    def __init__(self, handle: Any, direct: bool = False) -> None:
        """Wrap an mpi4py.MPI.Comm; with `direct`, device arrays go to the library as they are, which kills the process where it cannot."""
        self.handle, self.direct = handle, direct
        self._staging = Staging(self)
        self.rank, self.size, self.host = handle.rank, handle.size, socket.gethostname()
        from mpi4py import MPI

        self._mpi = MPI
        self._windows: list[Any] = []
        # Bound once: a fence is called twice a step, and of a small vector's sum each look-up is a per cent.
        self._syncs: list[Any] = []
        self._gate: Barrier | None = None
        self._crowded = False
        self._barrier = handle.Barrier
        self._leaving: Any = None
        self._children: list[MpiCommunicator] = []
        self.threaded = MPI.Query_thread() >= MPI.THREAD_SERIALIZED
        self.concurrent = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._ops = {Op.SUM: MPI.SUM, Op.MIN: MPI.MIN, Op.MAX: MPI.MAX}

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another, as bytes, so that any dtype travels."""
        if self._must_stage(None if to is None else x, None if source is None else into):
            self._staging.exchange(x, to, into, source)
            return
        empty = np.empty(0, np.uint8)
        out: Array = empty if x is None or to is None else flatten(x).view(np.uint8)
        landing: Array = empty if into is None or source is None else flatten(into).view(np.uint8)
        byte = self._mpi.BYTE
        for send, receive in _pairs(out, landing):
            requests = []
            if source is not None and receive is not None:
                requests.append(self.handle.Irecv([receive, byte], source, 0))
            if to is not None and send is not None:
                requests.append(self.handle.Isend([send, byte], to, 0))
            arrived = [self._mpi.Status() for _ in requests]
            self._complete(requests, arrived)
            if source is not None and receive is not None:
                self._require_count(arrived[0], receive.size, source)

    def all_reduce(self, x: Array, op: Op = Op.SUM) -> None:
        """Overwrite x with the element-wise op of all ranks' x, by the library's all-reduce where it knows the dtype."""
        flat = flatten(x)
        if is_short(x.dtype):
            reduce_wide(self, flat, op)
            return
        if x.dtype.kind not in "iuf":
            super().all_reduce(x, op)  # no MPI type adds these as numpy does
            return
        if self._must_stage(flat):
            self._staging.all_reduce(flat, op)
            return
        for start in range(0, max(flat.size, 1), CHUNK):
            self.handle.Allreduce(self._mpi.IN_PLACE, flat[start : start + CHUNK], self._ops[op])

    def all_gather(self, x: Array, out: Array) -> None:
        """Overwrite out, of shape (size, *x.shape), with every rank's x in rank order."""
        rows = gather_rows(x, out, self.size)
        mine = x if x.flags.c_contiguous else namespace(x).ascontiguousarray(x)
        if self._must_stage(mine, rows):
            self._staging.all_gather(mine.reshape(x.shape), out)
            return
        if x.nbytes >= CHUNK:
            super().all_gather(x, out)
            return
        self.handle.Allgather([mine.reshape(-1).view(np.uint8), self._mpi.BYTE], [rows.reshape(-1).view(np.uint8), self._mpi.BYTE])

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Overwrite x, on every rank, with the root's x."""
        if self.patient:
            super().broadcast(x, root)
            return
        flat = flatten(x).view(np.uint8)
        if self._must_stage(flat):
            self._staging.broadcast(flat, root)
            return
        for start in range(0, max(flat.size, 1), CHUNK):
            self.handle.Bcast([flat[start : start + CHUNK], self._mpi.BYTE], root)

    def barrier(self) -> None:
        """Return when every rank has called it."""
        if self.patient:
            self._complete([self.handle.Ibarrier()])
        else:
            self.handle.Barrier()

    def handing_over(self) -> MpiCommunicator:
        """Return a communicator of the same ranks that hands device arrays to the library as they are."""
        return MpiCommunicator(self.handle, direct=True)

    def _must_stage(self, *arrays: Array | None) -> bool:
        """Return whether the arrays lie on a device and the library must not see them; what it may see is settled first.

        Raises:
            CommError: if one lies on a device and another in host memory: the ranks would cut their messages in different ways.
        """
        given = [x for x in arrays if x is not None]
        there = [x for x in given if on_device(x)]
        if 0 < len(there) < len(given):
            raise CommError("one array of an operation lies on a device, the other in host memory; place both alike")
        if there and self.direct:
            for x in there:
                settle(x)
        return bool(there) and not self.direct

    def _require_count(self, arrived: Any, expected: int, source: int) -> None:
        """Raise CommError if a message was shorter than its buffer, which MPI takes without a word."""
        if arrived.Get_count(self._mpi.BYTE) != expected:
            raise CommError(
                f"rank {self.rank} expected {expected} bytes from rank {source}, got {arrived.Get_count(self._mpi.BYTE)};"
                " both sides must pass the same size and dtype, on the same kind of device"
            )

    def meets_within(self, seconds: float) -> bool:
        """Return whether every rank calls this within so many seconds of this one."""
        self._leaving = self._leaving or self.handle.Ibarrier()
        end = time.monotonic() + seconds
        while not self._leaving.Test():
            if time.monotonic() > end:
                return False
            time.sleep(PAUSES[0])
        return True

    def _complete(self, requests: list[Any], statuses: list[Any] | None = None) -> None:
        """Return when the requests are complete: as the library waits, or giving the core away between two looks."""
        if not self.patient:
            self._mpi.Request.Waitall(requests, statuses)
            return
        self._doze(requests, statuses)

    def _doze(self, requests: list[Any], statuses: list[Any] | None = None) -> None:
        pause, longest = PAUSES
        while not self._mpi.Request.Testall(requests, statuses):
            time.sleep(pause)
            pause = min(1.25 * pause, longest)

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return one block of memory a rank in an MPI-3 window; None, with a note, where the node has no room for it."""
        if self.size == 1:
            return [aligned(nbytes, np.uint8)]
        need = np.array([nbytes + node.OVERHEAD], np.int64)
        self.all_reduce(need)
        room = np.array([node.room()], np.int64)
        self.all_reduce(room, Op.MIN)
        if need[0] > room[0]:
            self.shortage = node.explain(self.host, int(need[0]), int(room[0]))
            return None
        try:
            window, blocks = node.open_window(self.handle, nbytes)
            if self._gate is None and node.outnumber(self.size, self.all_gather_bytes):
                self._crowded = True
                # Memory does not tell of a rank that died: where the others outlive it, the library's barrier does.
                if not outlives_ranks(self._mpi):
                    self._gate, used = node.open_barrier(self.handle, self.all_gather_bytes)
                    self._windows += used
        except self._mpi.Exception as error:  # a collective call: it fails on every rank of the node
            self.shortage = f"the MPI library cannot share memory inside this node ({_last_line(error)})"
            return None
        self._windows.append(window)
        self._syncs.append(window.Sync)
        return blocks

    def fence(self) -> None:
        """Return when every rank has called it and all see what was written to shared blocks before."""
        for sync in self._syncs:
            sync()
        if self._gate is not None:
            self._gate.cross()
        elif self._crowded:
            self._meet()
        elif self.patient:
            self.barrier()
        else:
            self._barrier()
        for sync in self._syncs:
            sync()

    def _meet(self) -> None:
        """Return when every rank has called it, giving the core to another rank at each look, and asleep if it takes long.

        For ranks that have no bells, or that outlive others; see `node.open_barrier`.
        """
        request = self.handle.Ibarrier()
        for _ in range(LOOKS):
            if request.Test():
                return
            os.sched_yield()
        self._doze([request])

    def release(self) -> None:
        """Give back the shared blocks and the communicators made from this one."""
        for child in self._children:
            child.free()
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        for window in self._windows:
            window.Unlock_all()
            window.Free()
        self._children.clear()
        self._windows.clear()
        self._syncs.clear()

    def free(self) -> None:
        """Give back this communicator too; once is enough."""
        if self.handle != self._mpi.COMM_NULL:
            self.release()
            self.handle.Free()

    def mail(self) -> Mail:
        """Return a new letter box of this rank, on a duplicate of the communicator."""
        return MpiMail(self._own(self.handle.Dup()).handle, self._mpi, self.all_gather_bytes)

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color, ordered by (key, rank)."""
        return self._own(self.handle.Split(color, key))

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks that share this node's memory, the ranks with this place in each node)."""
        inside = self._own(self.handle.Split_type(self._mpi.COMM_TYPE_SHARED, self.rank))
        return inside, self.split(inside.rank, self.rank)

    def _own(self, handle: Any) -> MpiCommunicator:
        child = MpiCommunicator(handle, self.direct)
        self._children.append(child)
        return child

    def handles(self) -> Iterator[Any]:
        """Yield the mpi4py communicators of this one and of all that were made from it and not given back."""
        for child in self._children:
            yield from child.handles()
        if self.handle != self._mpi.COMM_NULL:
            yield self.handle

    def abort(self, code: int = 1) -> None:
        """End every process of the world at once with this exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        wait_until_read()
        if outlives_ranks(self._mpi):  # nobody would hear of an Abort, nor of an exit code; of a death by signal all do
            os.kill(os.getpid(), signal.SIGKILL)
        self._mpi.COMM_WORLD.Abort(code)


def _pairs(out: np.ndarray, landing: np.ndarray) -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
    """Cut both buffers into chunks, at least one; None where only the other has one more.

    How many messages a buffer takes depends on its own length alone, since that is all that its two sides both know.
    """
    for start in range(0, max(out.size, landing.size, 1), CHUNK):
        end = start + CHUNK
        yield out[start:end] if start < max(out.size, 1) else None, landing[start:end] if start < max(landing.size, 1) else None


def _last_line(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[-1].split())
