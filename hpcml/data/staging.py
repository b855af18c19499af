"""Copying shards to a disk of the node before they are read: each once a node, checked, and found again after a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from hpcml.data.index import Index, Shard
from hpcml.errors import ShardError

PIECE = 8 << 20
"""Bytes copied at a time: one good read of a parallel file system."""

Told = Callable[[int, int], None]
"""Called with (bytes done, bytes of this process's share) after each piece."""


def stage(index: Index, folder: str | Path, part: int = 0, parts: int = 1, told: Told = lambda done, total: None) -> None:
    """Copy this process's share of the shards into a folder of the node, each checked against the sha256 of what was read.

    A copy appears under its name only when it is complete; one that is there already, of the same original, is kept.

    Args:
        index: of the originals.
        folder: on the node's own disk; "~" and "$TMPDIR" are filled in.
        part: which share, 0 to parts - 1: shard i belongs to share i % parts.
        parts: processes of the node that share the work.
        told: called as the copy goes on.

    Raises:
        ShardError: for a full disk, a copy that differs, an original that changed, or rows that lie in other files.
    """
    mine = [shard for number, shard in enumerate(index.shards) if number % parts == part]
    total, done = sum(shard.size for shard in mine), 0
    for shard in mine:
        if shard.sources:
            raise ShardError(f"{shard.path}: keeps its rows in other files, such as {shard.sources[0].path}; leave data.stage out")
        place = staged_path(index, folder, shard)
        if not _is_there(shard, place):
            for written in _copy(shard, place):
                told(done + written, total)
        done += shard.size
        told(done, total)


def staged(index: Index, folder: str | Path) -> Index:
    """Return the index of the copies, once every process of the node has staged its share.

    Raises:
        ShardError: for a copy that is not there.
    """
    shards = []
    for shard in index.shards:
        place = staged_path(index, folder, shard)
        if not _is_there(shard, place):
            raise ShardError(f"{place}: the copy of {shard.path} is not there; stage again")
        shards.append(dataclasses.replace(shard, path=str(place), mtime_ns=place.stat().st_mtime_ns))
    return dataclasses.replace(index, shards=tuple(shards))


def staged_path(index: Index, folder: str | Path, shard: Shard) -> Path:
    """Return where the copy of a shard lies: under its own name, in a folder that belongs to its original's folder."""
    text = os.path.expandvars(os.path.expanduser(str(folder)))
    if "$" in text:
        raise ShardError(f'data.stage is "{folder}", but the variable in it is not set on this node; set it, or give a folder')
    original = Path(shard.path)
    digest = hashlib.sha256(str(original.parent).encode()).hexdigest()[:12]
    return Path(text) / f"hpcml-{digest}" / original.name


def _copy(shard: Shard, place: Path) -> list[int]:
    """Copy one file, and return the bytes done after each piece."""
    partial, hashed, written = place.with_name(f".partial-{place.name}"), hashlib.sha256(), [0]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(shard.path, "rb") as source, partial.open("wb") as target:
            while piece := source.read(PIECE):
                hashed.update(piece)
                target.write(piece)
                written.append(written[-1] + len(piece))
            target.flush()
            os.fsync(target.fileno())
            status = os.fstat(source.fileno())
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns) or written[-1] != shard.size:
            raise ShardError(f"{shard.path}: changed while it was copied; start again")
        if _sha256(partial) != hashed.hexdigest():
            raise ShardError(f"{place}: the copy differs from {shard.path}; the disk of this node cannot be trusted")
        _note(place).write_text(json.dumps({"size": shard.size, "mtime_ns": shard.mtime_ns, "sha256": hashed.hexdigest()}))
        os.replace(partial, place)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, ShardError):
            raise
        text = f"cannot be written ({error.strerror}); give data.stage a folder with {shard.size:,} bytes free"
        raise ShardError(f"{place}: {text}") from error
    return written


def _sha256(path: Path) -> str:
    """Return the digest of a file, read from the disk and not from the system's memory of it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _is_there(shard: Shard, place: Path) -> bool:
    """Return whether a complete copy of just this original is there."""
    try:
        note = json.loads(_note(place).read_text())
        return (note["size"], note["mtime_ns"]) == (shard.size, shard.mtime_ns) and place.stat().st_size == shard.size
    except (OSError, ValueError, KeyError):
        return False
