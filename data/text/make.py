"""Write the source of Python's standard library as shards of byte-level text: ``python data/text/make.py [FOLDER]``.

Nothing is downloaded: the source lies beside every Python. The same source gives the same files, byte for byte.
"""

from __future__ import annotations

import sys
import sysconfig
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hpcml.data.importers.assembly import text_decorator
from hpcml.data.manifest import build_manifest, describe_file, write_json
from hpcml.data.writer import RowWriter

CONTEXT = 512
"""Bytes a model sees; a row has one more, so that each of them has a byte to be predicted."""

ROWS = 8192
"""Rows of a shard, the last of each part shorter: 4 MiB."""

LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
"""Folders that are not everywhere, or are no prose of the language."""

PARTS = ("train",) * 8 + ("validation", "test")
"""Which part a file goes to: by crc32 of its path, modulo ten, so that a file is in the same part under every version of Python."""

SEPARATOR = b"\0"
"""Stands after each file; the source itself has none."""


def documents() -> dict[str, bytes]:
    """Return relative path -> bytes of every source file, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {path.relative_to(root): path for path in root.rglob("*.py") if is_wanted(path.relative_to(root))}
    return {path.as_posix(): found[path].read_bytes() for path in sorted(found)}


def is_wanted(path: Path) -> bool:
    """Return whether a file is of the library itself, and not written for one machine when Python was built there."""
    return not LEFT_OUT & set(path.parts) and not path.parts[0].startswith(("_sysconfigdata", "config-"))


def split(files: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Return part -> paths of its files."""
    parts: dict[str, list[str]] = {part: [] for part in dict.fromkeys(PARTS)}
    for path in files:
        parts[PARTS[zlib.crc32(path.encode()) % len(PARTS)]].append(path)
    return parts


def windows(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, CONTEXT + 1) uint8 tokens and (rows,) int32, the file in which each row begins.

    Files follow each other with a separator after each. A row begins where the one before has its last byte, so every byte
    but the first is predicted once; the last CONTEXT bytes or fewer, which fill no row, are left out.
    """
    text = np.frombuffer(b"".join(one + SEPARATOR for one in texts), np.uint8)
    rows = (len(text) - 1) // CONTEXT
    starts = np.arange(rows) * CONTEXT
    ends = np.cumsum([len(one) + 1 for one in texts])
    tokens = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)[starts] if rows else np.empty((0, CONTEXT + 1), np.uint8)
    return tokens, np.searchsorted(ends, starts, side="right").astype(np.int32)


def main(folder: Path) -> None:
    """Write train-00.h5, ..., validation-00.h5, ..., test-00.h5, ... and manifest.json into a folder."""
    files = documents()
    entries = {}
    for part, paths in split(files).items():
        tokens, document = windows([files[path] for path in paths])
        for i, start in enumerate(range(0, len(tokens), ROWS)):
            path = folder / f"{part}-{i:02d}.h5"
            block, places = tokens[start : start + ROWS], document[start : start + ROWS]
            fields = {"tokens": ((CONTEXT + 1,), np.uint8), "document": ((), np.int32)}
            with RowWriter(path, len(block), fields, decorate=text_decorator({"document@paths": paths})) as writer:
                writer.write(0, {"tokens": block, "document": places})
            entries[path.name] = describe_file(path, "tokens")
    write_json(folder / "manifest.json", build_manifest(entries))
    rows = {part: sum(entry["rows"] for name, entry in entries.items() if name.startswith(part)) for part in dict.fromkeys(PARTS)}
    print(f"{sum(rows.values()):,} rows of {CONTEXT + 1} bytes from {len(files):,} files in {len(entries)} shards: {rows}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
