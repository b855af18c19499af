"""One file of rows in some layout, and what a reader finds of it."""

from __future__ import annotations

import h5py
import numpy as np

ROWS = 50


def write(path, name="x", dtype="<f4", seed=0, **layout):
    dtype = layout.pop("only", dtype)
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 if dtype == "?" else 100, (ROWS, 3, 4)).astype(dtype)
    with h5py.File(path, "a", libver=layout.pop("libver", None), userblock_size=layout.pop("userblock", 0)) as file:
        file.create_dataset(name, data=values, **layout)
    return values


def read(data, start, stop, dtype=np.float32):
    out = np.full((stop - start, *data.x.shape), -1, dtype)
    data.read(start, stop, out)
    return out


def road(data, name="x"):
    return data.index.shards[0].stored(name).road
