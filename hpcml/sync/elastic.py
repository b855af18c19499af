"""Elastic averaging: models that explore on their own, tied to a centre by a spring; alone (EASGD) or in synchronous groups.

Letters: V workers in G groups, x a group's model, c the centre, b the moving rate, a = b / G.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hpcml.arrays import Array, namespace, spans
from hpcml.comm.alone import Alone
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule, norm
from hpcml.sync.conits import Conits, Measured, gather
from hpcml.sync.every_step import EveryStep
from hpcml.sync.model import SharedModel
from hpcml.sync.nodes import Nodes
from hpcml.sync.reducers import TreeSum
from hpcml.sync.synchroniser import Adopting, Arrays, ExactTree, Quiet, Sum, scaled


@dataclass(frozen=True, slots=True)
class Elastic:
    """Every `every` steps each group's model goes a (x - c) towards the centre, and the centre goes the sum of these towards them.

    So centre and models keep their sum, and the centre becomes (1 - b) c + b mean(x). Inside a group gradients are averaged at every
    step. One group is EveryStep; as many groups as workers are EASGD, with momentum EAMSGD. The centre is judged and saved.

    Args:
        every: steps between two meetings.
        groups: G; left out, V.
        moving: b, the part of the way that the centre goes to the models' mean.
        sum: how to sum inside groups and between them.
        losses: (step, group) pairs: from this step on the run goes on without the group, as a run did that lost it.
        survives: be ready to lose groups whose ranks die.

    References:
        Zhang, Choromanska and LeCun, Deep learning with elastic averaging SGD, NIPS 2015;
        Mamidala, Kollias, Ward and Artico, MXNET-MPI: embedding MPI parallelism in parameter server task model, 2018 (groups).
    """

    every: int
    groups: int | None = None
    moving: float = 0.9
    sum: Sum = field(default_factory=ExactTree)
    losses: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    survives: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a period below one step, no group, and a centre that would not move."""
        if self.every < 1:
            raise ConfigError(f"sync.every is {self.every}; groups can meet every 1 or more steps")
        if self.groups is not None and self.groups < 1:
            raise ConfigError(f"sync.groups is {self.groups}; there must be 1 or more (left out: one a worker)")
        if not self.moving > 0:
            raise ConfigError(f"sync.moving is {self.moving}; the centre must go some part of the way, such as 0.9")

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory.

        Raises:
            ConfigError: on every rank, for more groups than workers, or a moving rate at which centre and models swing apart.
        """
        groups = self.groups or workers
        if groups > workers:
            raise everywhere(ConfigError(f"sync.groups is {groups}, there are {workers} workers; give {workers} groups or fewer"))
        most = 2 / (1 + 1 / groups)
        if groups > 1 and self.moving >= most:
            text = f"sync.moving is {self.moving}; with {groups} groups centre and models swing apart from {most:.4g} on"
            raise everywhere(ConfigError(f"{text}; take 0.9, or anything below"))
        self._refuse_losses(groups)
        if groups == 1:
            return EveryStep(self.sum).start(arena, nodes, workers, rule)
        return _Running(self, arena, nodes, workers, groups, rule)

    def _refuse_losses(self, groups: int) -> None:
        """Refuse losses of groups that do not exist, of all, and a centre that the groups left could not hold."""
        named = {group for _, group in self.losses}
        if self.survives and groups == 1:
            raise everywhere(ConfigError("run.survive: there is one group, and nothing would be left; set sync.groups to 2 or more"))
        if not named and not self.survives:
            return
        if named and (len(named) < len(self.losses) or min(named) < 0 or max(named) >= groups or min(step for step, _ in self.losses) < 0):
            text = f"sync.losses is {[list(pair) for pair in self.losses]}, there are groups 0 to {groups - 1}"
            raise everywhere(ConfigError(f"{text}; name each lost group once, after the first step without it"))
        if len(named) == groups:
            raise everywhere(ConfigError(f"sync.losses names all {groups} groups; one must stay"))
        if self.moving >= LOSABLE:
            text = f"sync.moving is {self.moving}; with one group left centre and model would swing apart from {LOSABLE:g} on"
            raise everywhere(ConfigError(f"{text}; take 0.9, or anything below"))


LOSABLE = 1.0
"""The moving rate below which any number of groups, even one, stays with the centre: 2 / (1 + 1 / G) for G = 1."""


class _Group:
    """One group's model on one of its ranks, and the sums of its tails since the groups last met."""

    def __init__(self, comm: Communicator, runs: list[slice], plan: Elastic, arena: Arena, rule: Rule) -> None:
        self.comm, self.reducer = comm, plan.sum.among(comm, runs, arena)
        self.model = SharedModel(arena, rule, self.reducer)
        self.sums = np.zeros(len(Tail))
        self.told = runs[comm.rank].start == 0
        """Whether this rank speaks for the group: it hosts its first worker."""

    def step(self, step: int) -> None:
        """Move the group's model by its mean gradient, unless a worker had a fault or no row counted."""
        sums = self.reducer.finish()
        self.sums += sums
        if sums[Tail.WEIGHT] > 0 and not sums[Tail.FAULTS]:
            self.model.move(scaled(self.reducer.parts(), sums[Tail.WEIGHT]), step)
        self.reducer.settle()


