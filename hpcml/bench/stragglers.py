"""How much of its throughput a strategy loses to slow workers: seconds are added to gradients, around the strategy, not in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcml.comm.communicator import Communicator
from hpcml.data import open_shards
from hpcml.nn import mlp, softmax_cross_entropy
from hpcml.optim import SGD
from hpcml.train import Hook, Trainer


@dataclass(slots=True)
class Straggler(Hook):
    """Makes each gradient take `seconds`, and that of one worker `factor` times as long.

    Args:
        seconds: of a gradient; added to what it takes by itself.
        factor: how much slower the slow worker is.
        turn: gradients after which the next worker becomes the slow one; 0: worker 1 stays it.
    """

    seconds: float
    factor: float = 1.0
    turn: int = 0
    _began: float = 0.0

    def before_run(self, trainer: Trainer, epochs: int) -> None:
        """Take the time from which turns are counted."""
        self._began = time.perf_counter()

    def after_gradient(self, trainer: Trainer, worker: int) -> None:
        """Sleep, as long as this worker's gradient is to take."""
        # By the clock: a slow machine is slow for a while, however many gradients it computes meanwhile.
        turns = int((time.perf_counter() - self._began) / (self.turn * self.seconds)) if self.turn else 1
        time.sleep(self.seconds * (self.factor if worker == turns % trainer.workers else 1.0))


def rows_per_second(comm: Communicator, shard: Path, sizes: list[int], batch: int, sync: Any, straggler: Straggler, epochs: int) -> float:
    """Return the rows a second of a run of some epochs, the meetings at their ends counted in.

    Args:
        comm: all ranks; each that computes hosts one virtual worker.
        shard: rows as `step.make_shard` writes them.
        sizes: inputs, hidden layers, outputs.
        batch: rows of the global batch.
        sync: the strategy.
        straggler: who is slow, and when.
        epochs: 1 or more.
    """
    data = open_shards(shard)
    trainer = Trainer(mlp(sizes), softmax_cross_entropy, SGD(0.001), sync, data, batch=batch, comm=comm, device="cpu", hooks=[straggler])
    comm.barrier()
    began = time.perf_counter()
    trainer.run(epochs)
    seconds = time.perf_counter() - began
    rows = data.rows * epochs
    trainer.close()
    return rows / seconds
