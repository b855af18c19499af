"""What a worker of a parameter server does with its gradients: three ways, as frozen descriptions that write a client's program.

Letters: n parameters, V workers, k rule states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpcml.arrays import Array
from hpcml.errors import ConfigError
from hpcml.optim import Rule, Scratch, apply_whole, rate_at
from hpcml.sync.server.client import Client, Program, Work, always
from hpcml.sync.server.consistency import Consistency
from hpcml.sync.server.dealing import Dealt
from hpcml.sync.server.filter import significant
from hpcml.sync.server.letters import Kind, note, sparse, sparse_is_smaller, write_head
from hpcml.sync.server.shard import CHANGES, EMPTY, WHOLE
from hpcml.sync.server.tables import Elastic, RuleUpdater, Updater

Next = Callable[[Client], Dealt]
"""Yields until the client's next portion is known, and returns it, or None at the end of its work."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Write every gradient, and go on from the parameters that the answers bring."""

    name: ClassVar[str] = "parameter-server"
    own_model: ClassVar[bool] = False

    def trips(self, before: int, after: int) -> float:
        """Return how often all parameters travel, there or back, while a worker's steps go from `before` to `after`."""
        return 2.0 * (after - before)

    def run(self, client: Client, work: Work, following: Next, consistency: Consistency, rule: Rule) -> Program:
        """Yield through one epoch of a worker."""
        while (portion := (yield from following(client))) is not None:
            helper = None if portion[0] == client.worker else client.helper
            yield from client.collect(consistency.awaits) if helper is None else helper.read(portion)
            rows = yield from client.learn(work, portion)
            if not consistency.whole:
                client.scale(rows)
            if helper is not None:
                helper.write(portion[0])
            elif consistency.threshold:
                _write_significant(client, consistency, rate_at(rule, client.total - 1), rows)
            else:
                _write_all(client, rows)
            yield always
        yield from _settle(client)

    def updater(self, rule: Rule, like: Array, trained: int, workers: int, compensation: float) -> Updater:
        """Return what a write does to a shard: a step of the rule."""
        return RuleUpdater(rule, like, trained, workers, compensation)


def _write_all(client: Client, rows: float) -> None:
    """Write the gradient to every shard that has answered, with what is owed to it; owe it to the others."""
    for shard, span in enumerate(client.spans):
        grad = client.grad[span]
        if shard in client.open:
            client.owed[span] += grad
            client.owes.add(shard)
            continue
        if shard in client.owes:
            grad += client.owed[span]
            client.owed[span] = 0
            client.owes.discard(shard)
        client.write(shard, grad, rows)


def _write_significant(client: Client, consistency: Consistency, rate: float, rows: float) -> None:
    """Write the entries whose owed update is significant, and keep the others; to shards of the worker's own region write all."""
    owed = client.owed
    owed += client.grad[: client.arena.n]
    # Where whole sums are written, a sum over rows is 1 / (V rows) of a step; elsewhere it was scaled already.
    scale = rate * (client.share / rows if consistency.whole and rows else 1.0)
    for shard, span in enumerate(client.spans):
        if consistency.regions and not client.slow[shard]:
            client.write(shard, owed[span], rows, CHANGES)
            owed[span] = 0
            continue
        where = significant(owed[span], client.view[span], scale, consistency.threshold, client.total)
        if sparse_is_smaller(len(where), span.stop - span.start, owed.dtype):
            client.post.send(client.homes[shard], note(client.post.mail, Kind.COMING, client.unit, shard), -1)
            letter = sparse(client.post.mail, where, owed[span][where])
            write_head(letter, Kind.WRITE, client.unit, shard, client.clocks[shard], count=len(where))
            client.send_write(shard, letter, rows, CHANGES)
        else:
            kept = np.ones(span.stop - span.start, bool)
            kept[where] = False
            client.write(shard, np.where(kept, owed.dtype.type(0), owed[span]), rows, CHANGES)
        owed[span][where] = 0


def _settle(client: Client) -> Program:
    """Wait for all answers, write what is owed, wait again, and leave."""
    yield from client.collect(True)
    for shard in sorted(client.owes):
        client.write(shard, client.owed[client.spans[shard]], 0.0)
        client.owed[client.spans[shard]] = 0
    client.owes.clear()
    yield from client.collect(True)
    client.leave()


