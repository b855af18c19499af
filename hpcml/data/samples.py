"""Shards to measure with: images that compress about as real ones do, the same in every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcml.errors import ShardError

LAYOUTS = ("contiguous", "chunked", "gzip", "lz4")
"""How the rows may be stored; "lz4" needs hdf5plugin."""

SHAPE = (3, 32, 32)
"""Of a row: float32, 12 KiB."""


def write_samples(folder: Path, layout: str, shards: int, rows: int, chunk: int = 64) -> list[Path]:
    """Write shards of x (rows, 3, 32, 32) float32 and y (rows,) int64, unless they are there, and return their paths.

    The pictures have 8-bit levels in squares of 2 x 2, so that gzip takes them to about a seventh and LZ4 to a fifth.

    Args:
        folder: made if it is absent.
        layout: one of LAYOUTS; all but the first in chunks of `chunk` rows.
        shards: how many files.
        rows: in each.
        chunk: rows of a chunk.

    Raises:
        ShardError: for a file that cannot be written, or a codec that is not installed.
    """
    paths = [folder / f"{layout}-{rows}-{i}.h5" for i in range(shards)]
    folder.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(paths):
        if not path.exists():
            _write(path, _options(layout, chunk), np.random.default_rng([7, i]), rows)
    return paths


def _options(layout: str, chunk: int) -> dict[str, object]:
    if layout == "contiguous":
        return {}
    chunks: dict[str, object] = {"chunks": (chunk, *SHAPE)}
    if layout == "gzip":
        return {**chunks, "compression": "gzip", "compression_opts": 4, "shuffle": True}
    if layout != "lz4":
        return chunks
    try:
        import hdf5plugin
    except ImportError as error:
        raise ShardError("writing LZ4 needs hdf5plugin; pip install hdf5plugin, or measure another layout") from error
    return {**chunks, **hdf5plugin.LZ4()}


def _write(path: Path, options: dict[str, object], rng: np.random.Generator, rows: int) -> None:
    """Write one file under a hidden name, then give it its own."""
    import h5py

    partial = path.with_name(f".partial-{path.name}")
    try:
        with h5py.File(partial, "w", locking=False) as file:
            x = file.create_dataset("x", (rows, *SHAPE), "<f4", track_times=False, **options)
            for first in range(0, rows, 1024):
                n = min(1024, rows - first)
                small = rng.integers(0, 256, (n, 3, 16, 16)).astype(np.float32) / 256
                x[first : first + n] = small.repeat(2, axis=2).repeat(2, axis=3)
            file["y"] = rng.integers(0, 10, rows)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ShardError(f"{path}: cannot be written ({error}); give a folder with room") from error
