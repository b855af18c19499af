"""Host memory whose start is aligned, so that one shape always runs the same kernel path."""

from __future__ import annotations

from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector register of today's CPUs."""


BLOCK = 1 << 16
"""Elements that a pass over flat vectors takes at a time on the CPU: two sources, sum, parameters and state of a block fit the
second-level cache of a core, and the cost of a numpy call (about 1 us) is small against its work."""


def aligned(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a C-contiguous zeroed array that starts on a 64-byte boundary."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)
