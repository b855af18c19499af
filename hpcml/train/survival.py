"""A run that goes on when a group of workers is lost: what is done by all, or not at all, and done again without the lost.

Everything that all ranks do together is an attempt: it counts when all that are left agree that it is done. If a rank has died, the ranks
of its groups leave, what the attempt had changed is put back, and it is made again. So a lost group is gone from the last agreement on:
centre and other models are as they would be in a run that was told so by sync.losses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml.comm.communicator import everywhere, name_ranks
from hpcml.errors import ConfigError
from hpcml.sync import Elastic
from hpcml.watch.survivors import Survivors, crews_of

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


def survives(sync: Any) -> bool:
    """Return whether a description of a synchroniser asks for a run that goes on when ranks die."""
    return isinstance(sync, Elastic) and sync.survives


class Survival:
    """Keeps one trainer going; its synchroniser is elastic averaging in groups."""

    def __init__(self, trainer: Trainer) -> None:
        """Refuse where ranks cannot be lost; every rank calls it, once the trainer is whole."""
        if trainer.model.arena.device.index is not None:
            raise everywhere(ConfigError('run.survive: ranks can be lost where models live in host memory; set run.device to "cpu"'))
        sync = trainer.sync
        self._runs = list(sync.runs)
        self._groups = [sorted({sync.numbers[worker] for worker in range(run.start, run.stop)}) for run in self._runs]
        self._survivors = Survivors(trainer.comm, crews_of(self._groups))
        self._begun = trainer.epoch, trainer.position
        self._agreed, self._graves = trainer.count, list[Any]()

    def exchange(self, trainer: Trainer) -> np.ndarray | None:
        """Do what the synchroniser's `exchange` does: each group moves by itself, and if they meet all of them agree that they have."""
        sync, step, sums = trainer.sync, trainer.count, list[np.ndarray]()
        try:
            sync.move(step)
        except Exception as error:
            if not self._survivors.is_loss(error):
                raise
            for comm in sync.insides():
                self._survivors.revoke(comm)
            self._survivors.agree(False)
            self._survivors.shrink()  # from which a rank whose own group is broken does not return
            raise
        if not sync.meets(step):
            return None
        self._attempt(trainer, lambda: sums.append(sync.meet()))
        self._agreed = step + 1
        return sums[-1]

    def attempt(self, trainer: Trainer, block: Callable[[], Any]) -> None:
        """Run a block of operations of all ranks, again and again until all ranks that are left agree that it is done."""
        self._attempt(trainer, block)
        self._agreed = trainer.count

    def _attempt(self, trainer: Trainer, block: Callable[[], Any]) -> None:
        while True:
            before = _remember(trainer)
            done = True
            try:
                block()
            except Exception as error:
                if not self._survivors.is_loss(error):
                    raise
                done = False
            if self._survivors.agree(done):
                return
            _put_back(trainer, before)
            self._go_on(trainer)

    def _go_on(self, trainer: Trainer) -> None:
        """Go on with the ranks that are left, and say who is not."""
        sync, survivors = trainer.sync, self._survivors
        gone = survivors.shrink()
        groups = sorted({group for rank in gone for group in self._groups[rank]})
        self._graves.append((sync.between, sync.tails))  # a request of a dead communicator may still point into their memory
        trainer.comm = trainer.nodes.order = survivors.comm
        trainer.hosts = [survivors.hosts[rank] for rank in survivors.ranks]
        runs, losses = [self._runs[rank] for rank in survivors.ranks], [(self._agreed, group) for group in groups]
        sync.go_on(survivors.comm, runs, losses, trainer.count)
        used, lost = self._rows_of(trainer, gone)
        trainer.audit.go_on(survivors.comm, 0 in gone, used, lost)
        text = (
            f"{name_ranks(gone)} on {', '.join(sorted({survivors.hosts[rank] for rank in gone}))} lost, with group"
            f" {', '.join(map(str, groups))}, which is gone from step {self._agreed} on; noticed in {trainer.where()}:"
            f" {len(lost):,} rows of this epoch are lost; {name_ranks(survivors.ranks)} go on with {len(sync.cut)} of the groups"
        )
        trainer.notes.append(text)
        if trainer.comm.rank == 0:
            sys.stderr.write(f"hpcml: {text}\n")
            sys.stderr.flush()

    def _rows_of(self, trainer: Trainer, gone: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of this epoch that ranks which are gone had used before their groups were, and those that nobody uses now.

        Their ledgers went with them; but what was dealt to whom is known, and up to the last agreement it was used.
        """
        pace: Any = trainer.pace
        sampler, dealt, epoch = pace.sampler, pace.dealt, trainer.epoch
        begun = self._begun[1] if self._begun[0] == epoch else 0
        used, lost = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for worker in (worker for rank in gone for worker in range(self._runs[rank].start, self._runs[rank].stop) if worker in dealt):
            for step in range(begun, sampler.steps):
                past = trainer.sync.lost(worker, epoch * sampler.steps + step)
                (lost if past else used).append(sampler.rows_of(epoch, dealt.index(worker), step))
        return np.concatenate(used), np.concatenate(lost)


def _remember(trainer: Trainer) -> dict[str, Any]:
    """Return copies of what an attempt may change before all agree: a few numbers, no parameters."""
    sums = {number: group.sums.copy() for number, group in trainer.sync.groups.items()}
    simple = {name: getattr(trainer, name) for name in ("epoch", "position", "metrics", "weights_sha256", "saved_step")}
    return {"sums": sums, "simple": simple, "meter": trainer.meter.state(), "ledger": trainer.audit.memory(), "notes": len(trainer.notes)}


def _put_back(trainer: Trainer, before: dict[str, Any]) -> None:
    for number, group in trainer.sync.groups.items():
        group.sums[:] = before["sums"][number]
    for name, value in before["simple"].items():
        setattr(trainer, name, value)
    trainer.meter.restore(before["meter"])
    trainer.audit.put_back(before["ledger"])
    del trainer.notes[before["notes"] :]
