"""Loading beside PyTorch's DataLoader over h5py: the same shards, the same minute, in turn.

`make bench-loading` runs it; rows go to benchmarks/results/loading.jsonl. PyTorch is no dependency of hpcml: without it the
comparison is left out and the rest is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import h5py
import numpy as np

from hpcml import nn
from hpcml.bench.loading import SLAB, forget_cache, interleaved, loading, ratio, raw_reads, sequential, through_library
from hpcml.data import Loader, Sampler, ShardedDataset, open_shards
from hpcml.data.ledger import mix
from hpcml.data.samples import write_samples
from hpcml.data.sizing import choose_block
from hpcml.train.conditions import versions

RING = 19 * SLAB
"""Rows of the loader's ring: two windows and three batches."""

REST_SECONDS = 2.0
"""Before each cold measure. With half a second, who came after a fast one had 0.6 of the speed of who came after a slow one."""

RESULTS = Path(__file__).parent / "results" / "loading.jsonl"


class Rows:
    """A map-style data set as PyTorch's documentation writes it: open lazily in each worker, one row a call."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.files = paths, None
        self.ends = np.cumsum([h5py.File(path, "r")["y"].shape[0] for path in paths])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, row: int):
        if self.files is None:
            self.files = [h5py.File(path, "r") for path in self.paths]
            self.fields = [(file["x"], file["y"]) for file in self.files]
        shard = int(np.searchsorted(self.ends, row, side="right"))
        inside = row - (self.ends[shard - 1] if shard else 0)
        x, y = self.fields[shard]
        return x[inside], y[inside]


def data_loader(paths: list[Path], workers: int, rows: int):
    """Return a measure of `rows` shuffled rows by PyTorch's DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(Rows(paths), SLAB, shuffle=True, num_workers=workers, persistent_workers=bool(workers))

    def run() -> int:
        seen = 0
        for x, _ in loader:
            seen += len(x)
            if seen >= rows:
                break
        return seen

    return run


def comparison(paths: list[Path], rows: int, threads: int) -> dict:
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: its DataLoader is left out", file=sys.stderr)
        return {}
    torch.set_num_threads(1)
    return {f"DataLoader, {n} workers": data_loader(paths, n, rows) for n in (0, 2)}


def forget_and_rest(paths: list[Path]) -> None:
    """Make the next reads come from the disk, and let it rest: a virtual one lends speed for a while, to whoever comes first."""
    forget_cache(paths)
    time.sleep(REST_SECONDS)


def best_of(found: dict[str, list[float]], names: Iterable[str]) -> str:
    """Return the name of the fastest by the median."""
    return max(names, key=lambda name: statistics.median(found[name]))


def aims(paths: dict[str, list[Path]], rounds: int, threads: int, torch_rows: int) -> Iterator[tuple[str, float, float, dict]]:
    """Yield (what, aim, ratio, rows a second of each side)."""
    plain = open_shards(paths["contiguous"])
    loader, others = loading(plain, "window", threads), comparison(paths["contiguous"], torch_rows, threads)
    limits = {
        "warm": {f"plain reads, {threads} threads": raw_reads(plain, threads, ring=RING)},
        "cold": {f"plain reads, {n} threads, {slab} rows": raw_reads(plain, n, slab) for n, slab in ((2, 340), (8, 85))},
    }
    for what, before in (("warm", None), ("cold", partial(forget_and_rest, paths["contiguous"]))):
        measures = {"loader": loader, **others, **limits[what]}
        interleaved(measures, 1, before)
        found = interleaved(measures, rounds, before)
        limit = best_of(found, limits[what])
        if others:
            best = best_of(found, others)
            yield f"shuffled, {what}, against {best}", 12, ratio(found, "loader", best), found
            yield f"{limit}, {what}, against {best}", 12, ratio(found, limit, best), found
        yield f"shuffled, {what}, share of {limit}", 1, ratio(found, "loader", limit), found
    both = {"sequential": sequential(plain), "raw": raw_reads(plain)}
    interleaved(both, 1)
    found = interleaved(both, rounds)
    yield "sequential against raw positioned reads", 0.9, ratio(found, "sequential", "raw"), found
    for layout in ("lz4", "gzip"):
        data = open_shards(paths[layout])
        pair = {"loader": loading(data, "none", threads), "h5py": sequential(through_library(data))}
        interleaved(pair, 1)
        found = interleaved(pair, rounds)
        yield f"{layout}, {threads} threads, against h5py's pipeline", 1.8, ratio(found, "loader", "h5py"), found


