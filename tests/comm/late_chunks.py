"""A numpy-backed stand-in for `arrays.pinned.PinnedChunks`, for machines without a GPU.

"Device" arrays are numpy arrays. Copies happen in the order of the stream, but as late as the real ones may: only when the host settles a
chunk or the caller's stream takes over. What a fetch reads too early or a missing wait leaves behind is garbage, so it is seen.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager

import numpy as np

GARBAGE = 0xA5


class LateChunks:
    """Chunks whose copies happen as late as they may; `early` lets them happen at once, the other extreme."""

    early = False

    def __init__(self, like, count, nbytes):
        self.chunks = [np.full(nbytes, GARBAGE, np.uint8) for _ in range(count)]
        self.stream = deque()
        self.inside = False

    @contextmanager
    def passage(self):
        assert not self.inside
        self.inside = True
        yield
        self.inside = False
        while self.stream:
            self.stream.popleft()[1]()

    def fetch(self, chunk, source):
        assert self.inside
        assert source.dtype == np.uint8
        assert source.flags.c_contiguous
        assert source.size <= self.chunks[chunk].size
        self.queue(chunk, lambda: np.copyto(self.chunks[chunk][: source.size], source))

    def store(self, chunk, target, start=0):
        assert self.inside
        assert target.dtype == np.uint8
        assert start + target.size <= self.chunks[chunk].size
        self.queue(chunk, lambda: np.copyto(target, self.chunks[chunk][start : start + target.size]))

    def queue(self, chunk, copy):
        self.stream.append((chunk, copy))
        if self.early:
            self.stream.pop()[1]()

    def settled(self, chunk):
        while any(waiting == chunk for waiting, _ in self.stream):
            self.stream.popleft()[1]()
        return self.chunks[chunk]


class EarlyChunks(LateChunks):
    """Chunks whose copies happen at once."""

    early = True
