"""Helping within a bound, model-checked: the shards, workers and desk of a run, over links that deliver in random order.

Lane l adds one to entry l of every shard at each of its ticks, so a worker's copy tells which ticks it has seen.
Letters: V workers, S shards, s the bound, T steps.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque

import numpy as np
import pytest

from hpcml.nn.arena import Tail
from hpcml.optim import SGD
from hpcml.sync.server import SSP
from hpcml.sync.server.client import Client
from hpcml.sync.server.dealing import DESK, Dealing
from hpcml.sync.server.gate import LiveGate
from hpcml.sync.server.letters import Field, Kind, head
from hpcml.sync.server.programs import Gradients
from hpcml.sync.server.shard import Shard
from hpcml.sync.server.tables import RuleUpdater, Table
from hpcml.sync.server.teams import Team


class Memory:
    """The arena of a worker: V entries a shard."""

    def __init__(self, n):
        self.n, self.dtype, self.grad = n, np.dtype(np.float64), np.zeros(n + len(Tail))

    def point(self, data=None, grad=None):
        self.data = data


class Box:
    """Buffers of the letters."""

    def __init__(self, size):
        self.size = size

    def buffer(self, nbytes):
        return np.zeros(nbytes, np.uint8)

    def give_back(self, letter):
        pass


class Link:
    """A rank's post: letters of one urgency from one rank to another keep their order, and no others do."""

    def __init__(self, rank, links, size):
        self.rank, self.links, self.mail = rank, links, Box(size)

    def send(self, to, letter, urgency=0):
        self.links[self.rank, to, urgency].append(letter)


class World:
    """V ranks of a worker each; the first S hold a shard each, rank 0 is the desk."""

    def __init__(self, seed, workers, shards, steps, bound):
        self.random, self.links, self.steps, self.bound = random.Random(seed), defaultdict(deque), steps, bound
        self.done, self.lost = [], []
        n, spans = workers * shards, [slice(s * workers, (s + 1) * workers) for s in range(shards)]
        self.memories = [Memory(n) for _ in range(workers)]
        posts = [Link(rank, self.links, workers) for rank in range(workers)]
        teams = [Team(range(w, w + 1), w, list(range(workers)), self.memories[w], posts[w]) for w in range(workers)]
        self.clients = [
            Client(w, self.memories[w], spans, list(range(shards)), posts[w], 1.0, w, teams[w], [False] * shards, bound)
            for w in range(workers)
        ]
        self.shards = [self._shard(number, posts[number]) for number in range(shards)]
        self.dealings = [Dealing(post, workers, steps, True) for post in posts]
        worker = Gradients()
        following = [lambda client, d=d: client.helper.following(d) for d in self.dealings]
        programs = [worker.run(c, self, f, SSP(bound), SGD(rate=1.0)) for c, f in zip(self.clients, following, strict=True)]
        self.waiting = {w: (program, lambda: True) for w, program in enumerate(programs)}
        self.weights = [self.random.choice([0.02, 1.0, 1.0]) for _ in programs]

    def _shard(self, number, post):
        workers = len(self.memories)
        data = np.zeros(workers)
        updater = RuleUpdater(SGD(rate=1.0), data, workers, workers, 0.0)
        gate = LiveGate(SSP(self.bound), workers, helping=True)
        return Shard(number, Table(data, updater, workers, False), gate, post.mail, post.send)

    def compute(self, worker, portion):
        """Be the trainer: a gradient that ticks the lane, and the law of what its author has read."""
        client, (lane, step) = self.clients[worker], portion
        seen = -client.view.reshape(len(self.shards), -1)
        if seen.min() < (client.clock if lane == worker else step) - self.bound:
            self.lost.append(portion)
        self.done.append((worker, lane, step))
        grad = self.memories[worker].grad
        grad[:] = 0
        grad[lane : client.arena.n : len(self.clients)] = 1
        grad[client.arena.n + Tail.WEIGHT] = 1

    def run(self, stopped=None):
        """Deliver letters and let workers go on, at random, until nothing can; a stopped worker's rank only takes letters."""
        while True:
            links = [key for key, link in self.links.items() if link]
            able = [w for w, (_, condition) in self.waiting.items() if w != stopped and condition()]
            if not links and not able:
                return
            weights = [1.0] * len(links) + [self.weights[w] for w in able]
            chosen = self.random.choices([*links, *able], weights)[0]
            if isinstance(chosen, tuple):
                self._take(chosen[0], chosen[1], self.links[chosen].popleft())
                continue
            program, _ = self.waiting.pop(chosen)
            condition = next(program, None)
            if condition is not None:
                self.waiting[chosen] = program, condition

    def _take(self, source, rank, letter):
        fields = head(letter)
        kind, worker = Kind(fields[Field.KIND]), int(fields[Field.WORKER])
        if kind is Kind.TICKET:
            assert rank == DESK
            self.dealings[DESK].answer(source, worker, int(fields[Field.CLOCK]))
        elif kind is Kind.PORTION:
            self.dealings[rank].hand(self.clients[rank].lane, fields)
        elif kind is Kind.VIEW:
            self.clients[worker].deliver(letter)
        elif kind is Kind.SIGHT:
            self.clients[worker].helper.deliver(letter)
        elif kind is Kind.HELD:
            self.clients[worker].helper.held = True
        else:
            self.shards[int(fields[Field.SHARD])].take(source, letter)


@pytest.mark.parametrize("bound", [1, 2, 3, 5])
@pytest.mark.parametrize("shards", [1, 2])
def test_in_1250_schedules_each_nothing_older_than_the_bound_is_read_every_portion_done_once_and_all_end(bound, shards):
    helped, widest = 0, 0
    for seed in range(1250):
        workers, steps = 2 + seed % 3, 3 + seed % 4
        world = World(seed, workers, shards, steps, bound)
        world.run()
        assert not world.waiting, f"seed {seed}: {sorted(world.waiting)} wait for ever"
        assert not world.lost, f"seed {seed}: {world.lost} read too early"
        assert sorted((lane, step) for _, lane, step in world.done) == [(w, t) for w in range(workers) for t in range(steps)], seed
        for shard in world.shards:
            np.testing.assert_array_equal(shard.table.data, -steps)
            assert shard.gate.clocks == [steps] * workers
            widest = max(widest, *shard.measures.gaps)
        helped += sum(worker != lane for worker, lane, _ in world.done)
    assert helped > 1250  # else the law would have been tried on nothing
    assert widest == bound


@pytest.mark.parametrize("bound", [1, 3])
def test_a_worker_that_stops_keeps_no_more_than_two_portions_from_being_done(bound):
    for seed in range(300):
        workers, steps = 2 + seed % 3, 12
        world = World(seed, workers, 1, steps, bound)
        stopped = seed % workers
        world.run(stopped)
        left = {(w, t) for w in range(workers) for t in range(steps)} - {(lane, step) for _, lane, step in world.done}
        assert len(left) <= 2
        assert all(lane == stopped for lane, _ in left)
        world.run()
        assert not world.waiting
        assert len(world.done) == workers * steps
