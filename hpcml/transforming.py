"""From [[data.transforms]] to what is done to rows, with statistics that are computed once and kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.comm.communicator import Communicator
from hpcml.config import Config, TransformConfig
from hpcml.data import Index, ShardedDataset
from hpcml.data.transforms import Cast, Crop, Flip, Function, Noise, OneHot, Pipeline, Scale, Standardise, Transform
from hpcml.errors import DataError
from hpcml.train.recorder import write_whole
from hpcml.train.statistics import moments

FILE = "statistics.json"

MAKERS: dict[str, Callable[[TransformConfig], Transform]] = {
    "cast": lambda keys: Cast(keys.dtype),
    "scale": lambda keys: Scale(keys.by, keys.shift),
    "one-hot": lambda keys: OneHot(keys.classes),
    "crop": lambda keys: Crop(keys.height, keys.width),
    "flip": lambda keys: Flip(keys.axis, keys.probability),
    "noise": lambda keys: Noise(keys.deviation),
    "function": lambda keys: Function(keys.function),
}
"""Name -> what makes the transform, from the keys that it takes; "standardise" takes statistics instead."""

LEAVE_FEATURES = ("one-hot", "flip", "noise")
"""Transforms that leave the features of a row as they are where a model is only asked: of the target, or of training alone."""

Moments = tuple[np.ndarray, np.ndarray]


def keep_statistics(config: Config, train: ShardedDataset, comm: Communicator, folder: Path) -> list[Moments]:
    """Return mean and deviation for each "standardise" of a config: those kept in the run folder, else computed and kept.

    Args:
        config: the job.
        train: the training rows as they are in the files.
        comm: all ranks.
        folder: of the run.

    Raises:
        DataError: on every rank, for rows that cannot be read.
    """
    wanted = [number for number, keys in enumerate(config.data.transforms) if keys.name == "standardise"]
    if not wanted:
        return []
    kept = load_statistics(folder, comm)
    if kept:
        return kept
    for number in wanted:
        data = ShardedDataset(train.index, _pipeline(config, config.data.transforms[:number], kept))
        kept.append(moments(data, comm, config.data.on_corrupt == "quarantine"))
    plain = [{"mean": mean.tolist(), "deviation": deviation.tolist()} for mean, deviation in kept]
    with comm.together():
        if comm.rank == 0:
            write_whole(folder / FILE, json.dumps({"training data": train.index.fingerprint(), "standardise": plain}) + "\n")
    return kept


def load_statistics(folder: Path, comm: Communicator) -> list[Moments]:
    """Return the statistics kept in a run folder, on every rank; an empty list where there are none."""
    text = b""
    with comm.together():
        if comm.rank == 0 and (folder / FILE).is_file():
            text = (folder / FILE).read_bytes()
    text = comm.broadcast_bytes(text)
    plain: list[dict[str, Any]] = json.loads(text)["standardise"] if text else []
    return [(np.array(one["mean"]), np.array(one["deviation"])) for one in plain]


def transformed(data: ShardedDataset, config: Config, statistics: Sequence[Moments], comm: Communicator) -> ShardedDataset:
    """Return the data set with the transforms of a config.

    Raises:
        ConfigError: on every rank, for transforms that do not fit the rows.
        DataError: on every rank, if statistics are missing.
    """
    if not config.data.transforms:
        return data
    pipeline: Pipeline | None = None
    with comm.together():
        pipeline = _pipeline(config, config.data.transforms, statistics)
        pipeline.shapes(data.x.shape, None if data.y is None else data.y.shape)
    return ShardedDataset(data.index, pipeline)


def shape_of_rows(index: Index, config: Config) -> tuple[int, ...]:
    """Return the shape that rows have after the transforms of a config, whose statistics need not be known.

    Raises:
        ConfigError: for transforms that do not fit the rows.
    """
    steps = [keys for keys in config.data.transforms if keys.name != "standardise"]
    return _pipeline(config, steps, []).shapes(index.x.shape, None if index.y is None else index.y.shape)[0]


def _pipeline(config: Config, steps: Sequence[TransformConfig], statistics: Sequence[Moments]) -> Pipeline:
    left = list(statistics)
    made: list[Transform] = []
    for keys in steps:
        if keys.name != "standardise":
            made.append(MAKERS[keys.name](keys))
            continue
        if not left:
            raise DataError(f"the run folder has no {FILE}, which its transform standardise needs; train again")
        made.append(Standardise(*left.pop(0)))
    return Pipeline(made, config.train.seed)
