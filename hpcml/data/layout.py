"""How a shard's fields lie in the file: contiguous, or in chunks of whole rows under a codec."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.errors import ConfigError

CODECS = ("none", "gzip", "lzf", "lz4", "zstd", "blosc")
"""The last three need the package hdf5plugin, here and wherever the shards are read."""

BLOCK_ROWS = 32
"""Rows that travel together from a file by default; chunks are a multiple of it where rows are not large."""

CHUNK_BYTES = 1 << 20
"""What a chunk holds unless told otherwise: large enough for a disk, small enough for a core's cache."""

SHARD_BYTES = 256 << 20
"""What a shard of a large set holds unless told otherwise: few files to open, and one fits in memory while it is put in order."""

SMALL_SHARD_BYTES = 8 << 20
"""What a shard of a small set holds at least unless told otherwise."""

SHARDS = 16
"""Files into which a set between the two is cut, so that several ranks write and read it, each its own."""


def shard_bytes(total: int) -> int:
    """Return the bytes of a shard of a set with so many bytes, for any number of ranks: SHARDS files, none too small or too large."""
    return min(SHARD_BYTES, max(SMALL_SHARD_BYTES, -(-total // SHARDS)))


@dataclass(frozen=True, slots=True)
class Layout:
    """The wish for a new shard: rows a chunk (0: as fits), a codec of CODECS, its level (None: its own default), byte shuffle before it."""

    chunk: int = 0
    codec: str = "none"
    level: int | None = None
    shuffle: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be written.

        Raises:
            ConfigError: for a negative chunk, an unknown codec, or a level that gzip does not have.
        """
        if self.chunk < 0:
            raise ConfigError(f"chunk is {self.chunk} rows; give 1 or more, or 0 for a size that fits")
        if self.codec not in CODECS:
            near = difflib.get_close_matches(self.codec, CODECS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"unknown codec {self.codec!r}; {hint}choose one of {', '.join(CODECS)}")
        if self.codec == "gzip" and self.level is not None and not 0 <= self.level <= 9:
            raise ConfigError(f"gzip has levels 0 to 9, not {self.level}")

    @property
    def is_chunked(self) -> bool:
        """Whether fields lie in chunks at all."""
        return bool(self.chunk) or self.codec != "none" or self.shuffle

    def chunk_rows(self, rows: int, row_bytes: int) -> int:
        """Return the rows of a chunk of a field with this many rows; 0 where it lies in one piece."""
        if not self.is_chunked or not rows or not row_bytes:
            return 0
        return min(rows, self.chunk or default_chunk(row_bytes))

    def options(self, rows: int, shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
        """Return the keyword arguments of h5py's create_dataset for one field.

        Raises:
            ConfigError: if the codec needs hdf5plugin and it is not installed.
        """
        item = np.dtype(dtype).itemsize
        chunk = self.chunk_rows(rows, int(np.prod(shape, dtype=np.int64)) * item)
        if not chunk:
            return {}
        made: dict[str, Any] = {"chunks": (chunk, *shape)}
        if self.shuffle:
            made["shuffle"] = True
        if self.codec in ("gzip", "lzf"):
            made["compression"] = self.codec
            if self.codec == "gzip" and self.level is not None:
                made["compression_opts"] = self.level
        elif self.codec != "none":
            made.update(_plugin(self.codec, self.level))
        return made


def default_chunk(row_bytes: int) -> int:
    """Return the rows of a chunk of about CHUNK_BYTES: a multiple of BLOCK_ROWS where that many rows fit."""
    rows = max(1, CHUNK_BYTES // max(1, row_bytes))
    return rows // BLOCK_ROWS * BLOCK_ROWS or rows


def parse_layout(text: str, chunk: int = 0) -> Layout:
    """Return the layout that a text such as "none", "gzip:4", "lzf" or "shuffle+zstd:3" names.

    Raises:
        ConfigError: for a text of another form, and for whatever `Layout` refuses.
    """
    found = re.fullmatch(r"(shuffle\+)?([a-z0-9]+)(?::(\d+))?", text.strip().lower())
    if found is None or (found[3] and found[2] in ("none", "lzf")):
        raise ConfigError(f"codec {text!r}: expected a name, such as gzip, gzip:4 or shuffle+gzip; names are {', '.join(CODECS)}")
    return Layout(chunk, found[2], None if found[3] is None else int(found[3]), bool(found[1]))


def _plugin(codec: str, level: int | None) -> dict[str, Any]:
    """Return hdf5plugin's arguments for a codec."""
    try:
        import hdf5plugin
    except ImportError as error:
        raise ConfigError(f"codec {codec!r} needs the package hdf5plugin (pip install hdf5plugin); gzip and lzf need nothing") from error
    if codec == "zstd":
        return dict(hdf5plugin.Zstd(clevel=3 if level is None else level))
    if codec == "blosc":
        return dict(hdf5plugin.Blosc(clevel=5 if level is None else level))
    return dict(hdf5plugin.LZ4())
