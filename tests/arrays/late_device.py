"""A numpy-backed stand-in for the part of CuPy that `arrays.feeds` uses, for machines without a GPU.

Work given to streams is done in an order of a die's choosing among those that streams and events allow, as late as somebody waits for
it. A missing wait therefore shows: a kernel reads garbage, or a copy reads memory that the host has filled with later rows.
"""

from __future__ import annotations

import ctypes
import random
import types
from contextlib import nullcontext

import numpy as np

GARBAGE = 0xA5


class Pointer:
    """What a device array's `data` offers to the feed."""

    def __init__(self, array):
        self.array = array

    def copy_from_host_async(self, address, nbytes, stream):
        flat = self.array.view(np.ndarray).reshape(-1).view(np.uint8)
        stream.add(lambda: flat.__setitem__(slice(None), np.frombuffer(ctypes.string_at(address, nbytes), np.uint8)))


class DeviceArray(np.ndarray):
    """An array that counts as one on the device."""

    @property
    def data(self):
        return Pointer(self)


class Event:
    """A mark in a stream: done when all that stood before its last record is."""

    def __init__(self, device):
        self.device, self.recorded, self.done = device, 0, 0

    def record(self, stream):
        self.recorded += 1
        mark = self.recorded
        stream.add(lambda: setattr(self, "done", max(self.done, mark)))

    def synchronize(self):
        mark = self.recorded
        self.device.run(lambda: self.done >= mark)


class Stream:
    """Work in order, each item with what it waits for."""

    def __init__(self, device):
        self.device, self.items = device, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def add(self, work, ready=lambda: True):
        self.items.append((ready, work))

    def wait_event(self, event):
        mark = event.recorded
        self.add(lambda: None, lambda: event.done >= mark)


class LateDevice:
    """One device: its streams, and `cupy`, the module that programs see."""

    def __init__(self, seed):
        self.die, self.streams = random.Random(seed), []
        self.haste = self.die.choice([0.03, 0.5, 0.97])  # of the kernels' stream beside the copies'
        self.compute = self.stream()
        cuda = types.SimpleNamespace(
            Device=lambda index: nullcontext(),
            Stream=lambda non_blocking: self.stream(),
            Event=lambda disable_timing: Event(self),
            get_current_stream=lambda: self.compute,
            alloc_pinned_memory=lambda nbytes: memoryview(bytearray(b"\x5a" * nbytes)),
        )
        self.cupy = types.SimpleNamespace(cuda=cuda, empty=self.empty)

    def stream(self):
        self.streams.append(Stream(self))
        return self.streams[-1]

    @staticmethod
    def empty(shape, dtype):
        return np.full(shape, GARBAGE, dtype).view(DeviceArray)

    def run(self, done):
        """Do work in a possible order until something is done."""
        while not done():
            able = [stream for stream in self.streams if stream.items and stream.items[0][0]()]
            assert able, "every stream waits for another"
            able[0 if self.die.random() < self.haste else -1].items.pop(0)[1]()

    def finish(self):
        """Do all that was given to the streams."""
        self.run(lambda: not any(stream.items for stream in self.streams))