class _Running(Quiet):
    def __init__(self, plan: Elastic, arena: Arena, nodes: Nodes, workers: int, groups: int, rule: Rule) -> None:
        self.arena, self.plan = arena, plan
        self.comm, self.cut, self.runs = nodes.order, dict(enumerate(spans(workers, groups))), spans(workers, nodes.order.size)
        hosted, cut = self.runs[self.comm.rank], self.cut
        self.groups = _host_groups(self.comm, workers, list(cut.values()), plan, arena, rule)
        self.group_of = {w: g for g in self.groups for w in range(max(cut[g].start, hosted.start), min(cut[g].stop, hosted.stop))}
        self.numbers = [number for number, group in cut.items() for _ in range(group.start, group.stop)]
        self.losses = {group: step for step, group in plan.losses}
        self._tie()
        self.centre, self.drift = arena.vector(), arena.vector()
        self.centre[:] = arena.data
        self.measured = {worker: Measured() for worker in self.group_of}
        arena.point(data=self.centre)

    def _tie(self) -> None:
        """Make the sums and the springs between the groups that there are."""
        self.pull = self.plan.moving / len(self.cut)
        tellers = _tellers(self.runs, list(self.cut.values()))
        self.between = self.plan.sum.among(self.comm, tellers, self.arena)
        self.tails = TreeSum(self.comm, len(self.cut), 0, len(Tail), np.float64, runs=tellers)

    def lost(self, worker: int, step: int) -> bool:
        return bool(self.losses) and self.losses.get(self.numbers[worker], step + 1) <= step

    def lose(self, losses: Iterable[tuple[int, int]]) -> None:
        """Go on without groups, each from a step on; one that is lost already is gone from the earlier step on."""
        for step, group in losses:
            self.losses[group] = min(step, self.losses.get(group, step))

    def part(self, step: int) -> None:
        """Let go of the groups that take no part from this step on; centre and other models stay as they are."""
        gone = [group for group in self.cut if self.losses.get(group, step + 1) <= step]
        if gone:
            for group in gone:
                del self.cut[group]
                self.groups.pop(group, None)
            self.measured = {worker: each for worker, each in self.measured.items() if self.group_of[worker] in self.groups}
            self.group_of = {worker: group for worker, group in self.group_of.items() if group in self.groups}
            self._tie()

    @property
    def losable(self) -> bool:
        return self.plan.survives or bool(self.losses)

    def insides(self) -> list[Communicator]:
        """Return the communicators inside the groups that this rank shares with others."""
        return [group.comm for group in self.groups.values() if group.comm.size > 1]

    def go_on(self, comm: Communicator, runs: list[slice], losses: Iterable[tuple[int, int]], step: int) -> None:
        """Go on among the ranks that are left, before this step or at its meeting; every one of them calls it.

        Args:
            comm: the ranks that are left.
            runs: the workers that each of them hosts, as before.
            losses: (step, group) pairs, as `lose` takes them.
            step: the run's step.
        """
        self.comm, self.runs = comm, runs
        self.lose(losses)
        self.part(step)
        self._tie()

    def take_tails(self) -> None:
        """Note that the tails since the last meeting, as `consensus` gave them, are counted: no later meeting brings them again."""
        for group in self.groups.values():
            group.sums.fill(0)

    def enter(self, worker: int) -> None:
        group = self.groups[self.group_of[worker]]
        self.arena.point(data=group.model.data, grad=group.reducer.buffer())

    def leave(self, worker: int, step: int) -> None:
        self.groups[self.group_of[worker]].reducer.add()
        self.measured[worker].add_step()

    def meets(self, step: int) -> bool:
        """Return whether the groups meet after this step."""
        return (step + 1) % self.plan.every == 0

    def exchange(self, step: int) -> np.ndarray | None:
        self.move(step)
        return self.meet() if self.meets(step) else None

    def move(self, step: int) -> None:
        """Let each group take its step, which the others do not wait for."""
        if self.losses:
            self.part(step)
        for group in self.groups.values():
            group.step(step)

    def update(self, step: int, sums: np.ndarray) -> None:
        for group in self.groups.values():
            self._find_drift(group)
            self.drift *= self.pull
            group.model.data -= self.drift
            group.sums.fill(0)
        for part, total in self.between.parts():
            total *= self.pull
            self.centre[part] += total
        for measured in self.measured.values():
            measured.meet()

    def consensus(self) -> np.ndarray:
        for group in self.groups.values():
            if group.told:
                self.tails.buffer()[:] = group.sums
                self.tails.add()
        self.arena.point(data=self.centre)
        return self.tails.finish()

    def adopt(self, data: Array, slots: Array) -> None:
        self.centre[:] = data
        for group in self.groups.values():
            group.model.adopt(data, slots)

    def _find_drift(self, group: _Group) -> None:
        namespace(self.drift).subtract(group.model.data, self.centre, out=self.drift)

    def meet(self) -> np.ndarray:
        """Sum all groups' drifts from the centre, and return the sums of their tails."""
        n = self.arena.n
        for number, group in self.groups.items():
            self._find_drift(group)
            distance = norm(self.drift)
            for worker, of in self.group_of.items():
                if of == number:
                    self.measured[worker].add_distance(distance)
            if group.told:
                vector = self.between.buffer()
                vector[:n] = self.drift
                vector[n:] = self.arena.device.place(group.sums)
                self.between.add()
        return self.between.finish()

    def conits(self) -> Conits:
        distances = []
        for group in self.groups.values():
            self._find_drift(group)
            distances.append(norm(self.drift))
        return gather(list(self.measured.values()), self.comm, distances)

    def shared_state(self) -> Arrays:
        return {"centre": self.centre}

    def worker_state(self, worker: int) -> Arrays:
        """Return the group's state as this worker's: any of its workers may be the first that another rank hosts."""
        group = self.groups[self.group_of[worker]]
        mine = {"conits": self.measured[worker].numbers}
        return {"data": group.model.data, "slots": group.model.slots, "sums": group.sums, **mine}


def _host_groups(comm: Communicator, workers: int, cut: list[slice], plan: Elastic, arena: Arena, rule: Rule) -> dict[int, _Group]:
    """Return the groups that have a worker here, each with the communicator of its ranks; every rank calls it."""
    runs = spans(workers, comm.size)
    found = {}
    for number, group in enumerate(cut):
        ranks = [rank for rank, run in enumerate(runs) if run.start < group.stop and run.stop > group.start]
        inside = comm.split(0 if comm.rank in ranks else 1) if len(ranks) > 1 else Alone()
        if comm.rank in ranks:
            local = [slice(max(runs[r].start, group.start) - group.start, min(runs[r].stop, group.stop) - group.start) for r in ranks]
            found[number] = _Group(inside, local, plan, arena, rule)
    return found


def _tellers(runs: list[slice], cut: list[slice]) -> list[slice]:
    """Return for each rank, which hosts a run of workers, the groups whose first worker it hosts: a run, perhaps empty."""
    firsts = [group.start for group in cut]
    edges = [*(sum(first < run.start for first in firsts) for run in runs), len(firsts)]
    return [slice(a, b) for a, b in pairwise(edges)]
