"""What the end of an epoch proves: every row was used exactly once, and which shards a quarantine leaves out from now on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hpcml.arrays import span
from hpcml.comm.communicator import Communicator, Op, everywhere
from hpcml.data import Batch, Loader, ShardedDataset
from hpcml.data.ledger import Ledger, mix, to_plain, verdict
from hpcml.data.portions import Portions
from hpcml.errors import DataError


class Audit:
    """The ledger of one rank, and its meeting with the others' at the end of each epoch.

    Args:
        data: the training rows.
        loader: where batches come from; its `dead` shards are set here.
        comm: all ranks.
    """

    def __init__(self, data: ShardedDataset, loader: Loader | Portions, comm: Communicator) -> None:
        own = span(data.rows, comm.size, comm.rank)
        self._data, self._loader, self._comm, self._ledger = data, loader, comm, Ledger(own.start, own.stop)
        self._broken: set[int] = set()
        self._base: dict[str, str] | None = None
        self.last: dict[str, Any] = {}

    def add(self, batch: Batch) -> None:
        """Enter the rows of a batch that was used."""
        self._ledger.add(batch.ids, len(batch.rows), batch.left_out)

    def drop(self, batch: Batch) -> None:
        """Enter the rows of a batch whose worker came too late to count."""
        self._ledger.add(0, 0, batch.left_out, (batch.ids, len(batch.rows)))

    def withdraw(self, batch: Batch) -> None:
        """Enter the rows of a batch that was used as too late after all: its worker's gradient came when others had closed the step."""
        self._ledger.add(-batch.ids, -len(batch.rows), late=(batch.ids, len(batch.rows)))

    def lose(self, batch: Batch) -> None:
        """Enter the rows of a batch whose worker is gone."""
        self._ledger.lose(batch.ids, len(batch.rows))

    def memory(self) -> tuple[dict[str, str], dict[str, str] | None]:
        """Return what `put_back` takes to undo what came after."""
        return self._ledger.plain(), self._base

    def put_back(self, memory: tuple[dict[str, str], dict[str, str] | None]) -> None:
        """Go back to what `memory` kept, on this rank alone."""
        mine, self._base = memory
        self._ledger.restore(mine)

    def go_on(self, comm: Communicator, first_gone: bool, used: np.ndarray, lost: np.ndarray) -> None:
        """Go on among the ranks that are left; the first of them takes over the books of those that are gone.

        Args:
            comm: the ranks that are left.
            first_gone: whether the rank is gone that had taken over what a checkpoint said.
            used: the rows that ranks which are gone had used, (n,) int64.
            lost: the rows that were dealt to their workers and that nobody uses.
        """
        own = span(self._data.rows, comm.size, comm.rank)
        self._comm = comm
        self._ledger.share(own.start, own.stop)
        if comm.rank == 0:
            if first_gone and self._base:
                self._ledger.take(self._base)
            self._ledger.add(int(mix(used).sum()), len(used))
            self._ledger.lose(int(mix(lost).sum()), len(lost))

    def close(self, where: str) -> list[str]:
        """Judge the epoch that ends, on every rank, tell the data of its end, and return what there is to say of shards left out.

        Raises:
            DataError: on every rank, if the rows used are not all rows exactly once, a file changed while they were read,
            or a quarantine leaves no shard to go on with.
        """
        total = self._ledger.vector()
        self._comm.all_reduce(total)
        try:
            self.last = verdict(total, self._data.rows, where)
        except DataError as error:
            raise everywhere(error) from None
        self._ledger.reset()
        # An open file is trusted for a second: what changed in the last one before the epoch's end is found here.
        with self._comm.together():
            self._data.refuse_changed()
        self._base = None
        self._data.end_epoch()
        return self._bury(where) if self._loader.quarantine else []

    def state(self) -> dict[str, Any]:
        """Return plain values that restore the audit on any number of ranks; every rank calls this together."""
        total = self._ledger.vector()
        self._comm.all_reduce(total)
        broken = self._agreed_broken() if self._loader.quarantine else []
        return {"ledger": to_plain(total), "broken": broken, "dead": sorted(self._loader.dead)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state: rank 0 takes over the sums of all."""
        self._base = saved["ledger"]
        self._ledger.restore(self._base if self._comm.rank == 0 else None)
        self._broken, self._loader.dead = set(saved["broken"]), frozenset(saved["dead"])

    def _agreed_broken(self) -> list[int]:
        """Return the shards that any rank found broken in this epoch."""
        flags = np.zeros(len(self._data.index.shards), np.uint8)
        flags[[*self._broken, *self._loader.broken]] = 1
        self._comm.all_reduce(flags, Op.MAX)
        return np.flatnonzero(flags).tolist()

    def _bury(self, where: str) -> list[str]:
        """Leave the broken shards out from the next epoch on."""
        broken = self._agreed_broken()
        texts = self._comm.all_gather_bytes(json.dumps(sorted(self._loader.broken.items())).encode())
        # The least of all workers' reasons, whoever hosts them: the note is the same for any number of ranks.
        told = sorted(reason for text in texts for reason in json.loads(text))
        self._loader.dead, self._broken = self._loader.dead | frozenset(broken), set()
        left_out = self.last["rows_left_out"]
        if len(self._loader.dead) == len(self._data.index.shards):
            reason = f" ({told[0][1].splitlines()[0]})" if told else ""
            raise everywhere(DataError(f"{where}: no shard is left that can be read{reason}; write or copy the shards again"))
        names = ", ".join(self._data.index.shards[shard].path for shard in broken)
        why = told[0][1].splitlines()[0] if told else "found before this start"
        return [f"{where}: {left_out:,} rows could not be read and were left out; from now on without {names} ({why})"] if broken else []
