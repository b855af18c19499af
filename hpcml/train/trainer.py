"""The loop: batches to gradients to agreement to parameters, over the virtual workers that this rank hosts.

Letters: B rows of the global batch, V virtual workers, P ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcml.arrays import Array, choose_device, on_device
from hpcml.comm.communicator import Communicator, Op, everywhere
from hpcml.data import Batch, Sampler, ShardedDataset
from hpcml.errors import HpcmlError, NumericsError
from hpcml.nn import Loss, Model, Tail
from hpcml.nn.model import ignore
from hpcml.optim import Rule
from hpcml.sync import EveryStep, Nodes, Plan
from hpcml.sync.server import OwnPacePlan
from hpcml.train.audit import Audit
from hpcml.train.committee import judge_of
from hpcml.train.conditions import fix_blas_threads, require_equal_conditions
from hpcml.train.differentiation import Differentiator, Ready, cause, place_of
from hpcml.train.evaluation import evaluate
from hpcml.train.graphs import graphs_of
from hpcml.train.hooks import Hook
from hpcml.train.identity import identify, require_fit, require_hosts
from hpcml.train.lockstep import Lockstep, exchanging, require_lockstep
from hpcml.train.meters import EpochMeter, metrics
from hpcml.train.pace import hosted, hosts, pace
from hpcml.train.progress import Progress
from hpcml.train.saving import Saving, go_on, save
from hpcml.train.scaling import scaler_of
from hpcml.train.start import init
from hpcml.train.survival import Survival, survives


class Trainer:
    """Trains a model on a data set: the same bits on any number of ranks where the synchroniser is exact.

    Args:
        model: its arena becomes the run's, and moves to the device.
        loss: such as ``softmax_cross_entropy``.
        optimizer: such as ``SGD(rate=0.1, momentum=0.9)``.
        sync: such as ``EveryStep()``, ``LocalSteps(every=8)`` or ``ParameterServer()``.
        data: rows with targets.
        batch: B, rows of the global batch, whatever the number of ranks.
        workers: V; left out, the number of ranks at the first start, which the checkpoint remembers.
        seed: of the order of the rows, and of random numbers inside the model.
        micro_batch: rows of a worker that go through the model at a time, to save memory; 0: all.
        graph: launch each worker's pass on a GPU as one CUDA graph where it can be captured; the numbers stay.
        test: rows on which the model is judged after each epoch.
        comm: all ranks; left out, the world as ``hpcml.init()`` gives it.
        device: "cpu", "gpu", or "auto": a GPU where there is one.
        threads: BLAS threads a rank; left out, 1 where exact, else the rank's share of the node's cores.
        sampling: shuffle, block, window and own, as Sampler takes them.
        loading: threads and quarantine, as Loader takes them.
        saving: where and how often checkpoints are written, and whether to resume; left out, nothing is written.
        hooks: called around the loop, in order; left out, progress is shown on rank 0.

    Raises:
        ConfigError: for numbers that do not fit together, such as more ranks than workers.
        DisagreementError: if ranks hold different models, data or settings.
        CheckpointError: if the checkpoint to resume from is of another run.
    """

    _fault: HpcmlError | None = None
    weights_sha256: str | None = None

    def __init__(
        self,
        model: Model,
        loss: Loss,
        optimizer: Rule,
        sync: Plan | OwnPacePlan,
        data: ShardedDataset,
        *,
        batch: int,
        workers: int | None = None,
        seed: int = 0,
        micro_batch: int = 0,
        graph: bool = False,
        test: ShardedDataset | None = None,
        comm: Communicator | None = None,
        device: str = "auto",
        threads: int | None = None,
        sampling: dict[str, Any] | None = None,
        loading: dict[str, Any] | None = None,
        saving: Saving | None = None,
        hooks: Sequence[Hook] | None = None,
    ) -> None:
        self.comm = comm or init()
        self.model, self.loss, self.optimizer, self.data, self.test = model, loss, optimizer, data, test
        self.saving, self.notes = saving, list[str]()
        self.hooks = [Progress()] if hooks is None else list(hooks)
        # What decides which collectives come next must be equal before the first of them.
        first = {"virtual workers": workers, "saving": saving, "threads": threads, "device": device, "synchroniser": sync}
        self.comm.agree_all(first, "the run's")
        found = saving.newest(self.comm, self.notes) if saving else None
        self.workers = workers or (found.manifest["workers"] if found else hosts(sync, self.comm.size))
        require_hosts(self.workers, hosts(sync, self.comm.size))
        self.nodes = Nodes(self.comm)
        self.comm = self.nodes.order if survives(sync) else self.comm  # one numbering of ranks, for those that are lost
        self.hosted = hosted(sync, self.workers, self.comm.size, self.nodes.order.rank)
        fix_blas_threads(self.nodes.inside.size, sync.sum.exact, threads)
        with self.comm.together():
            require_fit(model, loss, data)
            model.move(choose_device(device, self.nodes.inside.rank))
            self.sampler = Sampler(data.shard_rows, batch, self.workers, seed, **(sampling or {}))
            options = {"dtype": model.arena.dtype, "device": model.arena.device, **(loading or {})}
            self.pace = pace(sync)(data, self.sampler, self.hosted, **options)
            self._prepare(seed, micro_batch, sync, graph)
        self.loader: Any = self.pace.loader
        self.audit = Audit(data, self.loader, self.comm)
        self.identity = identify(self, sync, sampling or {})
        machine = {"test data": test and test.index.fingerprint(), "kind of device": model.arena.device.name.partition(":")[0]}
        self.comm.agree_all({**self.identity, **machine}, "the run's")
        if sync.sum.exact:
            require_equal_conditions(self.comm)
        self.comm.broadcast(model.arena.data)
        self.plan: Any = sync
        self.sync: Any = sync.start(model.arena, self.nodes, self.workers, optimizer)
        self.notes += [self.nodes.note] if self.nodes.note else []
        self.hosts = [name.decode() for name in self.comm.all_gather_bytes(self.comm.host.encode())]
        self.count = self.epoch = self.position = 0
        self.metrics, self.meter = dict[str, float](), EpochMeter()
        self.resumed_from = self.saved_step = found.step if found else None
        go_on(self, found)
        self.survival = Survival(self) if survives(sync) and self.comm.size > 1 else None

    def _prepare(self, seed: int, micro_batch: int, sync: Plan | OwnPacePlan, graph: bool) -> None:
        """Make what differentiates: one for all hosted workers in turn, or where they meet inside the model one for each."""
        model, loss, data = self.model, self.loss, self.data
        require_lockstep(model, sync, micro_batch)
        late = on_device(model.arena.data) and isinstance(sync, EveryStep) and not exchanging(model)
        graphs = graphs_of(graph, model, late, self.notes)
        self.scaler = scaler_of(model.context.precision, sync)
        self.differentiator = Differentiator(model, loss, data, seed, micro_batch, self.scaler, late=late, graphs=graphs)
        self.lockstep = Lockstep(model, self.nodes.order, self.workers, len(self.hosted)) if exchanging(model) else None
        self._seats = [Differentiator(seat, loss, data, seed, scaler=self.scaler) for seat in self.lockstep.models] if self.lockstep else []

    def step(self, batches: list[Batch]) -> None:
        """Take one step: each hosted worker's gradient, what the synchroniser makes of all workers', the update."""
        found = self._together(batches, self.lockstep) if self.lockstep else None
        for k, batch in enumerate(batches):
            if self.sync.lost(batch.worker, self.count):
                self.audit.lose(batch)
                continue
            self.sync.enter(batch.worker)
            if found is None:
                self.differentiate(batch)
            elif found[k] is not self.model.arena.grad:
                self.model.arena.grad[...] = found[k]
            for hook in self.hooks:
                hook.after_gradient(self, batch.worker)
            self.sync.leave(batch.worker, self.count)
        sums = self.sync.exchange(self.count) if self.survival is None else self.survival.exchange(self)
        if sums is not None:
            self._require_no_fault(sums, batches)
            moved = sums if self.scaler is None else self.scaler.follow(sums, self.where(), self.notes)
            self.sync.update(self.count, moved)
            self.meter.add(sums)
        self.count += 1

    def run(self, epochs: int) -> dict[str, float]:
        """Train until this many epochs are done, those before a resume counted in, and return the last epoch's metrics."""
        self.comm.agree(epochs, "the number of epochs")
        try:
            for hook in self.hooks:
                hook.before_run(self, epochs)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is found and named by us
                while self.epoch < epochs:
                    self.pace.run_epoch(self)
                    self._close_epoch()
            self._all(self._finish)
        except BaseException:
            for hook in self.hooks:
                hook.after_failure(self)
            raise
        self._all(self._tell_end)
        return self.metrics

    def save(self) -> None:
        """Write a checkpoint, if the run saves at all and this step's is not already there."""
        if self.saving and self.saved_step != self.count:
            self.weights_sha256, self.saved_step = save(self, self.saving), self.count

    def save_on_the_way(self) -> None:
        """Write a checkpoint in the middle of an epoch, where one is due."""
        if self.saving and self.saving.every and self.count % self.saving.every == 0 and self.position < self.sampler.steps:
            self._all(self.save)

    def evaluate(self, data: ShardedDataset) -> dict[str, float]:
        """Return loss and metrics of the mean model over all rows of a data set, equal on all ranks."""
        self._require_no_fault(self.sync.consensus())
        return evaluate(judge_of(self), self.loss, data, self.nodes.order, self.workers)

    def close(self) -> None:
        """Give back shared memory, communicators and files; every rank calls it, and neither model nor trainer is used afterwards."""
        self.pace.close(self)
        if self.survival is None:  # else ranks may be gone that would have to give back too
            self.nodes.close()
        self.data.close()
        if self.test is not None:
            self.test.close()

    def where(self) -> str:
        """Return the position in words, for messages."""
        return f"epoch {self.epoch}, step {self.position}"

    def _all(self, block: Callable[[], None]) -> None:
        """Do what all ranks do together; again, without the lost ones, if some die meanwhile and the run survives that."""
        if self.survival is None:
            block()
        else:
            self.survival.attempt(self, block)

    def _finish(self) -> None:
        self.sync.consensus()
        self.save()

    def _tell_end(self) -> None:
        for hook in self.hooks:
            hook.after_run(self)

    def _close_epoch(self) -> None:
        self._all(self._end_epoch)
        for hook in self.hooks:
            hook.after_epoch(self, self.metrics)

    def _end_epoch(self) -> None:
        pending = self.sync.consensus()
        self._require_no_fault(pending)
        self.notes += self.audit.close(f"epoch {self.epoch}")
        seen = metrics(self.meter.close_epoch(pending), self.loss)
        if self.sync.losable:
            self.meter.add(pending)
            self.sync.take_tails()
        self.metrics = {f"train_{name}": value for name, value in seen.items()}
        judge = judge_of(self)
        if self.test is not None:
            judged = evaluate(judge, self.loss, self.test, self.nodes.order, self.workers)
            self.metrics |= {f"test_{name}": value for name, value in judged.items()}
        self.epoch, self.position = self.epoch + 1, 0
        self.save()

    def _together(self, batches: list[Batch], lockstep: Lockstep) -> list[Array]:
        """Return the gradients of all hosted workers, which meet in layers that sum over the workers."""
        self.sync.enter(batches[0].worker)  # all have the parameters of the first, and one alone writes where it sums
        return lockstep.run(batches, lambda seat, batch: self._differentiate(self._seats[seat], batch, ignore, late=False))

    def differentiate(self, batch: Batch, *, late: bool = False) -> None:
        """Leave in the arena what the differentiator makes of a worker's rows, zeros if late; keep the first fault for `run` to raise."""
        self._differentiate(self.differentiator, batch, self.sync.ready, late)

    def _differentiate(self, by: Differentiator, batch: Batch, ready: Ready, late: bool) -> None:
        left_out = batch.error is None and (late or self.sync.drops(batch.worker, self.count))
        used = self.audit.drop if left_out else self.audit.add
        fault = by.run(batch, self.count, self.where(), ready, used, left_out=left_out)
        self._fault = cause(self._fault, fault)

    def _require_no_fault(self, sums: np.ndarray, batches: Sequence[Batch] = ()) -> None:
        """Raise on every rank if any worker had a fault since the last exchange."""
        if not sums[Tail.FAULTS] and math.isfinite(sums[Tail.LOSS]):
            return
        for batch in batches if self.differentiator.late else ():  # parameters have not moved yet, so it is not too late to ask
            if not self.sync.drops(batch.worker, self.count):
                self._fault = self._fault or self.differentiator.explain(batch, self.count, self.where())
        if self.lockstep:  # what one worker made not finite, the sums brought to all
            first = np.array([place_of(self._fault)])
            self.comm.all_reduce(first, Op.MIN)
            self._fault = self._fault if place_of(self._fault) == first[0] else None
        self.comm.fail_together(self._fault)
        if self.scaler is not None and math.isfinite(sums[Tail.LOSS]):
            return  # no rank knows an error, so these are overflows
        raise everywhere(NumericsError(f"{self.where()}: the sum of the losses is {sums[Tail.LOSS]}; lower optimizer.rate"))
