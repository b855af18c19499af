"""Small shards for the tests of the data room."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpcml.data import Sampler, open_shards
from hpcml.data.dataset import ShardedDataset

LENGTHS = [23, 4, 31, 12]
MakeShards = Callable[..., list[Path]]


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """Return a function that writes part-0.h5, part-1.h5, ...: x[i, j] = i + j / 8 and y[i] = i, i the global row."""

    def make(lengths: Sequence[int], width: int = 3, dtype: Any = "<f4", y_dtype: Any = "<i8", **layout: Any) -> list[Path]:
        paths, start = [], 0
        for i, rows in enumerate(lengths):
            y = np.arange(start, start + rows)
            paths.append(tmp_path / f"part-{i}.h5")
            with h5py.File(paths[-1], "w") as file:
                file.create_dataset("x", data=x_of(y, width).astype(dtype), **layout)
                file.create_dataset("y", data=y.astype(y_dtype), **layout)
            start += rows
        return paths

    return make


@pytest.fixture
def truth() -> Callable[..., np.ndarray]:
    """Return a function from rows of `make_shards` to their x, as float32."""
    return x_of


def x_of(rows: Sequence[int] | np.ndarray, width: int = 3) -> np.ndarray:
    """Return x of some rows of `make_shards`, as float32."""
    return (np.asarray(rows)[:, None] + np.arange(width) / 8).astype(np.float32)


@pytest.fixture
def data(make_shards: MakeShards) -> Iterator[ShardedDataset]:
    """Four shards of LENGTHS."""
    with open_shards(make_shards(LENGTHS)) as dataset:
        yield dataset


@pytest.fixture
def sampler(data: ShardedDataset) -> Sampler:
    """Batches of 16 rows of those shards for four workers."""
    return Sampler(data.shard_rows, 16, 4, 7, block=4, window=3)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Require that all threads of loaders end with the test."""
    yield
    assert all_threads_end()


def all_threads_end() -> bool:
    """Wait until no thread of a loader is left; they were told to end, and need not have got a core yet."""
    begin = time.perf_counter()
    while [thread for thread in threading.enumerate() if thread.name in ("hpcml-loader", "hpcml-reader")]:
        gc.collect()  # a generator in a cycle may hold them
        time.sleep(0.001)
        if time.perf_counter() - begin > 5:
            return False
    return True
