"""Where the chunks of a data set lie in the file: found once by HDF5, carried to other ranks as text.

HDF5 finds chunks by walking a tree in the file, which costs many small reads; a thousand ranks would do so for every file.
Cost of the text: a few bytes a chunk, since one chunk mostly begins where the last one ends.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class ChunkTable:
    """Address, bytes and skipped filters of each chunk, in row-major order of the grid.

    Args:
        shape: of the data set.
        chunk: of a chunk.
        offsets: (chunks,) int64.
        sizes: (chunks,) int64.
        masks: (chunks,) uint32.
    """

    def __init__(self, shape: Sequence[int], chunk: Sequence[int], offsets: np.ndarray, sizes: np.ndarray, masks: np.ndarray) -> None:
        self.grid = tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        self.offsets, self.sizes, self.masks = offsets, sizes, masks

    @classmethod
    def of(cls, dataset: Any) -> ChunkTable:
        """Return the table of an open h5py data set.

        Raises:
            ValueError: if a chunk is not there, or lies outside the file.
        """
        chunk = dataset.chunks
        grid = tuple(-(-n // c) for n, c in zip(dataset.shape, chunk, strict=True))
        total = int(np.prod(grid, dtype=np.int64))
        offsets, sizes, masks = np.full(total, -1, np.int64), np.zeros(total, np.int64), np.zeros(total, np.uint32)

        def note(info: Any) -> None:
            at = int(np.ravel_multi_index([o // c for o, c in zip(info.chunk_offset, chunk, strict=True)], grid))
            offsets[at], sizes[at], masks[at] = info.byte_offset, info.size, info.filter_mask

        dataset.id.chunk_iter(note)
        end = Path(dataset.file.filename).stat().st_size
        if total and (offsets.min() < 0 or int((offsets + sizes).max()) > end):
            raise ValueError("a chunk is missing, or lies outside the file")
        return cls(dataset.shape, chunk, offsets, sizes, masks)

    def to_text(self) -> str:
        """Return the table as text for `from_text`."""
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate([[0], self.sizes[:-1]])
        columns = (gaps.astype("<i8"), np.diff(self.sizes, prepend=0).astype("<i8"), self.masks.astype("<u4"))
        return base64.b85encode(zlib.compress(b"".join(column.tobytes() for column in columns))).decode()

    @classmethod
    def from_text(cls, text: str, shape: Sequence[int], chunk: Sequence[int]) -> ChunkTable:
        """Return the table of a data set of this shape that `to_text` wrote."""
        raw = zlib.decompress(base64.b85decode(text))
        total = len(raw) // 20
        gaps, steps = np.frombuffer(raw[: 16 * total], "<i8").reshape(2, total)
        sizes = np.cumsum(steps, dtype=np.int64)
        offsets = np.cumsum(gaps + np.concatenate([[0], sizes[:-1]]), dtype=np.int64)
        return cls(shape, chunk, offsets, sizes, np.frombuffer(raw[16 * total :], "<u4").astype(np.uint32))

    def of_band(self, band: int) -> list[tuple[tuple[int, ...], int]]:
        """Return (place in the grid of a row, number) of each chunk of a band."""
        inside = self.grid[1:]
        size = int(np.prod(inside, dtype=np.int64))
        return [(tuple(map(int, np.unravel_index(i, inside))), band * size + i) for i in range(size)]


def table_text(dataset: Any) -> str:
    """Return the table of an open h5py data set as text, or "" where it is damaged: whoever reads it will say so, with its rows."""
    try:
        return ChunkTable.of(dataset).to_text()
    except (OSError, RuntimeError, ValueError):
        return ""
