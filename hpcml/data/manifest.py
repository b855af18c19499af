"""The sidecar of a set of shards: one JSON file that says what each file holds, by which a later change is found.

It holds no times and no folders: a copy of the folder has the right manifest too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.allrows import read_rows
from hpcml.data.contents import Contents, read_contents
from hpcml.data.rowsum import RowSum, row_hashes
from hpcml.data.shards import open_file
from hpcml.data.variable import USUAL, Packing
from hpcml.errors import DataError, ShardError

NAME = "manifest.json"
"""The manifest's name, in the folder of its shards."""

VERSION = 1
BLOCK_BYTES = 1 << 19
"""A hash is kept for up to this many bytes of rows, so that a change can be named by its rows, and rows are checked as they are read.
Blocks of large sets that are read together are longer (`sizing.choose_block`) and hold whole ones of these."""

LEAST_BLOCKS = 16
"""A small file is cut into this many blocks at least, unless its chunks are larger."""


def describe_file(path: Path, along: str | None = None, common: Collection[str] = (), packing: Packing = USUAL) -> dict[str, Any]:
    """Return a file's entry in the manifest, read from the file as it lies on disk; the arguments are those of `read_contents`.

    Returns:
        bytes, sha256, rows, row_hash, fields (name -> hash of its rows), block (rows of a block),
        blocks (name -> hash of each block), others (name -> [entries of a block, hash of each], for arrays that are no row fields),
        schema (name -> [row shape, dtype]).

    Raises:
        ShardError: naming what cannot be read.
    """
    contents = read_contents(path, along, common, packing)
    total = RowSum()
    blocks: dict[str, list[str]] = {name: [] for name in contents.fields}
    with open_file(path) as file:
        for start, stop in row_blocks(contents):
            one = RowSum()
            one.add({name: read_rows(file, path, name, start, stop, kind) for name, (_, kind) in contents.fields.items()})
            for name, value in one.plain()["fields"].items():
                blocks[name].append(value)
            total.merge(one)
        others = {name: hash_other(file, path, name, contents) for name in contents.others}
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path), **total.plain(), **blocks_plain(contents, blocks, others)}


def blocks_plain(contents: Contents, blocks: Mapping[str, list[str]], others: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what an entry says of its blocks, and the schema, as plain data."""
    beside = {name: [other_block(contents, name), hashes] for name, hashes in others.items()}
    return {"block": block_of(contents), "blocks": blocks, "others": beside, "schema": contents.schema()}


def block_of(contents: Contents) -> int:
    """Return the rows of a block of a shard: a power of two times its chunk, so that blocks of rows read together hold whole ones."""
    return _block(contents.chunk, contents.row_bytes, contents.rows)


def other_block(contents: Contents, name: str) -> int:
    """Return the entries of a block of an array that is no row field."""
    return _block(*contents.others[name])


def _block(chunk: int, row_bytes: int, rows: int) -> int:
    block = max(1, chunk)
    while 2 * block * row_bytes <= BLOCK_BYTES and 2 * block * LEAST_BLOCKS <= rows:
        block *= 2
    return block


def hash_other(file: Any, path: Path, name: str, contents: Contents) -> list[str]:
    """Return the hash of each block of an array that is no row field, hashed as rows are.

    Raises:
        ShardError: naming what cannot be read.
    """
    step, entries = other_block(contents, name), contents.others[name][2]
    sums = []
    for start in range(0, entries, step):
        hashes = row_hashes(name, read_rows(file, path, name, start, min(start + step, entries)))
        sums.append(f"{int(hashes.sum(dtype=np.uint64)):016x}")
    return sums


def row_blocks(contents: Contents) -> list[tuple[int, int]]:
    """Cut a shard's rows into (start, stop) blocks."""
    step = block_of(contents)
    return [(start, min(start + step, contents.rows)) for start in range(0, contents.rows, step)]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises:
        ShardError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from error


def build_manifest(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the manifest of files, name -> entry as `describe_file` returns it, in the order given."""
    total = RowSum()
    for entry in files.values():
        total.merge(RowSum.from_plain(entry))
    schemas = [entry["schema"] for entry in files.values()]
    shared = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in (schemas[0] if schemas else {}).items()}
    bare = {name: {key: value for key, value in entry.items() if key != "schema"} for name, entry in files.items()}
    return {"hpcml_manifest": VERSION, **total.plain(), "schema": shared, "files": bare}


def load_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest.

    Raises:
        DataError: if it cannot be read, or is no manifest of this version.
    """
    found = find_manifest(path)
    if found is None:
        what = "is not a manifest of hpcml" if path.exists() else "cannot be read (no such file)"
        raise DataError(f"{path}: {what}; remove it, or write it again with `hpcml data verify --write`")
    return found


def find_manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest, or None where there is no such file, or one that other programs made for themselves.

    Raises:
        DataError: if it cannot be read, or is of another version.
    """
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); remove it, or write it again with `hpcml data verify --write`") from error
    if not isinstance(plain, dict) or "hpcml_manifest" not in plain:
        return None
    version = plain["hpcml_manifest"]
    if version != VERSION or not isinstance(plain.get("files"), dict):
        text = f"is a manifest of version {version!r}, expected {VERSION}, with a table of files"
        raise DataError(f"{path}: {text}; write it again with `hpcml data verify --write`")
    return plain


def write_json(path: Path, plain: Any) -> None:
    """Write plain data as JSON, whole or not at all.

    Raises:
        DataError: if the file cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(plain, file, indent=1, sort_keys=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror}); give a folder that can be written and has room") from error


def names_unique(paths: Sequence[Path]) -> None:
    """Raise DataError if two files of different folders have one name, which a manifest could not tell apart."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.name in seen:
            raise DataError(f"{seen[path.name]} and {path} have the same name; give them different names, or check each folder by itself")
        seen[path.name] = path
