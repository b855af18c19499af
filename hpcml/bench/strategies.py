"""Strategies side by side: what each reaches on a job, sends, waits for, and loses to a straggler.

Bytes are those of messages with every rank counted as a machine of its own, in the steps alone: evaluation and checkpoints, which are
the same for all, are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.build import build_job
from hpcml.comm.communicator import Communicator, Op
from hpcml.comm.counting import Counted, Traffic
from hpcml.config import load
from hpcml.nn import Tail, mlp
from hpcml.optim import SGD
from hpcml.sync import Nodes, Plan
from hpcml.train import Hook, Trainer

ADAM = ["optimizer.name=adamw", "optimizer.momentum=0.0"]
LOCAL = ["sync.name=local-steps", "sync.every=8"]
GOSSIP = ["sync.name=gossip", "sync.every=1"]

STRATEGIES: dict[str, list[str]] = {
    "every step": [],
    "1 backup worker": ["sync.spare=1"],
    "one step late": ["sync.name=delayed", "optimizer.rate=0.02"],
    "local steps": LOCAL,
    "adaptive local steps": [*LOCAL, "sync.schedule=adaptive"],
    "post-local": [*LOCAL, "sync.warm_epochs=5"],
    "one-shot average": ["sync.name=local-steps", "sync.schedule=once", "optimizer.rate=0.02"],
    "block momentum": ["sync.name=local-steps", "sync.every=4", "sync.outer=block-momentum", "sync.warm_epochs=2", "optimizer.rate=0.05"],
    "slow momentum": [*LOCAL, "sync.outer=slow-momentum", "optimizer.rate=0.05"],
    "DiLoCo": [*LOCAL, "sync.outer=sgd", "sync.outer_rate=0.7", "sync.outer_momentum=0.6", *ADAM, "optimizer.rate=0.005"],
    "elastic (EASGD)": ["sync.name=elastic"],
    "2 elastic groups": ["sync.name=elastic", "sync.groups=2"],
    "gossip, ring": GOSSIP,
    "gossip, one peer": [*GOSSIP, "sync.topology=one-peer"],
    "gossip, random pairs": [*GOSSIP, "sync.topology=pairs"],
    "D-PSGD, ring": [*GOSSIP, "sync.earlier=true"],
    "push-sum, directed ring": ["sync.name=push-sum", "sync.every=1", "sync.topology=directed-ring"],
    "ensemble, mean": ["sync.name=ensemble"],
    "ensemble, vote": ["sync.name=ensemble", "sync.combine=vote", "sync.warm_epochs=5"],
    "ensemble, best": ["sync.name=ensemble", "sync.combine=best", "sync.warm_epochs=5"],
    "ensemble, stacked": ["sync.name=ensemble", "sync.combine=stack", "sync.warm_epochs=5"],
    "L-BFGS": ["sync.name=lbfgs", "optimizer.momentum=0.0", "optimizer.rate=1.0", "optimizer.decay=0.001"],
    "large batches (LARS)": ["rate.recipe=large-batch", "train.batch=512", "rate.base_batch=128", "optimizer.rate=5.0"],
    "large batches (LAMB)": ["rate.recipe=large-batch", "train.batch=512", "rate.base_batch=128", *ADAM, "optimizer.rate=0.01"],
}
"""Each strategy's documented settings for jobs/digits.toml, over synchronous SGD at rate 0.1 with momentum 0.9."""


SERVER = ["sync.name=parameter-server", "optimizer.momentum=0.0"]
TAP = [*SERVER, "optimizer.rate=0.05"]
DOWNPOUR = ["sync.name=downpour", "optimizer.name=adagrad", "optimizer.momentum=0.0", "optimizer.rate=0.02", "server.warm=10"]

OWN_PACE: dict[str, list[str]] = {
    "bsp": ["sync.name=parameter-server", "server.consistency=bsp"],
    "ssp 3": [*SERVER, "server.consistency=ssp"],
    "asp 0.01, 3": [*SERVER, "server.consistency=asp"],
    "bap": [*SERVER, "server.consistency=bap"],
    "tap": TAP,
    "tap, stealing": [*TAP, "server.stealing=true"],
    "tap, DC-ASGD": [*TAP, "server.compensation=0.04"],
    "downpour": [*DOWNPOUR, "server.consistency=bap"],
    "downpour, every 2": [*DOWNPOUR, "server.fetch=2", "server.push=2"],
    "async-easgd": ["sync.name=async-easgd", "server.consistency=bap"],
    "2 groups": [*SERVER, "server.groups=2", "server.consistency=bap"],
    "gossip-learning": ["sync.name=gossip-learning"],
    "gossip-learning, votes": ["sync.name=gossip-learning", "server.cache=10", "sync.combine=vote"],
}
"""The same for strategies whose workers go at their own pace: docs/parameter-server.md."""


