"""Memory that is made once and used every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hpcml.arrays import Array, aligned, namespace

PIECE = 1 << 15
"""Elements of a piece on the CPU: what several passes read and write of it stays in a core's second-level cache."""


def pieces(like: Array, rows: int, width: int = 1) -> Iterator[slice]:
    """Cut `rows` rows of `width` elements into runs of about PIECE elements on the CPU; on a device, one run."""
    step = max(1, PIECE // max(1, width)) if namespace(like) is np else max(rows, 1)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


class Workspace:
    """Named buffers that grow to the largest number of rows asked for, then stay: the step allocates nothing."""

    def __init__(self, *, late: bool = False) -> None:
        """Start empty; with `late`, a loss that works here may answer a wrong target by a loss that is no number, unread by the host."""
        self._buffers: dict[str, Array] = {}
        self.late = late

    def __iter__(self) -> Iterator[Array]:
        """Iterate over the buffers that are held."""
        return iter(self._buffers.values())

    def take(self, name: str, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
        """Return a C-contiguous buffer of this shape on the device of `like`; its contents are whatever was there.

        Args:
            name: which buffer; the same name gives the same memory.
            shape: first axis rows, which may vary from call to call.
            like: an array that says the device and, unless given, the dtype.
            dtype: of the buffer.
        """
        held = self._buffers.get(name)
        kind = like.dtype if dtype is None else dtype
        if held is None or len(held) < shape[0] or held.shape[1:] != shape[1:] or held.dtype != kind:
            xp = namespace(like)
            held = aligned(shape, kind) if xp.__name__ == "numpy" else xp.zeros(shape, kind)
            self._buffers[name] = held
        return held[: shape[0]]


class Scratch:
    """Memory that all layers of a model use in turn: what one leaves there is gone when the next one runs.

    A named buffer lasts until the layer that took it returns; a slope, which lies in one of two, until the backward of the layer that
    it is given to returns. Each grows to the largest size asked for, then stays.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._buffers: dict[str, Array] = {}
        self._depth = 0

    def __iter__(self) -> Iterator[Array]:
        """Iterate over the buffers that are held, as bytes."""
        return iter(self._buffers.values())

    def take(self, name: str, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
        """Return a C-contiguous buffer on the device of `like` and, unless given, in its dtype; the same name gives the same memory."""
        xp, held, kind = namespace(like), self._buffers.get(name), np.dtype(like.dtype if dtype is None else dtype)
        nbytes = math.prod(shape) * kind.itemsize
        if held is None or held.size < nbytes or namespace(held) is not xp:
            held = self._buffers[name] = aligned(nbytes, np.uint8) if xp is np else xp.zeros(nbytes, np.uint8)
        return held[:nbytes].view(kind).reshape(shape)

    def whole(self, name: str, x: Array) -> Array:
        """Return x if it is C-contiguous, as it is or with its last two axes swapped, else a copy: for views of heads and the like."""
        if x.flags.c_contiguous or x.swapaxes(-1, -2).flags.c_contiguous:
            return x
        held = self.take(name, x.shape, x)
        held[...] = x
        return held

    def slope(self, shape: tuple[int, ...], slope: Array) -> Array:
        """Return memory for the slope of a layer's input: of two buffers one in which the slope of its output does not lie."""
        first = self._buffers.get("slope 0")
        taken = first is not None and namespace(first) is namespace(slope) and bool(namespace(slope).may_share_memory(first, slope))
        return self.take("slope 1" if taken else "slope 0", shape, slope)

    @contextmanager
    def copy(self, x: Array) -> Iterator[Array]:
        """Hold a copy of x that other layers may run beside, and which may be changed; copies may be nested."""
        self._depth += 1
        try:
            held = self.take(f"copy {self._depth}", x.shape, x)
            held[...] = x
            yield held
        finally:
            self._depth -= 1
