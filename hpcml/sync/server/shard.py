"""One shard of a parameter server: letters in, the gate's order, a table, letters out.

It waits for nothing and knows no ranks but those of the letters; whoever takes the mail hands them in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcml.comm.mail import Mail
from hpcml.sync.server.gate import Act, Gate, LiveGate, ReplayGate
from hpcml.sync.server.letters import (
    DENSE,
    HEAD_BYTES,
    Field,
    Kind,
    body,
    dense,
    head,
    note,
    positions,
    sparse,
    sparse_is_smaller,
    weight,
    write_head,
)
from hpcml.sync.server.measures import Measures
from hpcml.sync.server.tables import Elastic, RuleUpdater, Table

Send = Callable[[int, np.ndarray, int], None]
"""Posts (rank, letter, urgency)."""

EMPTY, WHOLE, CHANGES, ROWS = 0, 1, 2, 3
"""What an answer holds: nothing, all numbers, what changed since the last answer where that is smaller, or the rows that were named."""


class Shard:
    """Serves one span of the parameters to all workers.

    Args:
        number: of the shard.
        table: its numbers.
        gate: the order of service in the coming epoch.
        mail: for buffers.
        send: posts an answer.
        slow: whether the link to each writer is, since it lies in another region; left out, none is.
    """

    def __init__(self, number: int, table: Table, gate: Gate, mail: Mail, send: Send, slow: list[bool] | None = None) -> None:
        self.number, self.table, self._mail, self._send = number, table, mail, send
        self.measures, self._slow = Measures(), slow or [False] * table.workers
        self.begin(gate)

    def begin(self, gate: Gate) -> None:
        """Start an epoch: all workers hold the parameters as they are."""
        workers = self.table.workers
        self.gate, self.log = gate, list[int]()
        self._written: dict[int, np.ndarray] = {}
        self._asking: dict[int, tuple[int, int, int, np.ndarray | None]] = {}
        self._helped: dict[int, np.ndarray] = {}
        self._looking: dict[int, tuple[int, int]] = {}
        self._told: set[int] = set()
        self._read = [self.table.writes] * workers
        self._latest = 0
        updater = self.table.updater
        if isinstance(updater, RuleUpdater) and updater.compensation:
            updater.read[:] = self.table.data

    def take(self, source: int, letter: np.ndarray) -> None:
        """Take a letter from a rank, and do all that it makes possible."""
        fields = head(letter)
        kind, worker = Kind(fields[Field.KIND]), int(fields[Field.WORKER])
        answer, urgency = int(fields[Field.ANSWER]), int(fields[Field.EXTRA])
        if kind is Kind.WRITE:
            if self.gate.push(worker, int(fields[Field.CLOCK])):
                self._written[worker] = letter
                self._asking[worker] = source, answer, urgency, None
                self.gate.pull(worker)
            else:
                self.measures.refused += 1
                self._mail.give_back(letter)
        elif kind is Kind.ASK:
            rows = positions(letter)
            self._asking[worker] = source, answer, urgency, None if rows is None else rows.copy()
            self.gate.pull(worker, int(fields[Field.CLOCK]))
            self._mail.give_back(letter)
        elif kind in (Kind.HELP, Kind.LOOK):
            self._take_helper(source, kind, letter)
        else:
            if kind is Kind.LEFT:
                self.gate.leave(worker)
            else:
                self.gate.announce(worker)
            self._mail.give_back(letter)
        self._serve()

    def _take_helper(self, source: int, kind: Kind, letter: np.ndarray) -> None:
        """Take a letter from a worker that does another's work."""
        gate, fields = self.gate, head(letter)
        worker, clock = int(fields[Field.WORKER]), int(fields[Field.CLOCK])
        assert isinstance(gate, LiveGate | ReplayGate), "spare workers drop what is late: nobody does it for them"
        if kind is Kind.HELP and gate.help(worker, clock, int(fields[Field.EXTRA])):
            self._helped[worker] = letter
            return
        if kind is Kind.LOOK:
            self._looking[worker] = source, int(fields[Field.EXTRA])
            gate.look(worker, clock)
        self._mail.give_back(letter)

    def _serve(self) -> None:
        for act, worker in self.gate.ready():
            self.log.append(int(act) * self.table.workers + worker)
            if act is Act.PUSH:
                self._write(worker)
            elif act is Act.APPLY:
                self.table.apply()
            elif act is Act.PULL:
                self._answer(worker)
            elif act is Act.HELP:
                self._help(worker)
            elif act is Act.LOOK:
                self._show(worker)
        if isinstance(self.gate, LiveGate):
            for worker in self.gate.held():
                if worker not in self._told:
                    self._told.add(worker)
                    self._send(self._asking[worker][0], note(self._mail, Kind.HELD, worker), self.number)

    def _help(self, worker: int) -> None:
        """Take what a worker wrote in another's lane."""
        letter = self._helped.pop(worker)
        self._count(worker, int(head(letter)[Field.EXTRA]))
        self.table.write(worker, body(letter, self.table.data.dtype), 0.0)
        self._mail.give_back(letter)

    def _show(self, worker: int) -> None:
        """Give a worker that will help the parameters; its last write in its own lane waits for its answer."""
        source, step = self._looking.pop(worker)
        self.measures.take_read(max(0, step - min(self.gate.clocks)))
        letter = self._view(worker, WHOLE, None)
        write_head(letter, Kind.SIGHT, worker, self.number, extra=self.table.writes)
        self._read[worker] = self.table.writes
        self._send(source, letter, self.number)

    def _count(self, worker: int, lane: int) -> None:
        """Measure a write of a worker in a lane, its own or another's."""
        clock = self.gate.clocks[lane]
        # In a clock's sum the order is fixed: there, what others write in the same clock is not missed.
        self.measures.take_write(self.table.writes - self._read[worker], clock, self._latest)
        self._latest = max(self._latest, clock)

    def _write(self, worker: int) -> None:
        letter = self._written[worker]
        self._count(worker, worker)
        rows = positions(letter)
        self.table.write(worker, body(letter, self.table.data.dtype), float(weight(letter)[0]), rows)
        if not isinstance(self.table.updater, Elastic):
            self._mail.give_back(self._written.pop(worker))

    def _answer(self, worker: int) -> None:
        source, wanted, urgency, rows = self._asking.pop(worker)
        self._told.discard(worker)
        clocks = self.gate.clocks
        self.measures.take_read(max(0, clocks[worker] - min(clocks)))
        letter = self._written.pop(worker, None)
        count = DENSE
        if letter is None:
            letter = self._view(worker, wanted, rows)
            count = int(head(letter)[Field.COUNT])
        write_head(letter, Kind.VIEW, worker, self.number, clocks[worker], count=count, extra=self.table.writes)
        head(letter)[Field.ANSWER] = wanted
        self.measures.between += self._slow[worker] * (letter.size - HEAD_BYTES)
        self._read[worker] = self.table.writes
        self._send(source, letter, urgency)

    def _view(self, worker: int, wanted: int, rows: np.ndarray | None) -> np.ndarray:
        """Return a letter with what the worker wanted; its COUNT is right."""
        table = self.table
        if wanted == EMPTY:
            return note(self._mail, Kind.VIEW, worker)
        if wanted == ROWS and rows is not None:
            letter = dense(self._mail, rows.size * table.width, table.data.dtype)
            table.gather(rows, letter[HEAD_BYTES:].view(table.data.dtype))
            head(letter)[Field.COUNT] = -1
            if isinstance(table.updater, RuleUpdater) and table.updater.compensation:
                flat = table.flat(rows)
                table.updater.read[worker, flat] = table.data[flat]
            return letter
        if wanted == CHANGES:
            changed = table.rows_since(self._read[worker])
            if sparse_is_smaller(len(changed), len(table.data), table.data.dtype):
                letter = sparse(self._mail, changed, table.data[changed])
                head(letter)[Field.COUNT] = len(changed)
                return letter
        letter = dense(self._mail, len(table.data), table.data.dtype)
        letter[HEAD_BYTES:].view(table.data.dtype)[:] = table.data
        head(letter)[Field.COUNT] = DENSE
        if isinstance(table.updater, RuleUpdater) and table.updater.compensation:
            table.updater.read[worker] = table.data
        return letter
