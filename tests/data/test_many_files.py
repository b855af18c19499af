"""Files that were let go are closed at once, so that a set may have more files than a process may open."""

from __future__ import annotations

import gc
import os

import h5py
import numpy as np

from hpcml.data import open_shards
from hpcml.data.handles import OPEN_AT_ONCE


def test_files_let_go_are_closed_without_the_garbage_collector(tmp_path):
    n = OPEN_AT_ONCE + 40
    for number in range(n):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["x"], file["y"] = np.full((2, 3), number, np.float32), np.arange(2)
    x, y = np.empty((2 * n, 3), np.float32), np.empty(2 * n, np.int64)
    with open_shards(tmp_path / "*.h5") as data:
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        gc.disable()
        try:
            data.read(0, 2 * n, x, y)
            assert len(os.listdir("/proc/self/fd")) <= before + OPEN_AT_ONCE + 1
        finally:
            gc.enable()
    np.testing.assert_array_equal(x[:, 0], np.arange(2 * n) // 2)
    np.testing.assert_array_equal(y, np.arange(2 * n) % 2)
