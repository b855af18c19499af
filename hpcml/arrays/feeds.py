"""From the host memory that rows are read into to the device that computes on them, beside the kernels of the step before.

A feed belongs to one consumer thread. For each step it is given host arrays (`start`), hands out their twins on the device (`arrive`),
and is told when the step has been given to the device (`release`). At most two steps are between `start` and `release`, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hpcml.arrays.device import Array, Device
from hpcml.arrays.memory import ALIGNMENT, aligned

Arrays = Sequence[np.ndarray | None]

SLOTS = 2
"""Steps whose rows are on the device at once: one that is used, one that arrives."""


class Feed(Protocol):
    """How the arrays of a step reach its device."""

    looks_ahead: bool
    """Whether a step may be started before the one before it is released."""

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return zeroed host memory on a cache line, from which copies are fast."""

    def start(self, arrays: Arrays) -> list[Array | None]:
        """Begin to move the arrays of the next step and return where they will be; None stays None."""

    def arrive(self) -> None:
        """Order what the caller's stream is given from now on behind the copies of the oldest step not yet arrived."""

    def release(self) -> None:
        """Be told that the oldest step is in the caller's stream to its end; its host memory is free again on return."""

    def drain(self) -> None:
        """Release every step that was started, whether it arrived or not."""


class HostFeed:
    """The feed of a step that computes in host memory: nothing moves."""

    looks_ahead = False

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return zeroed memory on a cache line."""
        return aligned(shape, dtype)

    def start(self, arrays: Arrays) -> list[Array | None]:
        """Return the arrays themselves."""
        return list(arrays)

    def arrive(self) -> None:
        """Do nothing: the rows are here."""

    def release(self) -> None:
        """Do nothing."""

    def drain(self) -> None:
        """Do nothing."""


class DeviceFeed:
    """Pinned host memory, memory for two steps on the device, and a stream of its own for the copies between them.

    A copy waits until the kernels of the step that had its memory before have ended; kernels wait for their copy. The host waits for
    neither, but for `release`: there the copy of a step whose kernels are already queued, which is over long ago.

    Args:
        index: of the GPU.
    """

    looks_ahead = True

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy, self._device = cupy, cupy.cuda.Device(index)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._copied, self._used = ([cupy.cuda.Event(disable_timing=True) for _ in range(SLOTS)] for _ in range(2))
            self._memory = [cupy.empty(0, np.uint8) for _ in range(SLOTS)]
        self._started = self._arrived = self._released = 0

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return zeroed pinned memory on a cache line."""
        shape, dtype = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._device:
            pinned = self._cupy.cuda.alloc_pinned_memory(nbytes + ALIGNMENT)
        raw = np.frombuffer(pinned, np.uint8, nbytes + ALIGNMENT)
        start = -raw.ctypes.data % ALIGNMENT
        made = raw[start : start + nbytes]
        made.fill(0)
        return made.view(dtype).reshape(shape)

    def start(self, arrays: Arrays) -> list[Array | None]:
        """Begin to copy the arrays of the next step and return their twins, which are right once they have arrived."""
        slot = self._started % SLOTS
        self._started += 1
        with self._device:
            twins = self._twins(slot, arrays)
            self._stream.wait_event(self._used[slot])
            for host, twin in zip(arrays, twins, strict=True):
                if host is not None and host.size:
                    twin.data.copy_from_host_async(host.ctypes.data, host.nbytes, self._stream)
            self._copied[slot].record(self._stream)
        return twins

    def arrive(self) -> None:
        """Order the caller's stream behind the copies of the oldest step not yet arrived."""
        with self._device:
            self._cupy.cuda.get_current_stream().wait_event(self._copied[self._arrived % SLOTS])
        self._arrived += 1

    def release(self) -> None:
        """Note that the kernels of the oldest step are all queued, and wait for its copy."""
        slot = self._released % SLOTS
        self._released += 1
        with self._device:
            self._used[slot].record(self._cupy.cuda.get_current_stream())
        self._copied[slot].synchronize()

    def drain(self) -> None:
        """Release every step that was started."""
        while self._released < self._started:
            self.release()
        self._arrived = self._started

    def _twins(self, slot: int, arrays: Arrays) -> list[Any]:
        """Return an array on the device for each host array, in the slot's memory, which grows to the largest step and stays."""
        sizes = [0 if host is None else -(-host.nbytes // ALIGNMENT) * ALIGNMENT for host in arrays]
        if self._memory[slot].size < sum(sizes):
            self._used[slot].synchronize()  # nobody uses the memory that goes
            with self._stream:
                self._memory[slot] = self._cupy.empty(sum(sizes), np.uint8)
        twins: list[Any] = []
        at = 0
        for host, size in zip(arrays, sizes, strict=True):
            twins.append(None if host is None else self._memory[slot][at : at + host.nbytes].view(host.dtype).reshape(host.shape))
            at += size
        return twins


def feed(device: Device) -> Feed:
    """Return a feed of its own for a consumer on this device."""
    return HostFeed() if device.index is None else DeviceFeed(device.index)
