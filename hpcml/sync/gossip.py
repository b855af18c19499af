"""Decentralised averaging in rounds: nobody sums over all workers, each mixes its model with its neighbours'."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.comm.communicator import everywhere
from hpcml.comm.topologies import Topology, require_mixing
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena
from hpcml.optim import Rule, norm
from hpcml.sync.conits import Conits
from hpcml.sync.neighbours import Mixer
from hpcml.sync.nodes import Nodes
from hpcml.sync.replicas import Replicas
from hpcml.sync.synchroniser import Adopting, Arrays, ExactTree, Quiet, Sum, divide


@dataclass(frozen=True, slots=True)
class Gossip:
    """Let each worker step on its own model and mix it with its neighbours' every so many steps; all workers count alike.

    Args:
        topology: who mixes with whom, such as topologies.RING.
        every: steps between two rounds.
        earlier: mix the models as they were after the last round and add the steps since, as D-PSGD does: a round needs nothing of
            the step that it follows.
        pushed: push-sum: the topology's columns sum to 1 but its rows need not, as on directed graphs; a worker's model is what came
            to it divided by the weight that came.
        sum: how the mean is taken that is judged and saved; training itself sums nothing.

    References:
        Lian et al., Can decentralized algorithms outperform centralized algorithms? (D-PSGD), NeurIPS 2017;
        Assran, Loizou, Ballas and Rabbat, Stochastic gradient push for distributed deep learning, ICML 2019.
    """

    topology: Topology
    every: int = 1
    earlier: bool = False
    pushed: bool = False
    sum: Sum = field(default_factory=ExactTree)

    def __post_init__(self) -> None:
        """Refuse a period below one step, and two forms at once."""
        if self.every < 1:
            raise ConfigError(f"sync.every is {self.every}; models can be mixed every 1 or more steps")
        if self.earlier and self.pushed:
            raise ConfigError("push-sum divides by the weight that came with a model, so it cannot mix earlier ones; leave one out")

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory.

        Raises:
            ConfigError: on every rank, if models mixed over this topology do not find their mean.
        """
        try:
            require_mixing(self.topology, workers, columns_only=self.pushed)
        except ConfigError as error:
            raise everywhere(error) from None
        return _Running(self, arena, nodes, workers, rule)


class _Running(Quiet):
    """Letters: V workers. Worker i's model is its vector divided by shares[i]; but for push-sum that is 1."""

    def __init__(self, plan: Gossip, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> None:
        self.arena, self.every, self.earlier, self.pushed = arena, plan.every, plan.earlier, plan.pushed
        self.reducer = plan.sum.reducer(nodes, workers, arena, vectors=1)
        self.replicas = Replicas(arena, nodes, workers, rule)
        self.mixer = Mixer(nodes.order, workers, plan.topology, arena.vector)
        hosted = self.replicas.hosted
        self.next = {worker: arena.vector() for worker in hosted}
        # What a round mixes beside the models: those after the last round, or for push-sum the models times their shares.
        self.beside = {worker: arena.vector() for worker in hosted} if plan.earlier or plan.pushed else {}
        self.mean, self.workers = self.reducer.vector(), workers
        self.shares, self.rounds = np.ones(workers), np.zeros(1, np.int64)
        self.news = np.zeros((workers, workers), np.int32)
        self._remember()
        self.reducer.settle()

    def enter(self, worker: int) -> None:
        self.replicas.enter(worker)

    def leave(self, worker: int, step: int) -> None:
        if self.pushed:
            self._step_of_push_sum(worker, step)
        else:
            self.replicas.step(worker, step, int(self.news[worker].max()))

    def _step_of_push_sum(self, worker: int, step: int) -> None:
        """Take the step of a model on its vector: the gradient was found at the model, the step is not divided."""
        model, vector = self.replicas[worker].data, self.beside[worker]
        self.next[worker][:] = model
        self.replicas.step(worker, step, int(self.news[worker].max()))
        namespace(model).subtract(model, self.next[worker], out=self.next[worker])
        vector += self.next[worker]

    def exchange(self, step: int) -> None:
        """Mix, if this step calls for it; nothing is summed over all workers, so their tails wait for `consensus`."""
        due = (step + 1) % self.every == 0
        if due and self.earlier:
            self._hear()  # of what was known before this period's steps
        self.news += 1
        np.fill_diagonal(self.news, 0)
        if not due:
            return
        if not self.earlier:
            self._hear()
        models = {worker: self.replicas[worker].data for worker in self.replicas.hosted}
        self.mixer.mix(int(self.rounds[0]), self.beside or models, self.next)
        for worker, mixed in self.next.items():
            self._finish(worker, mixed)
        if self.pushed:
            rows = self.mixer.rows(int(self.rounds[0]))
            self.shares[:] = [sum(weight * self.shares[other] for other, weight in row) for row in rows]
        self.rounds += 1

    def _finish(self, worker: int, mixed: Array) -> None:
        """Make what was mixed this worker's model, and measure how far that moved it: the mean is known at an epoch's end only."""
        replica = self.replicas[worker]
        if self.earlier:
            mixed += replica.data
            mixed -= self.beside[worker]
            self.beside[worker][:] = mixed
        elif self.pushed:
            self.beside[worker][:] = mixed
            rows = self.mixer.rows(int(self.rounds[0]))
            mixed *= mixed.dtype.type(1.0 / sum(weight * self.shares[other] for other, weight in rows[worker]))
        namespace(mixed).subtract(replica.data, mixed, out=replica.data)
        replica.measured.add_distance(norm(replica.data))
        replica.measured.meet()
        replica.data[:] = mixed

    def _hear(self) -> None:
        """Let each worker know what the newest of its neighbours knows."""
        rows = self.mixer.rows(int(self.rounds[0]))
        self.news[:] = [self.news[[worker, *(other for other, _ in row)]].min(axis=0) for worker, row in enumerate(rows)]

    def update(self, step: int, sums: np.ndarray) -> None:
        """Do nothing: a round changes models while it exchanges them."""

    def consensus(self) -> np.ndarray:
        for worker in self.replicas.hosted:
            vector = self.reducer.buffer()
            vector[: self.arena.n] = self.beside[worker] if self.pushed else self.replicas[worker].data
            vector[self.arena.n :] = 0
            self.reducer.add()
        self.reducer.finish()
        for part, total in self.reducer.parts():
            divide(total, self.workers)
            self.mean[part] = total
        self.reducer.settle()
        self._measure()
        self.arena.point(data=self.mean)
        return self.replicas.sum_tails()

    def _measure(self) -> None:
        """Measure how far each model is from the mean: neighbours may agree while those far away do not, and a round then moves little."""
        for worker, apart in self.next.items():
            replica = self.replicas[worker]
            namespace(apart).subtract(replica.data, self.mean[: self.arena.n], out=apart)
            replica.measured.add_distance(norm(apart))

    def adopt(self, data: Array, slots: Array) -> None:
        self.replicas.adopt(data, slots)
        self._remember()

    def _remember(self) -> None:
        for worker, vector in self.beside.items():
            vector[:] = self.replicas[worker].data

    def settle(self) -> None:
        self.reducer.settle()

    def conits(self) -> Conits:
        return self.replicas.conits()

    def shared_state(self) -> Arrays:
        return {"rounds": self.rounds, "news": self.news, "shares": self.shares}

    def worker_state(self, worker: int) -> Arrays:
        beside = {"beside": self.beside[worker]} if self.beside else {}
        return {**self.replicas.state(worker), **beside}
