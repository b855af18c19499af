"""A file open for positioned reads: any thread reads anywhere in it, outside HDF5."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

BUFFERS_AT_ONCE = min(1024, os.sysconf("SC_IOV_MAX")) if hasattr(os, "sysconf") else 16
"""Pieces of memory that one preadv fills."""


class OpenFile:
    """A file open for positioned reads; it is closed when the last thread that reads from it lets it go."""

    def __init__(self, path: str, on_hint: Callable[[], None] = lambda: None) -> None:
        self.path, self._on_hint = path, on_hint
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read(self, buffers: Sequence[Any], offset: int, nbytes: int) -> None:
        """Overwrite the buffers, `nbytes` in all, one after the other with the bytes from an offset on.

        Raises:
            ValueError: if the file ends before.
        """
        if len(buffers) <= BUFFERS_AT_ONCE:
            if os.preadv(self.fd, buffers, offset) != nbytes:
                self._read_slowly(buffers, offset)
            return
        total = 0
        for first in range(0, len(buffers), BUFFERS_AT_ONCE):
            part = buffers[first : first + BUFFERS_AT_ONCE]
            want = sum(buffer.nbytes for buffer in part)
            if os.preadv(self.fd, part, offset + total) != want:
                self._read_slowly(part, offset + total)
            total += want

    def announce(self, offset: int, nbytes: int) -> None:
        """Have the system begin to read bytes whose last one is not in memory: a disk is faster with many reads at once."""
        if not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(OSError, AttributeError):
            # Asking for one byte without waiting costs a tenth of a hint about bytes that are there.
            if os.preadv(self.fd, [bytearray(1)], offset + nbytes - 1, os.RWF_NOWAIT):
                return
        self._on_hint()
        with contextlib.suppress(OSError):  # a hint: the read itself tells what is wrong
            os.posix_fadvise(self.fd, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def _read_slowly(self, buffers: Sequence[Any], offset: int) -> None:
        """Fill the buffers in as many reads as the system wants: it may return fewer bytes than asked for."""
        for buffer in buffers:
            left = memoryview(buffer).cast("B")
            while left.nbytes:
                got = os.preadv(self.fd, [left], offset)
                if not got:
                    raise ValueError(f"the file ends at byte {offset}, before its rows do")
                left, offset = left[got:], offset + got
