"""Copying shards to a disk of the node before they are read: each once a node, checked, and found again after a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpcml.data.index import Index, Shard
from hpcml.errors import ShardError

PIECE = 8 << 20
"""Bytes copied at a time: one good read of a parallel file system."""

Told = Callable[[int, int], None]
"""Called with (bytes done, bytes of this process's share) after each piece."""


def require_room(index: Index, folder: str | Path) -> None:
    """Raise ShardError unless the folder is there, can be written and has room for the copies that are missing.

    One process of a node calls this before all of them copy: later each would count what the others have just written.
    """
    root, need = staging_root(folder), 0
    if not root.is_dir():
        raise ShardError(f"{root}: data.stage is no folder on this node; make it, or give one that every node has, such as $TMPDIR")
    for shard in index.shards:
        if shard.sources:
            raise ShardError(f"{shard.path}: keeps its rows in other files, such as {shard.sources[0].path}; leave data.stage out")
        need += 0 if _is_there(shard, staged_path(index, folder, shard)) else shard.size
    if not need:
        return
    if not os.access(root, os.W_OK | os.X_OK):
        raise ShardError(f"{root}: data.stage cannot be written by this user; give another folder")
    found = os.statvfs(root)
    if need > found.f_bavail * found.f_frsize:
        room = f"{found.f_bavail * found.f_frsize / 1e6:,.0f} MB are free"
        raise ShardError(
            f"{root}: {room}, the copies of the shards need {need / 1e6:,.0f} MB; free some, or give data.stage another folder"
        )


def stage(index: Index, folder: str | Path, part: int = 0, parts: int = 1, told: Told = lambda done, total: None) -> None:
    """Copy this process's share of the shards into a folder of the node, each checked by its sha256.

    The sum is that of the bytes that were read, and where a manifest knows the shard, the manifest's.
    A copy appears under its name only when it is complete; one that is there already, of the same original, is kept.

    Args:
        index: of the originals.
        folder: on the node's own disk, and there; "~" and "$TMPDIR" are filled in.
        part: which share, 0 to parts - 1: shard i belongs to share i % parts.
        parts: processes of the node that share the work.
        told: called as the copy goes on.

    Raises:
        ShardError: for a full disk, a copy that differs, an original that changed or is not its manifest's.
    """
    mine = [shard for number, shard in enumerate(index.shards) if number % parts == part]
    total, done = sum(shard.size for shard in mine), 0
    for shard in mine:
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


def staging_root(folder: str | Path) -> Path:
    """Return the folder that data.stage names on this node.

    Raises:
        ShardError: for a variable that is not set.
    """
    text = os.path.expandvars(os.path.expanduser(str(folder)))
    if "$" in text:
        raise ShardError(f'data.stage is "{folder}", but the variable in it is not set on this node; set it, or give a folder')
    return Path(text)


def staged_path(index: Index, folder: str | Path, shard: Shard) -> Path:
    """Return where the copy of a shard lies: under its own name, in a folder that belongs to its original's folder."""
    original = Path(shard.path)
    digest = hashlib.sha256(str(original.parent).encode()).hexdigest()[:12]
    return staging_root(folder) / f"hpcml-{digest}" / original.name


def _copy(shard: Shard, place: Path) -> Iterator[int]:
    """Copy one file, yielding the bytes done after each piece; whatever ends it, nothing half-written stays."""
    partial, hashed = place.with_name(f".partial-{socket.gethostname()}-{os.getpid()}-{place.name}"), hashlib.sha256()
    try:
        place.parent.mkdir(exist_ok=True)
        _remove_left_over(place)
        yield from _write(shard, partial, hashed)
        if _sha256(partial) != hashed.hexdigest():
            raise ShardError(f"{place}: the copy differs from {shard.path}; the disk of this node cannot be trusted")
        if shard.sha256 and shard.sha256 != hashed.hexdigest():
            text = f"sha256 {hashed.hexdigest()[:12]}... is not the manifest's {shard.sha256[:12]}..."
            raise ShardError(f"{shard.path}: {text}; `hpcml data verify` says what differs")
        # The note comes last: one beside a copy that is not its own would pass off an old copy as the new original's.
        note = {**_identity(shard), "sha256": hashed.hexdigest(), "copied_ns": partial.stat().st_mtime_ns}
        os.replace(partial, place)
        _note(place).write_text(json.dumps(note))
    except ShardError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):
            _note(place).unlink(missing_ok=True)
        at = f"{shard.path}: cannot be copied to {place.parent}"
        raise ShardError(f"{at} ({error.strerror}); data.stage needs {shard.size:,} bytes free for it") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _write(shard: Shard, partial: Path, hashed: Any) -> Iterator[int]:
    """Copy the bytes of a file and hash them, yielding how many are done."""
    written = 0
    with open(shard.path, "rb") as source, partial.open("wb") as target:
        while piece := source.read(PIECE):
            hashed.update(piece)
            target.write(piece)
            written += len(piece)
            yield written
        target.flush()
        os.fsync(target.fileno())
        status = os.fstat(source.fileno())
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns) or written != shard.size:
        raise ShardError(f"{shard.path}: changed while it was copied; start again")


def _remove_left_over(place: Path) -> None:
    """Remove what processes of this node left half-written of a copy when they were killed."""
    before, after = f".partial-{socket.gethostname()}-", f"-{place.name}"
    for path in place.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}"):
        pid = path.name.removeprefix(before).removesuffix(after)
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    """Return the digest of a file, read from the disk and not from the system's memory of it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _identity(shard: Shard) -> dict[str, int]:
    """Return the size and time of an original, by which its copy is found again."""
    return {"size": shard.size, "mtime_ns": shard.mtime_ns}


def _is_there(shard: Shard, place: Path) -> bool:
    """Return whether a complete copy of just this original is there."""
    try:
        note, found = json.loads(_note(place).read_text()), place.stat()
        expected = {**_identity(shard), "sha256": note["sha256"], "copied_ns": found.st_mtime_ns}
        return bool(note == expected) and found.st_size == shard.size
    except (OSError, ValueError, KeyError):
        return False