class StepMeter(Hook):
    """Adds up what the steps of a run took and sent, without what happens between epochs."""

    def __init__(self, traffic: Traffic) -> None:
        """Read from these numbers."""
        self._traffic = traffic
        self.seconds, self.waited, self.sent = 0.0, 0.0, 0

    def before_run(self, trainer: Trainer, epochs: int) -> None:
        """Begin."""
        self._mark()

    def after_step(self, trainer: Trainer) -> None:
        """Add what came since the last mark."""
        then, (sent, waited) = self._then, self._before
        self.seconds += time.perf_counter() - then
        self.waited += self._traffic.waited - waited
        self.sent += self._traffic.sent_bytes - sent
        self._mark()

    def after_epoch(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Forget what the epoch's end took."""
        self._mark()

    def _mark(self) -> None:
        self._then, self._before = time.perf_counter(), (self._traffic.sent_bytes, self._traffic.waited)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one strategy came to: the test metric at the end, seconds and bytes of all steps, and the conits."""

    accuracy: float
    seconds: float
    waited: float
    """Share of the seconds inside messages and barriers, the mean over the ranks."""
    sent: int
    """Bytes, all ranks together."""
    conits: dict[str, Any] | None


def train(path: Path, changes: list[str], comm: Communicator, folder: Path) -> Outcome:
    """Train a job and return what its strategy came to, equal on all ranks."""
    counted = Counted(comm, apart=True)
    meter = StepMeter(counted.traffic)
    trainer = build_job(load(path, changes), counted, folder, resume=False, hooks=[meter]).trainer
    metrics = trainer.run(load(path, changes).train.epochs)
    conits = trainer.sync.conits()
    slowest, sums = np.array([meter.seconds]), np.array([meter.waited / meter.seconds, float(meter.sent)])
    comm.all_reduce(slowest, Op.MAX)
    comm.all_reduce(sums)
    trainer.close()
    return Outcome(
        metrics["test_accuracy"], float(slowest[0]), float(sums[0]) / comm.size, round(sums[1]), None if conits is None else conits.plain()
    )


def train_own_pace(path: Path, changes: list[str], comm: Communicator, folder: Path) -> Outcome:
    """Train a job whose workers go at their own pace; seconds are those of the whole run, bytes those of letters between ranks."""
    config = load(path, changes)
    trainer = build_job(config, comm, folder, resume=False, hooks=[]).trainer
    comm.barrier()
    began = time.perf_counter()
    metrics = trainer.run(config.train.epochs)
    slowest = np.array([time.perf_counter() - began])
    comm.all_reduce(slowest, Op.MAX)
    measured, conits, seconds = trainer.sync.measured, trainer.sync.conits(), float(slowest[0])
    trainer.close()
    return Outcome(
        metrics["test_accuracy"], seconds, measured["seconds_waited"] / seconds / comm.size, measured["bytes_sent"], conits.plain()
    )


def straggle(plan: Plan, comm: Communicator, work: float, steps: int, slow: Callable[[int], int] | None, factor: float = 5.0) -> float:
    """Return seconds a step of a strategy whose workers, one a rank, sleep instead of computing: all cores are free for all.

    Args:
        plan: the strategy.
        comm: all ranks.
        work: seconds that a worker's step takes.
        steps: how many are taken.
        slow: step -> the worker that takes `factor` times as long; None for nobody.
        factor: how much longer.
    """
    arena = mlp([4, 3]).arena
    sync = plan.start(arena, Nodes(comm, apart=True), comm.size, SGD(0.01))
    comm.barrier()
    started = time.perf_counter()
    for step in range(steps):
        sync.enter(comm.rank)
        if not sync.drops(comm.rank, step):
            time.sleep(work * (factor if slow is not None and slow(step) == comm.rank else 1.0))
        arena.grad.fill(0)
        arena.tail[Tail.WEIGHT] = 1
        sync.leave(comm.rank, step)
        sums = sync.exchange(step)
        if sums is not None:
            sync.update(step, sums)
    sync.consensus()
    longest = np.array([time.perf_counter() - started])
    comm.all_reduce(longest, Op.MAX)
    return float(longest[0]) / steps
