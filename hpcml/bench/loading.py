"""How fast rows reach the steps, beside the limit that the same machine sets in the same minute.

Rows a second depend on the machine and on who else uses it; ratios of one interleaved run do not.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hpcml.data import Loader, Sampler, ShardedDataset, open_shards
from hpcml.data.crew import Crew
from hpcml.data.samples import SHAPE, write_samples
from hpcml.data.sizing import choose_block
from hpcml.data.storage import CONTIGUOUS, LIBRARY

SLAB = 256
"""Rows of one sequential read, and of a batch."""

Measure = Callable[[], int]
"""Moves rows once and returns how many."""


def raw_reads(data: ShardedDataset, threads: int = 1, slab: int = SLAB, ring: int = 0) -> Measure:
    """Return the limit: positioned reads of the same bytes of contiguous shards, slab after slab in the order of the files.

    Args:
        data: the shards.
        threads: that share the reads.
        slab: rows of one read.
        ring: rows of memory that the slabs fill, round and round; 0: a slab for each thread, which stays in the cache.
    """
    places = max(threads, ring // slab)
    memory: np.ndarray = np.zeros((places * slab, *data.x.shape), data.x.dtype)  # touched: no page is missing when the clock runs
    row, crew = memory[:1].nbytes, Crew(threads)

    def run() -> int:
        files, slabs = [], list[tuple[int, int, int]]()
        for shard in data.index.shards:
            stored = shard.stored(data.x.name)
            if stored.road != CONTIGUOUS:
                raise ValueError(f"{shard.path}: raw reads measure contiguous shards, this one is {stored.road}")
            files.append(os.open(shard.path, os.O_RDONLY))
            slabs += [(files[-1], stored.offset + first * row, min(slab, shard.rows - first)) for first in range(0, shard.rows, slab)]

        def read(number: int) -> None:
            file, offset, rows = slabs[number]
            first = number % places * slab
            os.preadv(file, [memory[first : first + rows].data], offset)

        crew.each(read, range(len(slabs)))
        crew.dismiss()
        for file in files:
            os.close(file)
        return data.rows

    return run


def sequential(data: ShardedDataset) -> Measure:
    """Return reads of slab after slab, features and targets, into the caller's arrays."""
    x, y = np.empty((SLAB, *data.x.shape), np.float32), np.empty(SLAB, np.int64)

    def run() -> int:
        for first in range(0, data.rows, SLAB):
            n = min(SLAB, data.rows - first)
            data.read(first, first + n, x[:n], y[:n])
        return data.rows

    return run


def loading(data: ShardedDataset, shuffle: str, threads: int = 2, batch: int = SLAB) -> Measure:
    """Return an epoch of a loader of one worker; each call is the next epoch."""
    sampler = Sampler(data.shard_rows, batch, 1, 7, shuffle, choose_block(data.index))
    loader, epochs = Loader(data, sampler, [0], threads=threads), iter(range(1 << 30))

    def run() -> int:
        return sum(len(batch.rows) for (batch,) in loader.batches(next(epochs)))

    return run


def through_library(data: ShardedDataset) -> ShardedDataset:
    """Return the same rows, all read by h5py's own pipeline: what HDF5 alone would give."""
    shards = tuple(
        dataclasses.replace(shard, fields=tuple((name, dataclasses.replace(stored, road=LIBRARY)) for name, stored in shard.fields))
        for shard in data.index.shards
    )
    return ShardedDataset(dataclasses.replace(data.index, shards=shards))


def forget_cache(paths: Sequence[str | Path]) -> None:
    """Ask the system to drop what it holds of some files in memory, so that the next read comes from the disk."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def interleaved(measures: dict[str, Measure], rounds: int, before: Callable[[], None] | None = None) -> dict[str, list[float]]:
    """Return rows a second of each measure, `rounds` times in turn, so that a slow minute of the machine hits all alike.

    Args:
        measures: name -> measure.
        rounds: 1 or more.
        before: called before each measure, such as to forget a cache.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            if before is not None:
                before()
            begin = time.perf_counter()
            rows = measure()
            found[name].append(rows / (time.perf_counter() - begin))
    return found


def ratio(found: dict[str, list[float]], name: str, other: str) -> float:
    """Return the median over rounds of one measure against another of the same round."""
    return statistics.median(a / b for a, b in zip(found[name], found[other], strict=True))


def measure_loading(folder: Path, shards: int, rows: int, rounds: int = 5, threads: int = 2) -> dict[str, float]:
    """Return rows a second by way of reading, and shares of the raw limit, over shards made in `folder`.

    Args:
        folder: where the shards are, or are made: about 12 KiB a row.
        shards: files of each layout.
        rows: in each file.
        rounds: after one that warms the cache.
        threads: of the loader.

    Returns:
        name -> rows a second for each way; "share of raw, ..." -> the median of the rounds' ratios.
    """
    with open_shards(write_samples(folder, "contiguous", shards, rows)) as plain, through_library(plain) as library:
        measures = {
            "raw positioned reads": raw_reads(plain),
            "sequential": sequential(plain),
            "sequential, h5py": sequential(library),
            "loader, none": loading(plain, "none", threads),
            "loader, window": loading(plain, "window", threads),
        }
        interleaved(measures, 1)
        found = interleaved(measures, rounds)
    result = {name: statistics.median(values) for name, values in found.items()}
    shares = {f"share of raw, {name}": ratio(found, name, "raw positioned reads") for name in list(measures)[1:]}
    row = float(np.prod(SHAPE)) * 4
    return {**result, **shares, "GB/s, loader, window": result["loader, window"] * row / 1e9}
