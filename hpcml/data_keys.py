"""The keys of [data] in a config."""

from __future__ import annotations

from typing import Literal

import msgspec


class TransformConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One step of [[data.transforms]]; which keys a name takes is written beside it in hpcml/transforming.py."""

    name: Literal["cast", "scale", "standardise", "one-hot", "crop", "flip", "noise", "function"]
    dtype: str = "float16"
    by: float = 1.0
    shift: float = 0.0
    classes: int = 0
    height: int = 0
    width: int = 0
    axis: int = -1
    probability: float = 0.5
    deviation: float = 0.0
    function: str = ""


class DataConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which rows, and how they are read: glob patterns of HDF5 shards, and the names of the data sets inside them.

    - features: one name, or a list of names whose numbers are joined into one flat row.
    - weights: one number a row by which its loss counts; left out, all count alike.
    - cf, fill: apply scale_factor, add_offset and _FillValue; fill values become `fill`, or are refused with their row.
    - block: rows that stay together (0: chosen by the bytes of a row and the chunks); window: blocks mixed in memory.
    - memory: bytes that each virtual worker may hold, such as "2GB"; the window is made smaller to fit.
    - cache: "memory" keeps decoded rows after the first epoch.
    - stage: a folder on the node's own disk, such as "$TMPDIR", to which the shards are copied first.
    - transforms: what happens to the rows, step by step, in [[data.transforms]].
    - threads: how many read and decode on each rank.
    - on_corrupt: "stop", or "quarantine": go on without rows, and then shards, that cannot be read.
    """

    train: str
    test: str = ""
    features: str | list[str] = "x"
    target: str = "y"
    weights: str = ""
    cf: bool = False
    fill: float | Literal[""] = ""
    shuffle: Literal["none", "block", "window", "global"] = "window"
    block: int = 0
    window: int = 64
    memory: str = ""
    cache: Literal["none", "memory"] = "none"
    stage: str = ""
    threads: int = 2
    on_corrupt: Literal["stop", "quarantine"] = "stop"
    transforms: list[TransformConfig] = []
