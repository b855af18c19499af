"""How ranks talk. Everything can be built on `exchange`; a library's communicator does better where it can.

Buffers only: arrays go as they are, C-contiguous, in host memory or on a device. The few texts (agreement, errors) go as bytes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np

import hpcml.errors as errors
from hpcml.arrays import Array, namespace
from hpcml.comm.mail import Mail
from hpcml.comm.schedules import recursive_doubling
from hpcml.errors import CommError, DisagreementError, HpcmlError


class Op(Enum):
    """How two values become one: their sum, the smaller, or the larger."""

    SUM = "add"
    MIN = "minimum"
    MAX = "maximum"


class Communicator(ABC):
    """A group of ranks that call the same operations in the same order."""

    rank: int
    size: int
    host: str
    patient: bool = False
    """Whether waiting gives the core away: right on a thread beside one that computes; an MPI library by itself waits by spinning."""
    threaded: bool = False
    """Whether a thread other than the main one may call this communicator while the main one does not."""
    concurrent: bool = False
    """Whether it may do so even while the main one does."""
    shortage: str = ""
    """Why the last `shared_blocks` gave None, with the remedy; empty where memory cannot be shared at all."""

    @abstractmethod
    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another; None leaves that half out.

        Args:
            x: contiguous array to send; unchanged.
            to: rank that receives x.
            into: contiguous array to overwrite, of the size and dtype that `source` sends.
            source: rank that sends.
        """

    @abstractmethod
    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color, ordered by (key, rank)."""

    @abstractmethod
    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks of this node, the ranks with this place in each node)."""

    def mail(self) -> Mail:
        """Return a new letter box of this rank; every rank calls it, and closes it in the end.

        Raises:
            CommError: if this communicator carries no letters.
        """
        raise CommError(f"{type(self).__name__} carries no letters; asynchronous training needs one over MPI, or a simulated one")

    def all_reduce(self, x: Array, op: Op = Op.SUM) -> None:
        """Overwrite x, on every rank, with the element-wise op of all ranks' x; the same bits on all, since IEEE addition commutes.

        16-bit floats are summed in float32 and rounded once.
        """
        flat = flatten(x)
        if is_short(x.dtype):
            reduce_wide(self, flat, op)
            return
        scratch = namespace(x).empty_like(flat)
        combine = getattr(namespace(x), op.value)
        for t in recursive_doubling(self.rank, self.size, flat.size):
            self.exchange(flat[t.send], t.to, scratch[t.receive], t.source)
            if t.source is not None and t.add:
                combine(flat[t.receive], scratch[t.receive], out=flat[t.receive])
            elif t.source is not None:
                flat[t.receive] = scratch[t.receive]

    def all_gather(self, x: Array, out: Array) -> None:
        """Overwrite out, of shape (size, *x.shape), with every rank's x in rank order."""
        rows = gather_rows(x, out, self.size)
        rows[self.rank] = x.reshape(-1)
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        for k in range(self.size - 1):
            self.exchange(rows[(self.rank - k) % self.size], after, rows[(self.rank - k - 1) % self.size], before)

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Overwrite x, on every rank, with the root's x, down a binomial tree."""
        flat, place = flatten(x), (self.rank - root) % self.size
        distance = 1
        while distance < self.size:
            if place < distance and place + distance < self.size:
                self.exchange(flat, (self.rank + distance) % self.size, None, None)
            elif distance <= place < 2 * distance:
                self.exchange(None, None, flat, (self.rank - distance) % self.size)
            distance *= 2

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self.all_reduce(np.zeros(1, np.int32))

    def meets_within(self, seconds: float) -> bool:
        """Return whether every rank calls this within so many seconds of this one; used last, and again by a rank that still waits."""
        self.barrier()
        return True

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return one block of memory a rank, each of which all ranks of this node read and write; None where there is none.

        Args:
            nbytes: of this rank's own block, a multiple of 64; it starts on a 64-byte boundary and is zeroed.

        Returns:
            uint8 arrays in rank order; they live until `release`. Only for a communicator inside one node.
        """
        return None

    def fence(self) -> None:
        """Return when every rank has called it and all see what was written to shared blocks before."""
        self.barrier()

    def release(self) -> None:
        """Give back the shared blocks and the communicators made from this one; every rank calls it, and uses none of them afterwards."""
        self.barrier()

    def free(self) -> None:
        """Give back this communicator too, which `split` or `by_node` made; every rank of it calls it."""
        self.release()

    def all_gather_bytes(self, text: bytes) -> list[bytes]:
        """Return every rank's bytes, in rank order, on every rank."""
        lengths = np.zeros((self.size, 1), np.int64)
        self.all_gather(np.array([len(text)], np.int64), lengths)
        longest = int(lengths.max())
        padded = np.frombuffer(text.ljust(longest, b"\0"), np.uint8).copy()
        rows = np.zeros((self.size, longest), np.uint8)
        if longest:
            self.all_gather(padded, rows)
        return [row[:length].tobytes() for row, length in zip(rows, lengths[:, 0], strict=True)]

    def broadcast_bytes(self, text: bytes, root: int = 0) -> bytes:
        """Return the root's bytes on every rank; what the other ranks pass is ignored."""
        length = np.array([len(text)], np.int64)
        self.broadcast(length, root)
        buffer = np.zeros(int(length[0]), np.uint8)
        if self.rank == root:
            buffer[:] = np.frombuffer(text, np.uint8)
        if buffer.size:
            self.broadcast(buffer, root)
        return buffer.tobytes()

    def agree(self, value: object, what: str) -> None:
        """Return if all ranks hold an equal value; else raise on every rank, naming who holds which.

        Args:
            value: anything whose repr is equal exactly where the values are.
            what: the name of the value in the message, such as "parameter layout".

        Raises:
            DisagreementError: on every rank, with each value and its ranks.
        """
        text = repr(value).encode()
        digests = np.zeros((self.size, 32), np.uint8)
        self.all_gather(np.frombuffer(hashlib.sha256(text).digest(), np.uint8).copy(), digests)
        if (digests == digests[0]).all():
            return
        holders: dict[str, list[int]] = {}
        for rank, other in enumerate(self.all_gather_bytes(_shortened(text))):
            holders.setdefault(other.decode(errors="replace"), []).append(rank)
        sides = ", ".join(f"{shown} on {name_ranks(ranks)}" for shown, ranks in holders.items())
        raise everywhere(DisagreementError(f"ranks disagree on {what}: {sides}; start every rank with the same"))

    def agree_all(self, values: Mapping[str, object], what: str) -> None:
        """Return if all ranks hold equal values under equal names; else raise on every rank, naming the first that differs.

        Raises:
            DisagreementError: as `agree` raises it, for "`what` `name`".
        """
        try:
            self.agree(dict(values), what)
        except DisagreementError:
            self.agree(sorted(values), f"the names of {what} values")
            for name in sorted(values):
                self.agree(values[name], f"{what} {name}")
            raise

    def fail_together(self, error: Exception | None) -> None:
        """Raise on every rank if any rank passes an error; the message names the ranks unless all say the same."""
        failed = np.array([error is not None], np.int32)
        self.all_reduce(failed, Op.MAX)
        if not failed[0]:
            return
        mine = b"" if error is None else f"{type(error).__name__}\n{error}".encode()
        said: dict[str, list[int]] = {}
        for rank, text in enumerate(self.all_gather_bytes(mine)):
            if text:
                said.setdefault(text.decode(errors="replace"), []).append(rank)
        raise everywhere(_joint_error(said, self.size)) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block without communication on every rank; an expected error on any rank is raised on all."""
        error: Exception | None = None
        try:
            yield
        except (HpcmlError, OSError, MemoryError) as caught:
            error = caught
        self.fail_together(error)

    def abort(self, code: int = 1) -> None:
        """End every process of the world at once with this exit code."""
        raise SystemExit(code)


def is_short(dtype: Any) -> bool:
    """Return whether a dtype is a 16-bit float, whose sums over many ranks lose most of their digits."""
    return str(dtype) in ("float16", "bfloat16")


def reduce_wide(comm: Communicator, x: Array, op: Op) -> None:
    """Overwrite an array of 16-bit floats with the op of all ranks' x, computed in float32 and rounded once; costs twice the bytes."""
    wide = x.astype(np.float32)
    comm.all_reduce(wide, op)
    x[...] = wide


