"""Undoing HDF5's filters outside HDF5, so that several threads decode at once.

h5py holds one lock for the whole process while its pipeline decodes. The decoders here are C functions called without any
lock: zlib of the standard library, or the faster ISA-L where the package ``isal`` is installed; LZ4, Zstandard and Blosc out
of hdf5plugin's or numcodecs' shared libraries, decoding straight into the caller's memory. All of them are told how much room
there is, so damaged input is refused and never written past the end.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

DEFLATE, SHUFFLE, FLETCHER32, BLOSC, LZ4, ZSTD = 1, 2, 3, 32001, 32004, 32015

Filter = tuple[int, tuple[int, ...]]
"""A filter's HDF5 number and its client values."""
Decoder = Callable[[np.ndarray, np.ndarray], int]
"""Overwrites the second array (uint8) from the first and returns how many bytes it wrote; ValueError for damaged input."""

LIBRARIES = {
    LZ4: (("LZ4_decompress_safe",), "h5lz4", "lz4"),
    ZSTD: (("ZSTD_decompress",), "h5zstd", "zstd"),
    BLOSC: (("blosc_decompress_ctx", "blosc_cbuffer_validate"), "h5blosc", "blosc"),
}
"""Number -> (C functions, hdf5plugin's library, numcodecs' module) that has them."""


class Undo:
    """Decodes the chunks of one data set.

    Args:
        filters: as they were applied, each one that `missing` does not name.
        itemsize: bytes of an element, which the shuffle filter needs.
        nbytes: bytes of a decoded chunk.
    """

    def __init__(self, filters: Sequence[Filter], itemsize: int, nbytes: int) -> None:
        self.filters, self.itemsize, self.nbytes = tuple(filters), itemsize, nbytes

    def __call__(self, raw: np.ndarray, out: np.ndarray, mask: int, scratch: Callable[[str, int], np.ndarray]) -> None:
        """Overwrite `out` with the decoded chunk.

        Args:
            raw: (n,) uint8, the chunk as it lies in the file.
            out: (nbytes,) uint8.
            mask: bit i set where filter i was skipped when this chunk was written.
            scratch: (name, bytes) -> uint8 memory of this thread.

        Raises:
            ValueError: for a chunk that does not decode to `nbytes` bytes, or fails its checksum.
        """
        todo = [filter_ for i, filter_ in enumerate(self.filters) if not mask >> i & 1]
        for step, (code, _) in enumerate(reversed(todo)):
            last = step == len(todo) - 1
            if code == FLETCHER32:
                raw = verify_fletcher32(raw)
                continue
            # A checksum may still stand before the data, hence four bytes more than a chunk has.
            into = out if last else scratch(f"step {step % 2}", self.nbytes + 4)
            if code == SHUFFLE:
                into = into[: len(raw)]
                unshuffle(raw, into, self.itemsize)
                raw = into
            else:
                raw = into[: decoder(code)(raw, into)]
        if len(raw) != self.nbytes:
            raise ValueError(f"a chunk decoded to {len(raw)} bytes, expected {self.nbytes}")
        if raw.ctypes.data != out.ctypes.data:
            out[:] = raw


def missing(filters: Sequence[Filter]) -> str:
    """Return which of some filters cannot be undone here, in words; empty where all can."""
    return ", ".join(f"filter {code}" for code, _ in filters if code not in (SHUFFLE, FLETCHER32) and decoder(code) is None)


@cache
def decoder(code: int) -> Any:
    """Return the Decoder of a compression filter, or None where no library here has one."""
    if code == DEFLATE:
        return _inflate()
    if code not in LIBRARIES:
        return None
    found = _library(code)
    makers: dict[int, Callable[[Any], Decoder]] = {LZ4: _lz4, ZSTD: _zstd, BLOSC: _blosc}
    return None if found is None else makers[code](found)


def unshuffle(raw: np.ndarray, out: np.ndarray, itemsize: int) -> None:
    """Overwrite `out` with bytes gathered back into elements; a rest shorter than an element was never shuffled."""
    count = len(raw) // itemsize
    if itemsize == 1 or not count:
        out[:] = raw
        return
    whole = count * itemsize
    planes, items = raw[:whole].reshape(itemsize, count), out[:whole].reshape(count, itemsize)
    # Plane by plane: each is read in order, three times the speed of a transposed copy.
    for i in range(itemsize):
        items[:, i] = planes[i]
    out[whole:] = raw[whole:]


def verify_fletcher32(raw: np.ndarray) -> np.ndarray:
    """Return the data before the checksum in their last four bytes, a view.

    Raises:
        ValueError: if data and checksum do not belong together.
    """
    if len(raw) < 4:
        raise ValueError("a chunk is shorter than its checksum")
    data, stored = raw[:-4], int(raw[-4:].view("<u4")[0])
    if fletcher32(data) != stored:
        raise ValueError(f"a chunk's Fletcher-32 checksum is {fletcher32(data):08x}, the file says {stored:08x}")
    return data


