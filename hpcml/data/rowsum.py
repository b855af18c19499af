"""A checksum of rows that does not depend on their order: every row gets a 64-bit hash, and hashes are summed modulo 2**64.

A sum notices a row that is lost, doubled, or changed in one bit, and is the same for any order, any shards and any ranks.
It is no defence against somebody who wants a collision. A field is hashed with its name, in little-endian byte order.
Cost: about 5 passes over the bytes, in blocks that stay in the cache of a core.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

BLOCK_BYTES = 1 << 19
"""Bytes that are hashed at once: with their temporaries they fit a core's own cache."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class RowSum:
    """The number of rows seen, a sum of hashes for each field, and one over whole rows, so that x stays with its y."""

    def __init__(self) -> None:
        self.rows = 0
        self.joint = 0
        self.fields: dict[str, int] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a block of rows: every field as (n, *row shape), the same n and the same names each time."""
        joint: np.ndarray | None = None
        for name, values in arrays.items():
            hashes = row_hashes(name, values)
            self.fields[name] = (self.fields.get(name, 0) + int(hashes.sum(dtype=np.uint64))) & _MASK
            joint = hashes if joint is None else joint + hashes
        if joint is not None:
            self.rows += len(joint)
            self.joint = (self.joint + int(_mix(joint).sum(dtype=np.uint64))) & _MASK

    def merge(self, other: RowSum) -> None:
        """Add the rows that another sum has seen."""
        self.rows += other.rows
        self.joint = (self.joint + other.joint) & _MASK
        for name, value in other.fields.items():
            self.fields[name] = (self.fields.get(name, 0) + value) & _MASK

    def plain(self) -> dict[str, Any]:
        """Return the sum as plain data: rows, row_hash, and fields as name -> hash, each hash 16 hexadecimal digits."""
        return {"rows": self.rows, "row_hash": f"{self.joint:016x}", "fields": {k: f"{v:016x}" for k, v in sorted(self.fields.items())}}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RowSum:
        """Return the sum that `plain` wrote."""
        made = cls()
        made.rows, made.joint = int(plain["rows"]), int(plain["row_hash"], 16)
        made.fields = {name: int(value, 16) for name, value in plain["fields"].items()}
        return made


def fresh(name: str, nbytes: int) -> np.ndarray:
    """Return new memory, (nbytes,) uint8."""
    return np.empty(nbytes, np.uint8)


def row_hashes(name: str, values: np.ndarray, memory: Callable[[str, int], np.ndarray] = fresh) -> np.ndarray:
    """Return the hash of every row of a field, (n,) uint64.

    Args:
        name: the field's name, which is part of the hash.
        values: (n, *row shape) of any dtype without objects, or of variable-length strings (bytes or str objects).
        memory: gives (nbytes,) uint8 by name to work in; kept from call to call it makes a thread five times as fast.
    """
    salt = (zlib.crc32(name.encode()) * _GOLDEN) & _MASK
    if values.dtype.hasobject:
        hashes = np.array([_text_hash(row) for row in values.reshape(len(values), -1)], np.uint64)
        return _mix(hashes + np.uint64(salt))
    width = int(np.prod(values.shape[1:], dtype=np.int64)) * values.dtype.itemsize
    keys = _keys(-(-width // 8), salt)
    out = np.empty(len(values), np.uint64)
    step = max(1, min(len(values), BLOCK_BYTES // max(8, keys.nbytes)))
    mixed, shifted = (memory(one, step * keys.nbytes).view(np.uint64).reshape(step, len(keys)) for one in ("mixed", "shifted"))
    for first in range(0, len(values), step):
        last = min(first + step, len(values))
        _hash_block(values[first:last], width, keys, mixed[: last - first], shifted[: last - first], out[first:last])
    return _mix(out + np.uint64((salt + width) & _MASK))


@lru_cache(maxsize=64)
def _keys(words: int, salt: int) -> np.ndarray:
    """Return the key of each 8-byte word of a row."""
    return _mix(np.arange(1, words + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(salt))


def _hash_block(values: np.ndarray, width: int, keys: np.ndarray, mixed: np.ndarray, shifted: np.ndarray, out: np.ndarray) -> None:
    """Overwrite `out` (n,) with the keyed sum of each row's mixed 8-byte words; `mixed` and `shifted` (n, words) are worked in."""
    swapped = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    raw = swapped.reshape(len(values), -1).view(np.uint8) if width else np.zeros((len(values), 0), np.uint8)
    if width % 8 or raw.ctypes.data % 8:
        padded = np.zeros((len(values), len(keys) * 8), np.uint8)
        padded[:, :width] = raw
        raw = padded
    np.bitwise_xor(raw.view(np.uint64), keys, out=mixed)
    np.bitwise_xor(mixed, np.right_shift(mixed, np.uint64(32), out=shifted), out=mixed)
    np.multiply(mixed, np.uint64(0xD6E8FEB86659FD93), out=mixed)
    np.bitwise_xor(mixed, np.right_shift(mixed, np.uint64(29), out=shifted), out=mixed)
    mixed.sum(axis=1, dtype=np.uint64, out=out)


def _mix(z: np.ndarray) -> np.ndarray:
    """Return z with every bit of an entry depending on every bit of it (the finaliser of splitmix64)."""
    z = z ^ (z >> np.uint64(30))
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _text_hash(row: np.ndarray) -> int:
    """Return the hash of one row of variable-length strings."""
    digest = hashlib.blake2b(digest_size=8)
    for item in row:
        raw = item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(digest.digest(), "little")
