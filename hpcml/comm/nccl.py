"""NCCL's door: a Communicator whose device arrays go from GPU to GPU, and whose host arrays and few bytes go by MPI.

Everything is queued on the caller's current stream, so nothing has to be settled and the host does not wait. NCCL needs one GPU a rank:
`why_not` tells where it cannot serve.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays import Array, on_device
from hpcml.comm.around import Around
from hpcml.comm.communicator import Communicator, Op, flatten, gather_rows, is_short, reduce_wide
from hpcml.errors import DeviceError


class NcclCommunicator(Around):
    """A Communicator over NCCL for device arrays, around one for everything else."""

    def __init__(self, host: Communicator) -> None:
        """Join the ranks of `host`; every rank calls it, with its own GPU as the thread's current device.

        Raises:
            DeviceError: on every rank, where NCCL cannot serve; the message says why.
        """
        super().__init__(host)
        reason = why_not(host)
        if reason:
            raise DeviceError(reason)
        nccl = _library()
        self._nccl, self._ring = nccl, _join(nccl, host)
        self._ops = {Op.SUM: nccl.NCCL_SUM, Op.MIN: nccl.NCCL_MIN, Op.MAX: nccl.NCCL_MAX}
        names = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float32", "float64")
        self._dtypes = {name: getattr(nccl, f"NCCL_{name.upper()}") for name in names}

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another, in one group, as bytes."""
        send = None if to is None or x is None else flatten(x)
        receive = None if source is None or into is None else flatten(into)
        if not any(half is not None and on_device(half) for half in (send, receive)):
            self.inner.exchange(x, to, into, source)
            return
        self._nccl.groupStart()
        try:
            if send is not None and send.size:
                self._ring.send(send.data.ptr, send.nbytes, self._nccl.NCCL_UINT8, to, _stream())
            if receive is not None and receive.size:
                self._ring.recv(receive.data.ptr, receive.nbytes, self._nccl.NCCL_UINT8, source, _stream())
        finally:
            self._nccl.groupEnd()

    def all_reduce(self, x: Array, op: Op = Op.SUM) -> None:
        """Overwrite x with the element-wise op of all ranks' x; dtypes that NCCL does not know go by the host's ranks."""
        flat = flatten(x)
        if on_device(x) and is_short(x.dtype):
            reduce_wide(self, flat, op)
        elif not on_device(x) or str(x.dtype) not in self._dtypes:
            self.inner.all_reduce(x, op)
        elif flat.size:
            self._ring.allReduce(flat.data.ptr, flat.data.ptr, flat.size, self._dtypes[str(x.dtype)], self._ops[op], _stream())

    def all_gather(self, x: Array, out: Array) -> None:
        """Overwrite out, of shape (size, *x.shape), with every rank's x in rank order."""
        if not on_device(x):
            self.inner.all_gather(x, out)
            return
        rows = gather_rows(x, out, self.size)
        mine = x if x.flags.c_contiguous else x.copy()
        if mine.size:
            self._ring.allGather(mine.data.ptr, rows.data.ptr, mine.nbytes, self._nccl.NCCL_UINT8, _stream())

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Overwrite x, on every rank, with the root's x."""
        flat = flatten(x)
        if not on_device(x):
            self.inner.broadcast(x, root)
        elif flat.size:
            self._ring.broadcast(flat.data.ptr, flat.data.ptr, flat.nbytes, self._nccl.NCCL_UINT8, root, _stream())

    def free(self) -> None:
        """Give back NCCL's communicator and the host's."""
        self._ring.destroy()
        self.inner.free()

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color, ordered by (key, rank)."""
        return NcclCommunicator(self.inner.split(color, key))

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks of this node, the ranks with this place in each node)."""
        inside, across = self.inner.by_node()
        return NcclCommunicator(inside), NcclCommunicator(across)


def why_not(host: Communicator, place: Callable[[], str] | None = None) -> str:
    """Return in one line why the ranks of `host` cannot use NCCL, equal on all of them; empty where they can.

    Args:
        host: the ranks; every rank calls it.
        place: returns this rank's GPU by a name that is unique in its node; left out, the PCI bus id of the current device.
    """
    mine = "", ""
    try:
        if place is None:
            _library()
        mine = (place or _bus_id)(), ""
    except Exception as error:  # CuPy raises its own classes, by version: any of them means that this rank has no NCCL
        mine = "", f"{error}".strip().splitlines()[0] if str(error).strip() else type(error).__name__
    answers = [tuple(text.decode().split("\n")) for text in host.all_gather_bytes("\n".join((host.host, *mine)).encode())]
    for rank, (name, _, problem) in enumerate(answers):
        if problem:
            return f"NCCL cannot be used: rank {rank} on {name}: {problem}"
    ranks: dict[tuple[str, str], int] = {}
    for rank, (name, gpu, _) in enumerate(answers):
        other = ranks.setdefault((name, gpu), rank)
        if other != rank:
            return f"NCCL cannot be used: ranks {other} and {rank} share the GPU {gpu} of {name}, and it takes one rank a GPU"
    return ""


def _library() -> Any:
    """Return CuPy's NCCL module.

    Raises:
        DeviceError: if CuPy finds no NCCL library.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns that the library is missing; this is said below, with what to do
        from cupy.cuda import nccl

        if not getattr(nccl, "available", False):
            raise DeviceError("CuPy finds no NCCL library (load the site's NCCL module, or pip install nvidia-nccl-cu12)")
    return nccl


def _bus_id() -> str:
    import cupy

    return str(cupy.cuda.Device().pci_bus_id)


def _join(nccl: Any, host: Communicator) -> Any:
    """Return NCCL's communicator of all ranks of host; rank 0 makes the id and MPI hands it out."""
    made = nccl.get_unique_id() if host.rank == 0 else b""
    # CuPy before 14 gives and takes a tuple of signed bytes.
    received = host.broadcast_bytes(made if isinstance(made, bytes) else np.array(made, np.int8).tobytes())
    identity = received if _takes_bytes() else tuple(np.frombuffer(received, np.int8).tolist())
    return nccl.NcclCommunicator(host.size, identity, host.rank)


def _takes_bytes() -> bool:
    import cupy

    return int(cupy.__version__.split(".")[0]) >= 14


def _stream() -> int:
    import cupy

    return int(cupy.cuda.get_current_stream().ptr)