def fletcher32(data: np.ndarray) -> int:
    """Return HDF5's Fletcher-32 of (n,) uint8: 16-bit big-endian words, an odd last byte as the high half of one."""
    even = len(data) // 2 * 2
    words = data[:even].view(">u2").astype(np.uint64)
    if len(data) > even:
        words = np.append(words, np.uint64(int(data[-1]) << 8))
    # 2^20 words a block: sums of 16-bit numbers times their distance stay below 2^64.
    low = high = 0
    for first in range(0, len(words), 1 << 20):
        block = words[first : first + (1 << 20)]
        distance = np.arange(len(block), 0, -1, dtype=np.uint64)
        high = (high + low * len(block) + int(block @ distance)) % 65535
        low = (low + int(block.sum())) % 65535
    # HDF5 folds carries instead of taking remainders: a sum that is not 0 stays 65535.
    if len(words) and words.any():
        low, high = low or 65535, high or 65535
    return high << 16 | low


def _inflate() -> Decoder:
    """Return a decoder of zlib streams."""
    package = importlib.import_module("isal.isal_zlib") if importlib.util.find_spec("isal") else zlib

    def decode(raw: np.ndarray, out: np.ndarray) -> int:
        try:
            text = package.decompress(raw, bufsize=len(out) + 1)
        except Exception as error:  # zlib.error, or isal's own
            raise ValueError(f"a chunk does not inflate ({error})") from error
        if len(text) > len(out):
            raise ValueError(f"a chunk inflates to {len(text)} bytes, expected {len(out)}")
        out[: len(text)] = np.frombuffer(text, np.uint8)
        return len(text)

    return decode


def _library(code: int) -> Any:
    """Return the first shared library that has what a filter needs, or None."""
    names, plugin, module = LIBRARIES[code]
    for path in [*_files("hdf5plugin", f"plugins/lib{plugin}.*"), *_files("numcodecs", f"{module}.*")]:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        if all(hasattr(library, name) for name in names):
            return library
    return None


def _files(package: str, pattern: str) -> list[Path]:
    """Return the shared libraries of an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    return [path for folder in folders for path in sorted(Path(folder).glob(pattern)) if path.suffix in (".so", ".dylib", ".dll")]


def _lz4(library: Any) -> Decoder:
    """HDF5's LZ4 format: total size (8 bytes), block size (4), then blocks behind their own sizes; all big-endian."""
    function = library.LZ4_decompress_safe
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int], ctypes.c_int

    def decode(raw: np.ndarray, out: np.ndarray) -> int:
        if len(raw) < 12:
            raise ValueError("an LZ4 chunk is shorter than its header")
        total, block = int(raw[:8].view(">u8")[0]), int(raw[8:12].view(">u4")[0])
        if total > len(out) or not block:
            raise ValueError(f"an LZ4 chunk says {total} bytes in blocks of {block}, expected at most {len(out)}")
        place, done = 12, 0
        while done < total:
            size, want = int.from_bytes(raw[place : place + 4].tobytes(), "big"), min(block, total - done)
            place += 4
            if place + size > len(raw):
                raise ValueError("an LZ4 chunk is cut short")
            if size == want:
                out[done : done + want] = raw[place : place + size]
            elif function(raw.ctypes.data + place, out.ctypes.data + done, size, want) != want:
                raise ValueError("an LZ4 chunk does not decode")
            place, done = place + size, done + want
        return total

    return decode


def _zstd(library: Any) -> Decoder:
    function = library.ZSTD_decompress
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_size_t

    def decode(raw: np.ndarray, out: np.ndarray) -> int:
        written = int(function(out.ctypes.data, len(out), raw.ctypes.data, len(raw)))
        if written > len(out):  # error codes are the largest numbers of the type
            raise ValueError("a Zstandard chunk does not decode")
        return written

    return decode


def _blosc(library: Any) -> Decoder:
    function, validate = library.blosc_decompress_ctx, library.blosc_cbuffer_validate
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    validate.argtypes, validate.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)], ctypes.c_int

    def decode(raw: np.ndarray, out: np.ndarray) -> int:
        told = ctypes.c_size_t()
        # Blosc trusts the sizes in the header when it decodes: they are compared with the real ones first.
        if validate(raw.ctypes.data, len(raw), ctypes.byref(told)) < 0 or told.value > len(out):
            raise ValueError("a Blosc chunk says sizes that it does not have")
        written = int(function(raw.ctypes.data, out.ctypes.data, len(out), 1))
        if written != told.value:
            raise ValueError("a Blosc chunk does not decode")
        return written

    return decode