@dataclass(frozen=True, slots=True)
class Downpour:
    """Step on a copy of one's own; write the sum of `push` gradients, and read every `fetch` steps.

    Args:
        fetch: steps between two reads.
        push: steps between two writes.

    References:
        Dean et al., Large scale distributed deep networks, NIPS 2012, algorithm 4.1.
    """

    name: ClassVar[str] = "downpour"
    own_model: ClassVar[bool] = False
    fetch: int = 1
    push: int = 1

    def __post_init__(self) -> None:
        """Refuse periods below one step."""
        if self.fetch < 1 or self.push < 1:
            raise ConfigError(f"server.fetch is {self.fetch} and server.push {self.push}; both count steps, 1 or more")

    def trips(self, before: int, after: int) -> float:
        """Return how often all parameters travel, there or back, while a worker's steps go from `before` to `after`."""
        return (after - before) * (1 / self.push + 1 / self.fetch)

    def run(self, client: Client, work: Work, following: Next, consistency: Consistency, rule: Rule) -> Program:
        """Yield through one epoch of a worker."""
        step, n = 0, client.arena.n
        while (portion := (yield from following(client))) is not None:
            yield from client.collect(consistency.awaits)
            rows = yield from client.learn(work, portion)
            client.scale(rows)
            grad = client.grad[:n]
            client.owed += grad
            client.owes.update(range(len(client.spans)))
            # The worker sees its own step at once, as the server will make it of V such shares.
            trained = client.arena.trained
            grad[:trained] *= grad.dtype.type(rate_at(rule, client.total - 1))
            grad *= grad.dtype.type(1 / client.share)
            client.view -= grad
            step += 1
            if step % self.push == 0:
                _write_owed(client, WHOLE if step % self.fetch == 0 else EMPTY)
            elif step % self.fetch == 0:
                _ask_free(client)
            yield always
        yield from _settle(client)

    def updater(self, rule: Rule, like: Array, trained: int, workers: int, compensation: float) -> Updater:
        """Return what a write does to a shard: a step of the rule."""
        return RuleUpdater(rule, like, trained, workers, compensation)


def _write_owed(client: Client, answer: int) -> None:
    for shard, span in enumerate(client.spans):
        if shard not in client.open:
            client.write(shard, client.owed[span], 0.0, answer)
            client.owed[span] = 0
            client.owes.discard(shard)


def _ask_free(client: Client) -> None:
    client.ask(shard for shard in range(len(client.spans)) if shard not in client.open)


@dataclass(frozen=True, slots=True)
class ElasticWorker:
    """Step on a model of one's own with the run's rule; every `every` steps it and the server's centre are drawn together.

    Args:
        every: steps between two draws.
        beta: sum of the workers' pulls on the centre; alpha = beta / V.

    References:
        Zhang, Choromanska and LeCun, Deep learning with elastic averaging SGD, NIPS 2015, algorithm 1.
    """

    name: ClassVar[str] = "async-easgd"
    own_model: ClassVar[bool] = True
    every: int = 8
    beta: float = 0.9

    def __post_init__(self) -> None:
        """Refuse what cannot be stable."""
        if self.every < 1 or not 0 < self.beta <= 1:
            raise ConfigError(f"sync.every is {self.every} and server.beta {self.beta}; expected 1 or more steps, and 0 < beta <= 1")

    def trips(self, before: int, after: int) -> float:
        """Return how often all parameters travel, there or back, while a worker's steps go from `before` to `after`."""
        return 2.0 * (after // self.every - before // self.every)

    def run(self, client: Client, work: Work, following: Next, consistency: Consistency, rule: Rule) -> Program:
        """Yield through one epoch of a worker."""
        scratch, n = Scratch(client.view, client.arena.parts(), client.arena.trained), client.arena.n
        while (portion := (yield from following(client))) is not None:
            rows = yield from client.learn(work, portion)
            grad = client.grad[:n]
            client.scale(rows * client.share)
            if rows:
                apply_whole(rule, client.view, grad, client.slots, client.total - 1, scratch)
            if client.total % self.every == 0:
                for shard, span in enumerate(client.spans):
                    client.write(shard, client.view[span], 0.0)
                # The answer is this worker's model moved: without it there is nothing to go on from.
                yield from client.collect(True)
            yield always
        client.leave()

    def updater(self, rule: Rule, like: Array, trained: int, workers: int, compensation: float) -> Updater:
        """Return what a write does to a shard: it and the writer are drawn together."""
        return Elastic(self.beta / workers, like)


def follow(client: Client, work: Work, following: Next) -> Program:
    """Yield through one epoch of a member: the leader's parameters in, the gradient out."""
    while True:
        yield lambda: bool(client.team.models)
        if not client.team.receive(client.view):
            return
        portion = yield from following(client)
        assert portion is not None, "all lanes of an epoch have as many portions"
        rows = client.compute(work, portion)
        client.team.report(client.grad[: client.arena.n], rows)


Worker = Gradients | Downpour | ElasticWorker
"""What workers do."""
