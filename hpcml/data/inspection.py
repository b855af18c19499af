"""What an HDF5 file looks like to a reader: how each data set lies in it, how fast it is, and what to do about it.

Any file will do, whether or not it follows the layout in `data/shards.py`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data import storage
from hpcml.data.contents import dtype_name
from hpcml.data.dataset import open_shards
from hpcml.data.shards import DTYPES, dtype_of, open_file
from hpcml.data.sizing import READ_BYTES
from hpcml.data.variable import Packing, in_words, variable_groups
from hpcml.data.walking import walk
from hpcml.errors import ShardError

FILTERS = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scale-offset",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
"""HDF5's numbers of filters that are met in practice."""

SAMPLE_BYTES = 32 << 20
SAMPLE_SECONDS = 0.5
"""The short read that is measured ends at whichever comes first."""

SMALL_CHUNK = 16 << 10
LARGE_CHUNK = 8 << 20
SMALL_FILE = 1 << 20
MANY_FILES = 64


@dataclass(frozen=True, slots=True)
class Looks:
    """How one data set lies in its file.

    Args:
        name: its path in the file.
        shape: with the rows first; () for a scalar.
        dtype: numpy's name, "text", or HDF5's.
        order: "little", "big" or "".
        layout: "contiguous", "chunked", "compact", "virtual", "external" or "empty".
        chunk: its shape, or ().
        filters: their names in the order of writing.
        lacking: filters that are not installed here.
        nbytes: of the values.
        stored: bytes in the file.
        road: how hpcml reads its rows, in words.
        doubt: why its rows are refused as long as the config does not say more, or "".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    order: str
    layout: str
    chunk: tuple[int, ...]
    filters: tuple[str, ...]
    lacking: tuple[str, ...]
    nbytes: int
    stored: int
    road: str
    doubt: str = ""

    @property
    def rows(self) -> int:
        """Entries of the first axis."""
        return self.shape[0] if self.shape else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.nbytes // self.rows if self.rows else 0

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk, decoded."""
        return math.prod(self.chunk) * (self.nbytes // max(1, math.prod(self.shape))) if self.chunk else 0

    @property
    def is_usable(self) -> bool:
        """Whether it can be x or y of a run."""
        return self.dtype in DTYPES and bool(self.rows) and self.nbytes > 0 and not self.road.startswith("none")


def look_into(path: Path) -> list[Looks]:
    """Return how every data set of a file lies in it, in the order of their names.

    Raises:
        ShardError: for a file that cannot be read.
    """
    with open_file(path) as file:
        try:
            return [_look(path, name, item) for name, item in walk(file).datasets.items()]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ShardError(f"{path}: its metadata is damaged; write or copy the file again ({error})") from error


def look_for_variable(path: Path, packing: Packing) -> list[str]:
    """Return a sentence for each group of rows of variable length: what it holds, and by which keys it becomes features.

    Raises:
        ShardError: for a file that cannot be opened.
    """
    texts = []
    with open_file(path) as file:
        for name, names in variable_groups(walk(file), packing).items():
            try:
                texts.append(f"{name}: {in_words(path, file, name, names)}")
            except ShardError as error:
                texts.append(f"{name}: none of its rows can be used: {str(error).removeprefix(f'{path}: ')}")
    return texts


def _look(path: Path, name: str, item: Any) -> Looks:
    import h5py

    plist = item.id.get_create_plist()
    codes = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    names = tuple(FILTERS.get(code, f"filter {code}") for code, _, _, _ in codes)
    lacking = tuple(FILTERS.get(code, f"filter {code}") for code, _, _, _ in codes if not storage.has_filter(code))
    layouts = {h5py.h5d.COMPACT: "compact", h5py.h5d.CONTIGUOUS: "contiguous", h5py.h5d.CHUNKED: "chunked", h5py.h5d.VIRTUAL: "virtual"}
    layout = "empty" if item.shape is None else "external" if item.external else layouts.get(plist.get_layout(), "unknown")
    shape, itemsize = tuple(map(int, item.shape or ())), item.id.get_type().get_size()
    size = 0 if item.shape is None else int(item.size) * itemsize
    chunk = tuple(map(int, item.chunks or ()))
    stored = int(item.id.get_storage_size())
    try:
        dtype = dtype_of(path, item)
        kind, order = dtype_name(dtype), {"<": "little", ">": "big"}.get(dtype.str[0], "")
    except ShardError:
        kind, order = "unknown", ""
    road = _road(path, item, lacking, kind)
    doubt = "" if road.startswith("none") else _doubt(path, item)
    return Looks(name, shape, kind, order, layout, chunk, names, lacking, size, stored, road, doubt)


def _doubt(path: Path, item: Any) -> str:
    """Return why rows that can be read are refused until data.cf says how their attributes are meant, or ""."""
    try:
        storage.look(path, item)
    except ShardError as error:
        return str(error).partition(f"field {item.name.lstrip('/')!r}")[2].lstrip(": ")
    return ""


def _road(path: Path, item: Any, lacking: Sequence[str], dtype: str) -> str:
    """Return by which road the loader reads these rows, in words, or why it does not."""
    if lacking:
        return f"none: {', '.join(lacking)} is not installed (pip install hdf5plugin)"
    if dtype not in DTYPES or not item.shape or not item.shape[0]:
        return "none: not rows of numbers"
    try:
        stored = storage.look(path, item, cf=False)
    except ShardError as error:
        return f"none: {str(error).removeprefix(f'{path}: ')}"
    words = {storage.CONTIGUOUS: "positioned reads", storage.CHUNKED: "raw chunks" + (", decoded by threads" if stored.filters else "")}
    return words.get(stored.road, f"HDF5's own pipeline: {stored.why}")


@dataclass(frozen=True, slots=True)
class Speed:
    """A short read in sequence: bytes read, and MB/s (10**6 bytes) with the system's cache asked to forget them first, and again."""

    nbytes: int
    cold: float
    warm: float


def measure(path: Path, name: str) -> Speed:
    """Return how fast the first rows of a data set come, one read after the other on the road that training takes.

    Raises:
        ShardError: naming the data set, if it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    (nbytes, cold), (_, warm) = _read_some(path, name), _read_some(path, name)
    return Speed(nbytes, nbytes / cold / 1e6, nbytes / warm / 1e6)


def _read_some(path: Path, name: str) -> tuple[int, float]:
    """Return (bytes, seconds) of reading rows in sequence until enough was seen; the file is opened before."""
    with open_shards(path, name, None, cf=False) as data:
        field = data.x
        chunk = data.index.shards[0].stored(name).chunk_rows
        step = -(-max(1, READ_BYTES // max(1, field.nbytes)) // chunk) * chunk
        out = np.empty((min(step, data.rows), *field.shape), np.float64 if field.dtype == "float64" else np.float32)
        rows, begin = 0, time.perf_counter()
        while rows < data.rows and rows * field.nbytes < SAMPLE_BYTES and (not rows or time.perf_counter() - begin < SAMPLE_SECONDS):
            stop = min(rows + step, data.rows)
            data.read(rows, stop, out[: stop - rows])
            rows = stop
        return rows * field.nbytes, max(time.perf_counter() - begin, 1e-9)


def advise(found: Sequence[Looks], sizes: Sequence[int], block: int) -> list[str]:
    """Return what would make reading faster, in plain words; nothing where nothing would.

    Args:
        found: the data sets of one file.
        sizes: bytes of each file of the set.
        block: rows of a block.
    """
    texts = [f"{one.name}: {one.doubt}" for one in found if one.doubt]
    texts += [text for one in found if one.rows and one.nbytes > SMALL_CHUNK for text in _advise_one(one, block)]
    if len(sizes) > MANY_FILES and sum(sizes) / len(sizes) < SMALL_FILE:
        text = f"{len(sizes)} files of {sum(sizes) // len(sizes):,} bytes on average: opening them costs more than reading them"
        texts.append(f"{text}; put them together with `hpcml data reshard --files {max(1, sum(sizes) >> 28)}`")
    return texts


def _advise_one(one: Looks, block: int) -> list[str]:
    texts = []
    if one.lacking:
        texts.append(f"{one.name}: needs {', '.join(one.lacking)}; pip install hdf5plugin, or reshard it on a machine that has it")
    if one.stored == 0 and one.layout in ("contiguous", "chunked"):
        texts.append(f"{one.name}: was created but never written; its rows would read as fill values")
    if one.layout in ("virtual", "external"):
        texts.append(f"{one.name}: its rows lie in other files; reshard it to have them in one place")
    if one.chunk and one.chunk[1:] != one.shape[1:]:
        texts.append(f"{one.name}: chunks {one.chunk} cut rows apart, so that a row needs several; reshard with --chunk {block}")
    elif one.chunk and one.chunk_bytes < SMALL_CHUNK and one.nbytes > LARGE_CHUNK:
        rows = max(block, (1 << 20) // max(1, one.row_bytes) // block * block)
        texts.append(f"{one.name}: chunks of {one.chunk_bytes:,} bytes mean many small reads; reshard with --chunk {rows}")
    elif one.chunk and one.chunk[0] > block and one.chunk_bytes > LARGE_CHUNK:
        text = f"{one.name}: a chunk holds {one.chunk[0]} rows, {one.chunk_bytes:,} bytes"
        texts.append(f"{text}; set data.block = {one.chunk[0]}, or reshard with --chunk {block}")
    if one.dtype == "float64":
        texts.append(f"{one.name}: is float64, training uses float32 unless model.dtype says otherwise; half the bytes would do")
    return texts
