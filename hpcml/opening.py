"""From [data] to data sets: indexed by one rank for all, staged to the node's disk, kept in the node's memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcml.arrays.memory import ALIGNMENT
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.config import Config, DataConfig
from hpcml.data import Index, ShardedDataset, find_shards, index_shards
from hpcml.data.cache import CachedDataset, kept_bytes
from hpcml.data.checksums import with_checksums
from hpcml.data.shards import join_indices
from hpcml.data.staging import require_room, stage, staged
from hpcml.data.variable import Packing
from hpcml.errors import DamagedShardError, DataError, ShardError

Progress = Callable[[str, int, int], None]
"""Called with (what, how much is done, how much in all)."""

MB = 10**6


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def open_data(
    pattern: str | Sequence[str],
    features: str | list[str],
    target: str | None,
    comm: Communicator,
    keys: DataConfig | None = None,
    told: Progress = quiet,
    fits: Callable[[Index], None] | None = None,
    notes: list[str] | None = None,
) -> ShardedDataset:
    """Return a data set whose files were looked into by one rank each; what it found goes to the others as bytes.

    Args:
        pattern: as `find_shards` takes it.
        features: the field or fields that become x.
        target: the field that becomes y, or None.
        comm: all ranks.
        keys: weights, how files become rows, checksums and stage; left out, none.
        told: how far this rank is with the staging.
        fits: raises for rows of a shape that cannot be used, before any of them is read or copied.
        notes: where a quarantine tells which files it leaves out since HDF5 cannot open them; left out, they are refused.

    Raises:
        ShardError: on every rank, for whatever any rank refuses.
    """
    options = {} if keys is None else {"weights": keys.weights or None, **reading(keys)}
    told_of = notes if keys is not None and keys.on_corrupt == "quarantine" else None
    index = index_together(pattern, features, target, comm, options, told_of)
    if fits is not None:
        with comm.together():
            fits(index)
    if keys is not None and keys.checksums != "off":
        with comm.together():
            if comm.rank == 0:
                index = with_checksums(index, required=keys.checksums == "require")
        index = Index.from_json(comm.broadcast_bytes(index.to_json() if comm.rank == 0 else b""))
    if keys is not None and keys.stage:
        stage_together(index, keys.stage, comm, told)
        with comm.together():
            index = staged(index, keys.stage)
    return ShardedDataset(index)


def index_together(
    pattern: str | Sequence[str],
    features: str | list[str],
    target: str | None,
    comm: Communicator,
    options: dict[str, Any],
    notes: list[str] | None = None,
) -> Index:
    """Return the index of all files, each looked into by one rank: they are dealt out, so that a thousand ranks open each once in all.

    Args:
        pattern: as `find_shards` takes it.
        features: the field or fields that become x.
        target: the field that becomes y, or None.
        comm: all ranks.
        options: as `index_shards` takes them.
        notes: gets a line on the files that HDF5 cannot open, which are then left out; None: they are refused.

    Raises:
        ShardError: on every rank, for whatever any rank refuses.
    """
    paths: list[str] = []
    with comm.together():
        if comm.rank == 0:
            paths = [str(path) for path in find_shards(pattern)]
    paths = json.loads(comm.broadcast_bytes(json.dumps(paths).encode()))
    mine, damaged, text = paths[comm.rank :: comm.size], dict[str, str](), b""
    with comm.together():
        if notes is None:
            text = index_shards(mine, features, target, **options).to_json() if mine else b""
        else:
            text, damaged = _index_whole(mine, lambda path: index_shards([path], features, target, **options))
    parts = [Index.from_json(part) for part in comm.all_gather_bytes(text) if part]
    for part in comm.all_gather_bytes(json.dumps(damaged).encode()):
        damaged.update(json.loads(part))
    with comm.together():
        if damaged and notes is not None:
            notes.append(_left_out(damaged, paths))
        return join_indices(parts, [path for path in paths if path not in damaged])


def _index_whole(paths: Sequence[str], look: Callable[[str], Index]) -> tuple[bytes, dict[str, str]]:
    """Return the index of the files that HDF5 can open, as JSON or empty, and the others with the reason."""
    found, damaged = dict[str, Index](), dict[str, str]()
    for path in paths:
        try:
            found[path] = look(path)
        except DamagedShardError as error:
            damaged[path] = str(error)
    return join_indices(list(found.values()), list(found)).to_json() if found else b"", damaged


def _left_out(damaged: Mapping[str, str], paths: Sequence[str]) -> str:
    """Return the note on files that are left out, or raise where no other is left."""
    first = damaged[min(damaged, key=paths.index)]
    many = f"{len(damaged)} of {len(paths)} files cannot be opened"
    if len(damaged) == len(paths):
        raise ShardError(f'data.on_corrupt = "quarantine": {many}, so there is nothing to go on with; the first: {first}')
    return f'data.on_corrupt = "quarantine": {many}, their rows are not in this run; the first: {first}'


def reading(keys: DataConfig) -> dict[str, Any]:
    """Return how files become rows, as `index_shards` takes it: cf, fill, packing."""
    cf = keys.cf if isinstance(keys.cf, bool) else None
    return {"cf": cf, "fill": None if keys.fill == "" else float(keys.fill), "packing": Packing.from_keys(keys)}


def stage_together(index: Index, folder: str, comm: Communicator, told: Progress) -> None:
    """Copy the shards to each node's own disk, its ranks sharing the work.

    Raises:
        ShardError: on every rank, if there is no room on any node, or any copy fails.
    """
    inside, across = comm.by_node()
    with comm.together():
        if inside.rank == 0:
            require_room(index, folder)
    with comm.together():
        stage(index, folder, inside.rank, inside.size, lambda done, total: told(f"MB staged to {folder}:", done // MB, total // MB))
    inside.free()
    across.free()


def open_train_and_test(
    config: Config,
    comm: Communicator,
    told: Progress = quiet,
    fits: Callable[[Index], None] | None = None,
    notes: list[str] | None = None,
) -> tuple[ShardedDataset, ShardedDataset | None]:
    """Return the training data and, where the config names it, the test data; `fits` is asked about the training data's rows first.

    Files that a quarantine leaves out are told in the notes.

    Raises:
        DataError: on every rank, if their rows differ in shape.
    """
    keys = config.data
    train = open_data(keys.train, keys.features, keys.target, comm, keys, told, fits, notes)
    test = open_data(keys.test, keys.features, keys.target, comm, keys, told, notes=notes) if keys.test else None
    if test is not None and test.x.shape != train.x.shape:
        text = f"data.test has rows of shape {test.x.shape}, data.train {train.x.shape}; both must come from the same source"
        raise everywhere(DataError(text))
    return train, test


class NodeMemory:
    """One block of memory that the ranks of a node read and write, given out piece by piece.

    Args:
        inside: the ranks of the node; it is freed at `close`.
        block: uint8, zeroed, aligned, the same memory on all of them.
    """

    def __init__(self, inside: Communicator, block: np.ndarray) -> None:
        self._inside, self._block, self._given = inside, block, 0

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return the next piece of the block, on a cache line."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        piece = self._block[self._given : self._given + nbytes]
        self._given += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return piece.view(dtype).reshape(shape)

    def fence(self) -> None:
        """Return when every rank of the node has called it and all see what was written before."""
        self._inside.fence()

    def close(self) -> None:
        """Give the block back; every rank of the node calls it."""
        self._inside.free()


def kept(data: ShardedDataset, keys: DataConfig, dtype: Any, comm: Communicator, notes: list[str]) -> ShardedDataset:
    """Return the data set with its rows kept in memory as `data.cache` says; a node without room for them is told in the notes.

    Args:
        data: with its transforms.
        keys: of the job.
        dtype: what features are computed in.
        comm: all ranks, which call this together.
        notes: what the run shall say.
    """
    if keys.cache == "none":
        return data
    if keys.cache == "memory":
        return CachedDataset(data.index, data.transforms, dtype=dtype)
    inside, across = comm.by_node()
    across.free()
    blocks = inside.shared_blocks(kept_bytes(data.index, dtype) if inside.rank == 0 else 0)
    short = "" if blocks is not None else inside.shortage or "its ranks cannot share memory"
    told = [f"{name.decode()}: {text.decode()}" for name, text in _texts(comm, short) if text]
    if told:
        notes.append(
            f'data.cache = "node": {len(told)} of {comm.size} ranks read their rows from the files in every epoch, for want of memory'
            f' on their node: {told[0]}; or set data.cache = "none"'
        )
    if blocks is None:
        inside.free()
        return data
    return CachedDataset(data.index, data.transforms, NodeMemory(inside, blocks[0]), dtype)


def _texts(comm: Communicator, text: str) -> list[tuple[bytes, bytes]]:
    """Return (host, text) of every rank."""
    return list(zip(comm.all_gather_bytes(comm.host.encode()), comm.all_gather_bytes(text.encode()), strict=True))