def bytes_of_ranks(paths: list[Path], ranks: int) -> float:
    """Return the bytes that all ranks read in an epoch over the bytes of the set."""
    total = 0
    for rank in range(ranks):
        with open_shards(paths) as data:
            sampler = Sampler(data.shard_rows, SLAB, ranks, 7, "window", choose_block(data.index))
            for _ in Loader(data, sampler, [rank]).batches(0):
                pass
            total += data.bytes_read
            whole = sum(stored.nbytes for shard in data.index.shards for _, stored in shard.fields)
    return total / whole


def training(data: ShardedDataset, batch: int = SLAB):
    """Return a measure of one epoch of MLP steps (3072-256-10) fed by a loader of a data set."""
    model = nn.mlp([3072, 256, 10])
    work, sampler = nn.Workspace(), Sampler(data.shard_rows, batch, 1, 7, "window", choose_block(data.index))
    loader, epochs = Loader(data, sampler, [0]), iter(range(1 << 30))

    def run() -> int:
        for (batch,) in loader.batches(next(epochs)):
            _, slope = nn.softmax_cross_entropy(model.forward(batch.x.reshape(len(batch.x), -1)), batch.y, work)
            model.backward(slope)
            model.arena.data -= np.float32(1e-4 / len(batch.rows)) * model.arena.grad[: model.arena.n]
        return data.rows

    return run


def from_memory(data: ShardedDataset, batch: int = SLAB):
    """Return a measure of the same steps on batches that lie ready in memory."""
    model, work = nn.mlp([3072, 256, 10]), nn.Workspace()
    x, y = np.empty((8 * batch, *data.x.shape), np.float32), np.empty(8 * batch, np.int64)
    data.read(0, len(x), x, y)

    def run() -> int:
        for first in range(0, data.rows, batch):
            at = first % len(x)
            rows = slice(at, at + min(batch, data.rows - first))
            _, slope = nn.softmax_cross_entropy(model.forward(x[rows].reshape(len(x[rows]), -1)), y[rows], work)
            model.backward(slope)
            model.arena.data -= np.float32(1e-4 / batch) * model.arena.grad[: model.arena.n]
        return data.rows

    return run


def ledger_cost(rows: int, measured: float) -> float:
    """Return the share of a training epoch that the ledger takes: mixing each row's id, over the time of the rows."""
    order = np.random.default_rng(0).permutation(rows)
    begin = time.process_time()
    for first in range(0, rows, 2048):
        np.add.reduceat(mix(order[first : first + 2048]), np.arange(0, len(order[first : first + 2048]), SLAB))
    return (time.process_time() - begin) / (rows / measured)


def more_aims(paths: dict[str, list[Path]], rounds: int) -> Iterator[tuple[str, float, float, dict]]:
    """Yield the aims about ranks and steps."""
    for layout in paths:
        got = bytes_of_ranks(paths[layout], 4)
        yield f"{layout}: bytes read by 4 ranks against bytes of the set", 1.0, got, {}
    data = open_shards(paths["contiguous"][:1])
    both = {"disk": training(data), "memory": from_memory(data)}
    interleaved(both, 1)
    found = interleaved(both, rounds)
    yield "MLP step from disk against from memory", 0.97, ratio(found, "disk", "memory"), found
    yield "the ledger's share of an MLP epoch (aim: under)", 0.001, ledger_cost(data.rows, statistics.median(found["memory"])), {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="data/bench", help="where the shards are made and kept: 1.2 GB")
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--rows", type=int, default=12288, help="of 12 KiB, in each shard")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch-rows", type=int, default=12288, help="rows a round of the DataLoader, which is slow")
    args = parser.parse_args()
    counts = {"contiguous": args.shards, "lz4": min(2, args.shards), "gzip": min(2, args.shards)}
    paths = {layout: write_samples(Path(args.folder), layout, n, args.rows) for layout, n in counts.items()}
    args.folder = None  # a path of one machine is no result
    about = {"time": time.time(), "host": platform.node(), "cores": os.cpu_count(), "versions": versions(), "args": vars(args)}
    RESULTS.parent.mkdir(exist_ok=True)
    for what, aim, got, found in chain(aims(paths, args.rounds, args.threads, args.torch_rows), more_aims(paths, args.rounds)):
        load = os.getloadavg()[0]
        print(f"{what:56} aim {aim:5.1f}  got {got:8.4f}   load {load:.1f}", flush=True)
        row = {**about, "what": what, "aim": aim, "ratio": got, "load": load, "rows_per_second": found}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
