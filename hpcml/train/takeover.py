"""A run whose ranks die and whose workers are taken over: it goes on from its last checkpoint among the ranks that are left.

Workers belong to the run, ranks to the machine. A checkpoint has every shard of a server, the rule's states and each worker's own copy,
and any number of ranks may go on from it. So no group is lost, nor any row: what was done since the last epoch's end is done again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpcml.comm.communicator import Communicator, name_ranks
from hpcml.sync.server import OwnPacePlan
from hpcml.watch.survivors import Survivors

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer

Again = Callable[[Communicator], "Trainer"]
"""Makes the trainer anew, among the ranks of a communicator, from the run's newest checkpoint."""


class Takeover:
    """Runs a trainer to its end; where workers may be taken over, it begins anew from the last checkpoint each time that a rank dies.

    Args:
        trainer: as it was made first.
        again: makes it anew.
        survive: whether the run is to go on when ranks die. What steps together has no use for this: its trainer does so itself.

    Raises:
        ConfigError: on every rank, where this MPI ends all ranks when one dies.
    """

    def __init__(self, trainer: Trainer, again: Again, *, survive: bool) -> None:
        self.trainer, self._again = trainer, again
        alone = not survive or not isinstance(trainer.plan, OwnPacePlan) or trainer.comm.size == 1
        self._survivors = None if alone else Survivors(trainer.comm, range(trainer.comm.size))
        self._graves: list[object] = []

    def run(self, epochs: int) -> dict[str, float]:
        """Do what the trainer's `run` does; `trainer` is then the one that came to the end."""
        survivors, lost = self._survivors, ""
        if survivors is None:
            return self.trainer.run(epochs)
        while True:
            done, metrics = True, dict[str, float]()
            try:
                if lost:
                    self.trainer = self._again(survivors.comm)
                    self.trainer.notes.append(lost)
                metrics = self.trainer.run(epochs)
            except Exception as error:
                if not survivors.is_loss(error):
                    raise
                done = False
                survivors.revoke_all()
            if survivors.agree(done):
                return metrics
            # A request of a dead communicator may still point into the memory of what used it.
            self._graves.append(self.trainer)
            lost = self._go_on(survivors)

    def _go_on(self, survivors: Survivors) -> str:
        """Go on with the ranks that are left, and say who is not."""
        where, gone = self.trainer.where(), survivors.shrink()
        hosts = ", ".join(sorted({survivors.hosts[rank] for rank in gone}))
        text = (
            f"{name_ranks(gone)} on {hosts} lost, noticed in {where}; their workers are taken over"
            f" by {name_ranks(survivors.ranks)}, which go on from the last checkpoint"
        )
        if survivors.comm.rank == 0:
            sys.stderr.write(f"hpcml: {text}\n")
            sys.stderr.flush()
        return text
