"""Pinned host memory beside a device: chunks that a copy engine fills and empties while the processor does other work.

CUDA copies to and from pinned memory alone at the bus's full speed and without the processor; a chunk is made once and used every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hpcml.arrays.device import Array, on_device


class PinnedChunks:
    """A few chunks of pinned memory, and a stream of their own on which bytes go between them and one device.

    The streams are settled here: copies start after everything that the caller's stream was given before `passage`, and what the caller's
    stream is given after it starts after the last copy. The host reads and writes a chunk only through `settled`.
    """

    def __init__(self, like: Array, count: int, nbytes: int) -> None:
        """Pin `count` chunks of `nbytes` beside the device of a cupy array."""
        import cupy

        self._cuda = cupy.cuda
        self._device = cupy.cuda.Device(like.device.id)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(count)]
            self._edge = cupy.cuda.Event(disable_timing=True)
            self._memory: list[Any] = [cupy.cuda.alloc_pinned_memory(nbytes) for _ in range(count)]
        self._chunks = [np.frombuffer(memory, np.uint8, nbytes) for memory in self._memory]

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Run a block of copies between what the caller's current stream was given before it and what it is given after it."""
        with self._device:
            caller = self._cuda.get_current_stream()
            self._edge.record(caller)
            self._stream.wait_event(self._edge)
            try:
                yield
            finally:
                self._edge.record(self._stream)
                caller.wait_event(self._edge)

    def fetch(self, chunk: int, source: Array) -> None:
        """Start to copy a contiguous device array of bytes to the start of a chunk; returns at once."""
        if source.size:
            source.data.copy_to_host_async(self._chunks[chunk].ctypes.data, source.nbytes, self._stream)
        self._copied[chunk].record(self._stream)

    def store(self, chunk: int, target: Array, start: int = 0) -> None:
        """Start to copy a chunk, from byte `start`, into a contiguous device array of bytes; returns at once."""
        if target.size:
            target.data.copy_from_host_async(self._chunks[chunk].ctypes.data + start, target.nbytes, self._stream)
        self._copied[chunk].record(self._stream)

    def settled(self, chunk: int) -> np.ndarray:
        """Wait for the last copy of a chunk and return its bytes, the host's until the chunk is fetched or stored again."""
        self._copied[chunk].synchronize()
        return self._chunks[chunk]


def settle(x: Array) -> None:
    """Wait until the device has done all that the caller's current stream was given for x, so that others may touch its memory."""
    import cupy

    with cupy.cuda.Device(x.device.id):
        cupy.cuda.get_current_stream().synchronize()


@contextmanager
def busy_stream(x: Array) -> Iterator[None]:
    """Run a block on a fresh stream with milliseconds of work still before it, to find out who does not wait; on the CPU, just run it."""
    if not on_device(x):
        yield
        return
    import cupy

    with cupy.cuda.Device(x.device.id), cupy.cuda.Stream(non_blocking=True) as stream:
        work = cupy.ones(1 << 24, cupy.float32)
        for _ in range(50):
            cupy.sin(work, out=work)
        yield
        stream.synchronize()
