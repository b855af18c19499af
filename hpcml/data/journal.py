"""The state of an unfinished piece of work: which files are finished, so that a killed tool goes on where it was.

Files are made in a hidden folder inside the goal and moved out together when the last one is finished, the manifest last:
a glob over the goal finds all shards or none, except in the moment of moving. A file counts as finished when its record says
so and its sha256 is still the recorded one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcml.data.manifest import NAME, file_sha256, load_manifest, write_json
from hpcml.errors import DataError

HIDDEN = ".hpcml-unfinished"
"""The hidden folder's name."""


class Journal:
    """The work folder of one tool in one goal folder.

    Args:
        goal: where the shards shall stand.
        order: plain data that says everything the shards depend on; work begun under another order is not gone on with.
    """

    def __init__(self, goal: Path, order: Mapping[str, Any]) -> None:
        self.goal, self.folder = goal, goal / HIDDEN
        self._order, self._made = dict(order), False
        self.key = hashlib.sha256(json.dumps(self._order, sort_keys=True).encode()).hexdigest()

    def begin(self, names: Sequence[str]) -> bool:
        """Make the work folder, or find the one of the same work; return whether the work was finished before.

        Call it on one rank, before any other method is called anywhere.

        Raises:
            DataError: if the goal holds other files of these names, other work, or cannot be made.
        """
        manifest = self.goal / NAME
        if manifest.exists() and not self.folder.exists():
            if load_manifest(manifest).get("order") == self.key:
                return True
            raise DataError(f"{self.goal} already holds a finished set of shards; give another --out, or remove it")
        self._made = not self.goal.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.goal}: cannot be made ({error.strerror}); give a folder that can be written") from error
        begun = self.folder / "order.json"
        if begun.exists() and self._is_same(begun):
            return False
        taken = next((name for name in names if (self.goal / name).exists()), None)
        if taken is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DataError(f"{self.goal / taken} already exists; give another --out, or remove it")
        write_json(begun, {"key": self.key, "order": self._order})
        return False

    def abandon(self) -> None:
        """Remove the work folder where nothing in it is finished, and the goal where `begin` made it; on one rank, after an error."""
        if any(self.folder.glob("*.done")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._made:
            with contextlib.suppress(OSError):  # somebody else's files lie in it
                self.goal.rmdir()

    def path(self, name: str) -> Path:
        """Return where a file is while it is made."""
        return self.folder / name

    def record(self, name: str, plain: Any) -> None:
        """Note that a file is finished (or a result without a file is known), with plain data about it."""
        write_json(self.folder / f"{name}.done", plain)

    def finished(self, name: str) -> dict[str, Any] | None:
        """Return the record of a file that is finished and still has its sha256, or None."""
        record = self.recall(name)
        if record is None or "sha256" not in record:
            return record
        for path in (self.path(name), self.goal / name):
            if path.exists():
                return record if file_sha256(path) == record["sha256"] else None
        return None

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return the record of a name without looking at its file, or None."""
        try:
            return dict(json.loads((self.folder / f"{name}.done").read_bytes()))
        except (OSError, ValueError):
            return None

    def publish(self, names: Sequence[str], manifest: Mapping[str, Any]) -> None:
        """Move the finished files into the goal, write the manifest, and remove the work folder; on one rank, at the end.

        Raises:
            DataError: if they cannot be moved.
        """
        try:
            for name in names:
                if self.path(name).exists():
                    os.replace(self.path(name), self.goal / name)
        except OSError as error:
            raise DataError(
                f"{self.goal}: finished files cannot be moved into it ({error.strerror}); run the same command again"
            ) from error
        write_json(self.goal / NAME, {**manifest, "order": self.key})
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_same(self, begun: Path) -> bool:
        """Return whether the work folder is this work's; other work that has finished no file yet may be forgotten.

        Raises:
            DataError: for other work that has finished files.
        """
        try:
            if json.loads(begun.read_bytes())["key"] == self.key:
                return True
        except (OSError, ValueError, KeyError):
            pass  # written by nobody who could go on with it
        if any(self.folder.glob("*.h5.done")):
            text = f"{self.goal} holds unfinished work of another command, or of inputs that changed since"
            raise DataError(f"{text}; run that command again, give another --out, or remove {self.folder}")
        for path in self.folder.iterdir():
            path.unlink()
        return False


def require_room(goal: Path, nbytes: int) -> None:
    """Raise DataError where the disk of a folder clearly has less room than files of this many bytes take."""
    need = nbytes - sum(path.stat().st_size for path in goal.rglob("*") if path.is_file())
    free = shutil.disk_usage(goal).free
    if need > free:
        raise DataError(f"{goal}: needs about {need:,} bytes more, the disk has {free:,} free; make room, or give another --out")
