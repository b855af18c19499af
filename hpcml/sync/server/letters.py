"""What stands in a letter: eight numbers, then numbers of the model or nothing.

Letters: m numbers of a dense body; k entries of a sparse one, whose k positions (int64) come before their values.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from hpcml.comm.mail import Mail

HEAD = 8
"""int64 numbers before the body."""

HEAD_BYTES = 8 * HEAD

DENSE = -1
"""COUNT of a dense body."""


class Kind(IntEnum):
    """What a letter wants."""

    WRITE = 0
    """From a worker: take this, and answer."""
    ASK = 1
    """From a worker: answer."""
    VIEW = 2
    """To a worker: the parameters, or nothing where none were asked for."""
    COMING = 3
    """From a worker: a write follows; whoever reads it later would read what is known to be old."""
    LEFT = 4
    """From a worker: no more work in this epoch."""
    TICKET = 5
    """From a worker: which portion next?"""
    PORTION = 6
    """To a worker: this one; or none."""
    GRADIENT = 7
    """To the leader of a group: a member's gradient."""
    MODEL = 8
    """To a worker: the model of another."""
    IDLE = 9
    """To rank 0: this rank has no more work; letters it sent and took."""
    COUNT = 10
    """From rank 0: how many letters by now?"""
    END = 11
    """From rank 0: all work is done, and no letter on its way."""
    STOP = 12
    """To all: a worker met an error; end as soon as you can."""
    TAKEN = 13
    """To a worker: the model that it sent was taken."""
    CLAIM = 14
    """From a worker: its gradient of a clock is there; does it count?"""
    VERDICT = 15
    """To a worker: whether it does, and which clock is open."""
    HELD = 16
    """To a worker: others are too far behind for it to read."""
    LOOK = 17
    """From a worker that will help: the parameters, once every lane has so many ticks."""
    SIGHT = 18
    """To a worker that will help: the parameters."""
    HELP = 19
    """From a worker: take this as a tick of another's lane."""


CONTROL = (Kind.IDLE, Kind.COUNT, Kind.END, Kind.STOP)
"""Kinds that the count of letters leaves out, since they are what counts."""


class Field(IntEnum):
    """The numbers of a head."""

    KIND = 0
    WORKER = 1
    SHARD = 2
    CLOCK = 3
    COUNT = 4
    ANSWER = 5
    WEIGHT = 6
    EXTRA = 7


def head(letter: np.ndarray) -> np.ndarray:
    """Return the head (HEAD,) int64 of a letter, as a view."""
    return letter[:HEAD_BYTES].view(np.int64)


def weight(letter: np.ndarray) -> np.ndarray:
    """Return the letter's weight (1,) float64, as a view: it stands in the head as a float's bits."""
    return letter[8 * Field.WEIGHT : 8 * Field.WEIGHT + 8].view(np.float64)


def body(letter: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the numbers after the head, as a view: a dense body, or the values of a sparse one."""
    count = int(letter[8 * Field.COUNT : 8 * Field.COUNT + 8].view(np.int64)[0])
    return letter[HEAD_BYTES + 8 * max(count, 0) :].view(dtype)


def positions(letter: np.ndarray) -> np.ndarray | None:
    """Return the positions (k,) int64 of a sparse body, as a view; None for a dense one."""
    count = int(head(letter)[Field.COUNT])
    return None if count == DENSE else letter[HEAD_BYTES : HEAD_BYTES + 8 * count].view(np.int64)


def write_head(letter: np.ndarray, kind: Kind, worker: int, shard: int = 0, clock: int = 0, *, count: int = DENSE, extra: int = 0) -> None:
    """Overwrite the head; weight and answer become 0."""
    letter[:HEAD_BYTES].view(np.int64)[:] = (kind, worker, shard, clock, count, 0, 0, extra)


def note(mail: Mail, kind: Kind, worker: int, shard: int = 0, clock: int = 0, *, count: int = DENSE, extra: int = 0) -> np.ndarray:
    """Return a letter without a body."""
    letter = mail.buffer(HEAD_BYTES)
    write_head(letter, kind, worker, shard, clock, count=count, extra=extra)
    return letter


def dense(mail: Mail, numbers: int, dtype: np.dtype) -> np.ndarray:
    """Return a letter with room for this many numbers; head and body are still to be written, the body as dense."""
    return mail.buffer(HEAD_BYTES + numbers * dtype.itemsize)


def sparse(mail: Mail, where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a letter whose body is k positions and their values, one a position or a row of them; its head is still to be written.

    The head's COUNT must become k.
    """
    letter = mail.buffer(HEAD_BYTES + 8 * where.size + values.nbytes)
    letter[HEAD_BYTES : HEAD_BYTES + 8 * where.size].view(np.int64)[:] = where
    letter[HEAD_BYTES + 8 * where.size :].view(values.dtype)[:] = values
    return letter


def sparse_is_smaller(entries: int, numbers: int, dtype: np.dtype) -> bool:
    """Return whether k positions and values take fewer bytes than all numbers."""
    return entries * (8 + dtype.itemsize) < numbers * dtype.itemsize
