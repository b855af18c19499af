"""Seconds of a whole training step, fed from memory, on all ranks together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcml.arrays import stream
from hpcml.comm.communicator import Communicator, Op
from hpcml.data import RowWriter, open_shards
from hpcml.errors import DeviceError
from hpcml.nn import Model, softmax_cross_entropy, token_cross_entropy
from hpcml.optim import SGD
from hpcml.sync import Plan
from hpcml.train import Trainer
from hpcml.train.graphs import NOTE, WARM_UP


def make_shard(path: Path, rows: int, shape: int | tuple[int, ...], classes: int, tokens: bool = False) -> None:
    """Write one shard of random rows: x (rows, *shape) float32 in [0, 1), y (rows,) int64; or y (rows, *shape) int64 alone, as tokens."""
    random, shape = stream(0, "bench"), (shape,) if isinstance(shape, int) else shape
    if tokens:
        with RowWriter(path, rows, {"y": (shape, np.int64)}) as file:
            file.write(0, {"y": random.integers(0, classes, (rows, *shape))})
        return
    with RowWriter(path, rows, {"x": (shape, np.float32), "y": ((), np.int64)}) as file:
        file.write(0, {"x": random.random((rows, *shape), dtype=np.float32), "y": random.integers(0, classes, rows)})


def training_step(
    comm: Communicator, shard: Path, model: Model, batch: int, sync: Plan, device: str = "cpu", *, graph: bool = False
) -> Callable[[], None]:
    """Return a function that takes one training step of a model on rows that are already in memory.

    Args:
        comm: all ranks; each hosts one virtual worker.
        shard: rows as `make_shard` writes them, at least one batch.
        model: takes the shard's rows and gives a number for each class, or for each token at each position.
        batch: rows of the global batch.
        sync: the synchroniser to measure.
        device: "cpu" or "gpu".
        graph: on a GPU, launch a worker's pass as one CUDA graph, captured here.

    Raises:
        DeviceError: if it cannot be captured, so that a row of graphs is one.
    """
    tokens = len(model.outputs) == 2
    data, loss = open_shards(shard, features="y" if tokens else "x"), token_cross_entropy if tokens else softmax_cross_entropy
    trainer = Trainer(model, loss, SGD(0.01, momentum=0.9), sync, data, batch=batch, comm=comm, device=device, graph=graph, hooks=())
    batches = next(trainer.loader.batches(0))
    for _ in range(WARM_UP + 1 if graph else 0):
        trainer.step(batches)
    for note in trainer.notes:
        if note.startswith(NOTE):
            raise DeviceError(note)
    return lambda: trainer.step(batches)


def slowest_seconds(comm: Communicator, run: Callable[[], None], repeats: int) -> float:
    """Return the seconds of one call, the mean of `repeats`, on the slowest rank; all ranks start together."""
    comm.barrier()
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    seconds = np.array([(time.perf_counter() - began) / repeats])
    comm.all_reduce(seconds, Op.MAX)
    return float(seconds[0])
