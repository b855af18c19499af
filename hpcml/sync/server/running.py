"""One rank of a parameter server in a run: its shards, its workers, its letters.

Letters: n parameters, V workers, S shards, k rule states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml.arrays import aligned, spans
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule
from hpcml.sync.conits import Conits
from hpcml.sync.nodes import Nodes
from hpcml.sync.server.client import Client, Program, Work
from hpcml.sync.server.consistency import far, regions_of
from hpcml.sync.server.dealing import Dealing, Dealt
from hpcml.sync.server.ending import Ending, drive
from hpcml.sync.server.gate import Gate, LiveGate, RaceGate, ReplayGate
from hpcml.sync.server.gathering import gather_measures, gather_record, gather_sums
from hpcml.sync.server.letters import Field, Kind, head
from hpcml.sync.server.measures import Measures
from hpcml.sync.server.placement import Placement
from hpcml.sync.server.post import Post
from hpcml.sync.server.programs import follow
from hpcml.sync.server.racing import Racing
from hpcml.sync.server.record import Record
from hpcml.sync.server.shard import Shard
from hpcml.sync.server.tables import Table
from hpcml.sync.server.teams import Team
from hpcml.sync.synchroniser import Arrays, Quiet

if TYPE_CHECKING:
    from hpcml.sync.server.plan import ParameterServer


class Running(Quiet):
    """The synchroniser of one run with a parameter server: epochs instead of steps are what all ranks do together."""

    def __init__(self, plan: ParameterServer, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.plan, self.arena, self.rule, self.workers, self._comm = plan, arena, rule, workers, nodes.order
        rank, place = self._comm.rank, Placement.of(plan.servers, workers, self._comm.size)
        self.place, self.spans = place, spans(arena.n, plan.servers or workers)
        self.groups = [range(run.start, run.stop) for run in spans(workers, plan.groups or workers)]
        regions = plan.consistency.regions
        self._far = far(regions_of(len(self.groups), regions or 1), regions_of(len(self.spans), regions or 1))
        self._formula = 0.0
        self.mean = arena.vector()
        self.mean[:] = arena.data
        self._own_grad, self._epochs, self._stale = arena.grad, 0, False
        mail = self._comm.mail()
        self.post = Post(mail, self._take, self._comm.threaded and self._comm.size > 1)
        whole = plan.consistency.whole
        self.shards = {s: self._shard(s, whole) for s in range(place.shards[rank].start, place.shards[rank].stop)}
        self.clients = {w: self._client(w) for w in range(place.workers[rank].start, place.workers[rank].stop)}
        self._leaders = {client.unit: client for client in self.clients.values() if client.team.leads}
        self.record = Record()
        self.measured: dict[str, Any] = {}
        self.measures = Measures()
        self._slots = aligned((0 if plan.worker.own_model else rule.slots, arena.n), arena.dtype)
        self._writes, self._sums = np.zeros(len(self.spans), np.int64), np.zeros(len(Tail))
        arena.point(data=self.mean)

    def _shard(self, number: int, whole: bool) -> Shard:
        span, plan = self.spans[number], self.plan
        size = span.stop - span.start
        trained = min(max(self.arena.trained - span.start, 0), size)
        writers = len(self.groups)
        updater = plan.worker.updater(self.rule, self.mean[span], trained, writers, plan.compensation)
        table = Table(self.mean[span], updater, writers, whole)
        slow = [row[number] for row in self._far]
        return Shard(number, table, self._gate(number, None, 0), self.post.mail, self._send, slow)

    def _client(self, worker: int) -> Client:
        unit = next(number for number, run in enumerate(self.groups) if worker in run)
        team = Team(self.groups[unit], worker, self.place.desks(), self.arena, self.post)
        share, slow = 1.0 / len(self.groups), self._far[unit]
        client = Client(worker, self.arena, self.spans, self.place.homes(), self.post, share, unit, team, slow, self.plan.helps)
        client.view[:] = self.arena.data
        client.slots = aligned((self.rule.slots if self.plan.worker.own_model else 0, self.arena.n), self.arena.dtype)
        return client

    def _gate(self, number: int, record: Record | None, steps: int) -> Gate:
        if self.plan.spare:
            return RaceGate(self.workers, self.workers - self.plan.spare)
        if record is not None:
            return ReplayGate(record.events(number, len(self.groups)), len(self.groups))
        # Who helps does not leave: an epoch shorter than the warm start would wait for ever.
        warm = 0 if self._epochs else min(self.plan.warm, steps)
        return LiveGate(self.plan.consistency, len(self.groups), warm, helping=self.plan.helps is not None)

    def ready(self, span: slice) -> None:
        """Do nothing: a gradient is written when it is whole."""

    def run_epoch(self, work: Work, record: Record | None = None) -> None:
        """Let all workers use up the portions of an epoch; every rank calls it.

        Args:
            work: what computes gradients.
            record: an arrival order to follow; left out, workers and shards go as they can, and `record` tells how.
        """
        self._begin(work, record)
        self.post.begin()
        try:
            programs = [self._program(client, work) for client in self.clients.values()]
            drive(self.post, programs)
            self._ending.meet()
        except BaseException:
            self.post.stop()
            raise
        self.post.finish()
        self._epochs += 1
        self._stale = True
        self._gather_record(work.steps)

    def _begin(self, work: Work, record: Record | None) -> None:
        self._ending = Ending(self.post)
        script = None if record is None else {worker: record.portions[worker] for worker in self.clients}
        self._racing = Racing(self.post, work.steps, self.workers - self.plan.spare, script)
        self._dealing = Dealing(self.post, self.workers, work.steps, self.plan.stealing)
        for number, shard in self.shards.items():
            shard.begin(self._gate(number, record, work.steps))
        for worker, client in self.clients.items():
            client.begin(record.seen.get(worker, []) if record else [], record.portions[worker] if record else None)
            if not self.plan.worker.own_model:
                client.view[:] = self.mean

    def _program(self, client: Client, work: Work) -> Program:
        plan = self.plan
        following = self._following
        if not client.team.leads:
            yield from follow(client, work, following)
            return
        if plan.spare:
            yield from self._racing.run(client, work)
            return
        if plan.warm and client.unit and not self._epochs:
            client.ask(range(len(self.spans)))
            yield from client.collect(True)
        # Who writes alone has nobody's pace to be free of: going on without its own answers would only make it late.
        consistency = plan.consistency if len(self.groups) > 1 else replace(plan.consistency, awaits=True)
        yield from plan.worker.run(client, work, following, consistency, self.rule)

    def _following(self, client: Client) -> Dealt:
        """Yield until a worker's next portion is known, and return it, or None at the end of its work."""
        return self._dealing.following(client.lane) if client.helper is None else client.helper.following(self._dealing)

    def _send(self, to: int, letter: np.ndarray, urgency: int = 0) -> None:
        self.post.send(to, letter, urgency)

    def _take(self, source: int, letter: np.ndarray) -> None:
        """Do what a letter wants; called where the letters are taken."""
        fields = head(letter)
        kind, worker = Kind(fields[Field.KIND]), int(fields[Field.WORKER])
        if kind in (Kind.WRITE, Kind.ASK, Kind.COMING, Kind.LEFT, Kind.LOOK, Kind.HELP):
            self.shards[int(fields[Field.SHARD])].take(source, letter)
            return
        if kind is Kind.VIEW:
            self._leaders[worker].deliver(letter)
            return
        if kind in (Kind.GRADIENT, Kind.MODEL):
            self.clients[worker].team.deliver(letter)
            return
        helper = self._leaders[worker].helper if kind in (Kind.SIGHT, Kind.HELD) else None
        if helper is not None and kind is Kind.SIGHT:
            helper.deliver(letter)
            return
        if helper is not None:
            helper.held = True
        elif kind is Kind.TICKET:
            self._dealing.answer(source, worker, int(fields[Field.CLOCK]))
        elif kind is Kind.PORTION:
            self._dealing.hand(self.clients[worker].lane, fields)
        elif kind is Kind.CLAIM:
            self._racing.answer(source, worker, int(fields[Field.CLOCK]))
        elif kind is Kind.VERDICT:
            self._racing.hear(worker, fields)
        elif kind is Kind.STOP:
            for client in self.clients.values():
                client.stop()
        else:
            self._ending.take(kind, source, fields)
        self.post.mail.give_back(letter)

    def _gather_record(self, steps: int) -> None:
        """Make the record of the epoch, and the measures so far, known on every rank."""
        mine = Record(
            {number: shard.log for number, shard in self.shards.items()},
            {worker: client.seen for worker, client in self.clients.items()},
            {worker: client.lane.taken for worker, client in self.clients.items()},
        )
        self.record = gather_record(self._comm, mine)
        counted = [*(shard.measures for shard in self.shards.values()), *(client.measures for client in self.clients.values())]
        self._formula += sum(self._traffic(client, steps) for client in self.clients.values())
        self.measures, self.measured = gather_measures(self._comm, self.post, counted, self._formula)

    def _traffic(self, client: Client, steps: int) -> float:
        """Return the bytes that an epoch of a worker costs between ranks by the survey's formula: all numbers there and back."""
        rank, size, taken = self._comm.rank, self.arena.dtype.itemsize, len(client.lane.taken)
        if not client.team.leads:
            return 2.0 * taken * size * self.arena.n * (self.place.desks()[client.team.run.start] != rank)
        away = sum(span.stop - span.start for span, home in zip(self.spans, self.place.homes(), strict=True) if home != rank)
        # With spare workers those who count write, and everybody reads each clock.
        trips = taken + steps if self.plan.spare else self.plan.worker.trips(client.total - taken, client.total)
        return trips * size * away

    def conits(self) -> Conits:
        """Return how far the workers' copies were apart, as measured in this start."""
        return self.measures.conits()

    def consensus(self) -> np.ndarray:
        """Point the arena at the shards' parameters, and return the sums of all workers' tails since the run began."""
        if self._stale:
            self._spread()
            self._stale = False
        self.arena.point(data=self.mean, grad=self._own_grad)
        return self._sums.copy()

    def _spread(self) -> None:
        """Give every rank all shards' numbers and all workers' sums."""
        for number, (span, home) in enumerate(zip(self.spans, self.place.homes(), strict=True)):
            part = self.mean[span]
            if number in self.shards:
                part[:] = self.shards[number].table.data
            self._comm.broadcast(part, home)
        self._sums = gather_sums(self._comm, self.workers, {worker: client.sums for worker, client in self.clients.items()})

    def shared_state(self) -> Arrays:
        """Return parameters, the rule's states and the numbers of writes, brought together; every rank calls it."""
        for number, (span, home) in enumerate(zip(self.spans, self.place.homes(), strict=True)):
            part, count = np.ascontiguousarray(self._slots[:, span]), self._writes[number : number + 1]
            if number in self.shards:
                part[:], count[0] = self.shards[number].table.slots, self.shards[number].table.writes
            self._comm.broadcast(part, home)
            self._comm.broadcast(count, home)
            self._slots[:, span] = part
        return {"weights": self.mean, "slots": self._slots, "writes": self._writes}

    def settle(self) -> None:
        """Take what was restored into the shards; the next epoch begins there."""
        for number, shard in self.shards.items():
            span = self.spans[number]
            shard.table.data[:], shard.table.slots[:] = self.mean[span], self._slots[:, span]
            shard.table.writes = int(self._writes[number])
        self._epochs, self._stale = 1, True

    def worker_state(self, worker: int) -> Arrays:
        """Return a hosted worker's copy, what it owes, its states and its sums."""
        return self.clients[worker].state()

    def close(self) -> None:
        """Give back the letter box; every rank calls it."""
        self.post.mail.close()
