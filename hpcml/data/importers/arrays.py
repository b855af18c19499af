"""Arrays as they are: NPY, NPZ, and IDX (the format of MNIST), gzipped or not. No value is changed; byte order becomes little-endian."""

from __future__ import annotations

import gzip
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hpcml.data.importers.options import Options
from hpcml.errors import DataError

IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The third byte of an IDX file."""

SKIM_BYTES = 1 << 20
Damage = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    SyntaxError,
    RuntimeError,
    zipfile.BadZipFile,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)
"""What numpy, zipfile, gzip and struct raise for bytes that are not theirs."""


class ArrayPart:
    """One NPY or IDX file, which becomes one field; or one NPZ, whose arrays become fields under their names."""

    def __init__(self, path: Path, field: str, kind: str, options: Options) -> None:
        self.path, self._field, self._kind, self._options = path, field, kind, options
        self._streams: dict[str, BinaryIO] = {}
        self._whole: tuple[str, np.ndarray] | None = None

    def scan(self) -> dict[str, Any]:
        """Return rows, and fields: name -> [row shape, dtype, where the values begin, whether they lie row by row]; every byte is read.

        Raises:
            DataError: for a file that is damaged, or holds something other than rows of numbers.
        """
        try:
            names = self._members()
            heads = {name: self._head(name) for name in names}
            for name, (shape, dtype, begin, _) in heads.items():
                self._skim(name, begin + math.prod(shape) * dtype.itemsize)
        except DataError:
            raise
        except Damage as error:
            raise DataError(f"{self.path}: is damaged, or no {self._kind.upper()} file ({error}); copy it again") from error
        finally:
            self.close()
        lengths = {name: shape[0] for name, (shape, _, _, _) in heads.items()}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{name!r} {n}" for name, n in lengths.items())
            raise DataError(f"{self.path}: its arrays have different numbers of rows ({text}); name those to take by --features")
        fields = {
            self._name(name): [list(shape[1:]), dtype.str, begin, by_row, name] for name, (shape, dtype, begin, by_row) in heads.items()
        }
        return {"rows": next(iter(lengths.values())), "fields": fields}

    def read(self, scan: dict[str, Any], settled: Any, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field.

        Raises:
            DataError: if they cannot be read.
        """
        found = {}
        for field, (shape, dtype, begin, by_row, member) in scan["fields"].items():
            try:
                values = self._rows(member, begin, tuple(shape), np.dtype(dtype), start, stop) if by_row else self._load(member)[start:stop]
            except Damage as error:
                raise DataError(f"{self.path}: rows {start}:{stop} of {field!r} cannot be read ({error}); copy it again") from error
            found[field] = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
        return found

    def close(self) -> None:
        """Close what is open."""
        for stream in self._streams.values():
            stream.close()
        self._streams, self._whole = {}, None

    def _name(self, member: str) -> str:
        return member if self._kind == "npz" else self._field

    def _members(self) -> list[str]:
        """Return the arrays to take."""
        if self._kind != "npz":
            return [""]
        with zipfile.ZipFile(self.path) as archive:
            bad = archive.testzip()
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        if bad is not None:
            raise DataError(f"{self.path}: array {bad.removesuffix('.npy')!r} is damaged, its checksum is wrong; copy it again")
        wanted = self._options.features or tuple(names)
        absent = next((name for name in wanted if name not in names), None)
        if absent is not None or not names:
            raise DataError(f"{self.path}: has no array {absent!r}; it has {', '.join(map(repr, names)) or 'none'}")
        return list(wanted)

    def _open(self, member: str) -> BinaryIO:
        """Return a stream of one array's bytes, kept open: gzip and zip seek forward by reading on."""
        if member not in self._streams:
            if self._kind == "npz":
                # The archive is closed with the member: zipfile counts who uses its file.
                with zipfile.ZipFile(self.path) as archive:
                    self._streams[member] = archive.open(f"{member}.npy")  # type: ignore[assignment]
            else:
                opener: Any = gzip.open if self.path.suffix == ".gz" else open
                self._streams[member] = opener(self.path, "rb")
        return self._streams[member]

    def _head(self, member: str) -> tuple[tuple[int, ...], np.dtype[Any], int, bool]:
        """Return (shape, dtype, offset of the first value, whether values lie row by row)."""
        stream = self._open(member)
        shape, by_row, dtype = _idx_head(stream) if self._kind == "idx" else _npy_head(stream)
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise DataError(
                f"{self.path}: {self._name(member)!r} is {dtype}; it must hold real numbers of up to 64 bits, write classes as 0, 1, 2"
            )
        if not shape or not math.prod(shape):
            raise DataError(f"{self.path}: {self._name(member)!r} has shape {shape}; expected rows on its first axis")
        return shape, dtype, stream.tell(), by_row or len(shape) == 1

    def _skim(self, member: str, expected: int) -> None:
        """Read to the end, so that damage shows now, and compare the length."""
        stream = self._open(member)
        stream.seek(0)
        size = 0
        while piece := stream.read(SKIM_BYTES):
            size += len(piece)
        if size != expected:
            raise DataError(f"{self.path}: has {size} bytes of {self._name(member)!r}, its head promises {expected}; copy it again")

    def _rows(self, member: str, begin: int, shape: tuple[int, ...], dtype: np.dtype[Any], start: int, stop: int) -> np.ndarray:
        stream, width = self._open(member), math.prod(shape) * dtype.itemsize
        stream.seek(begin + start * width)
        raw = stream.read((stop - start) * width)
        return np.frombuffer(raw, dtype).reshape(stop - start, *shape)

    def _load(self, member: str) -> np.ndarray:
        """Return a whole array that lies column by column."""
        if self._whole is None or self._whole[0] != member:
            stream = self._open(member)
            stream.seek(0)
            self._whole = (member, np.lib.format.read_array(stream, allow_pickle=False))
        return self._whole[1]


def _idx_head(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    zero, code, axes = struct.unpack(">HBB", stream.read(4))
    if zero or code not in IDX_DTYPES:
        raise ValueError("the first bytes are not those of IDX")
    return struct.unpack(f">{axes}I", stream.read(4 * axes)), True, np.dtype(IDX_DTYPES[code])


def _npy_head(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(stream)
    return tuple(shape), not by_column, dtype