def everywhere(error: HpcmlError) -> HpcmlError:
    """Return the error marked as raised by every rank at the same point."""
    error.everywhere = True
    return error


def flatten(x: Array) -> Array:
    """Return x as one axis over the same memory.

    Raises:
        CommError: if x is not C-contiguous, since a copy would not be overwritten.
    """
    if not x.flags.c_contiguous:
        raise CommError(f"expected a C-contiguous array, got shape {x.shape} with strides {x.strides}; pass numpy.ascontiguousarray(x)")
    return x.reshape(-1)


def gather_rows(x: Array, out: Array, size: int) -> Array:
    """Return out as (size, elements of x) over the same memory.

    Raises:
        CommError: unless out is a C-contiguous array of shape (size, *x.shape) and x's dtype.
    """
    shape = (size, *x.shape)
    if out.shape != shape or out.dtype != x.dtype:
        raise CommError(f"out has shape {out.shape} and dtype {out.dtype}, expected {shape} and {x.dtype}")
    return flatten(out).reshape(size, x.size)


def name_ranks(ranks: list[int]) -> str:
    """Return "rank 3", or "ranks 0-6, 9": the sorted ranks with runs drawn together."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"


def _shortened(text: bytes) -> bytes:
    """Return the text, or the start of a long one with its digest, so that texts that differ late still look different."""
    return text if len(text) <= 400 else text[:400] + f"... (sha256 {hashlib.sha256(text).hexdigest()[:12]})".encode()


def _joint_error(said: dict[str, list[int]], size: int) -> HpcmlError:
    lines = []
    for text, ranks in said.items():
        message = text.partition("\n")[2]
        lines.append(message if len(ranks) == size else f"{name_ranks(ranks)}: {message}")
    name = next(iter(said)).partition("\n")[0]
    kind = getattr(errors, name, HpcmlError)
    return kind("\n".join(lines[:4] + ([f"and {len(lines) - 4} more"] if len(lines) > 4 else [])))
