"""Memory that is made once and used every step."""

from __future__ import annotations

from collections.abc import Iterator
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

    def __init__(self) -> None:
        """Start empty."""
        self._buffers: dict[str, Array] = {}

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
