"""Memory that is made once and used every step."""

from __future__ import annotations

from typing import Any

from hpcml.arrays import Array, aligned, namespace


class Workspace:
    """Named buffers that grow to the largest number of rows asked for, then stay: the step allocates nothing."""

    def __init__(self) -> None:
        """Start empty."""
        self._buffers: dict[str, Array] = {}

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
