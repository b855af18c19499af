"""A parameter server as the user writes it: consistency, what workers do, where shards live; and where that puts everything.

Letters: V workers, S shards, P ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from hpcml.arrays import namespace
from hpcml.comm.communicator import everywhere
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena
from hpcml.optim import Rule
from hpcml.sync.nodes import Nodes
from hpcml.sync.server.consistency import TAP, Consistency
from hpcml.sync.server.letters import HEAD_BYTES
from hpcml.sync.server.programs import ElasticWorker, Gradients, Worker
from hpcml.sync.server.running import Running
from hpcml.sync.synchroniser import ExactTree, Sum


@dataclass(frozen=True, slots=True, repr=False)
class ParameterServer:
    """Let workers write to and read from shards of the parameters, each when it is ready, as far apart as the consistency allows.

    Args:
        consistency: BSP(), SSP(bound), ASP(threshold, bound), BAP() or TAP().
        worker: Gradients(), Downpour(fetch, push) or ElasticWorker(every, beta).
        servers: ranks that serve and do not compute; None: every rank does both, with as many shards as workers.
        groups: G groups of workers that add their gradients up, and are one writer each; 0: every worker writes for itself.
        spare: k workers that every clock closes without: the last k to come are too late, their rows dropped and counted; bsp alone.
        stealing: whether a worker whose rows of an epoch are used up, or that is held at the bound, takes over others'.
        compensation: lambda of DC-ASGD; 0 for none.
        warm: steps that worker 0 takes alone when the run begins.
        replay: the folder of a run whose recorded order of arrival this one follows; empty to go as it comes.

    References:
        Li et al., Scaling distributed machine learning with the parameter server, OSDI 2014; Dean et al., NIPS 2012.
    """

    consistency: Consistency = field(default_factory=TAP)
    worker: Worker = field(default_factory=Gradients)
    servers: int | None = None
    groups: int = 0
    spare: int = 0
    stealing: bool = False
    compensation: float = 0.0
    warm: int = 0
    replay: str = field(default="", repr=False)
    sum: Sum = field(default_factory=ExactTree, repr=False)

    def __post_init__(self) -> None:
        """Refuse what makes no sense together, with the nearest choice that does."""
        if self.groups and self.stealing:
            raise ConfigError(
                "workers of a group step together and cannot take over others' rows; set server.stealing = false, or server.groups = 0"
            )
        if self.servers is not None and self.servers < 1:
            text = f"server.ranks is {self.servers}; somebody must serve"
            raise ConfigError(f'{text}: give 1 or more, or "all" (servers=None): every rank both serves and computes')
        for key in ("groups", "warm", "compensation"):
            if getattr(self, key) < 0:
                raise ConfigError(f"server.{key} is {getattr(self, key)}; it is 0 or more")
        if self.spare < 0:
            raise ConfigError(f"sync.spare is {self.spare}; there are 0 or more backup workers")
        if self.spare and (not self.consistency.whole or self.consistency.threshold):
            raise ConfigError('a clock closes without its last workers only where all share clocks; set server.consistency = "bsp"')
        if self.spare and (self.stealing or self.groups):
            text = "backup workers drop rows that come too late, and race one by one"
            raise ConfigError(f"{text}; set server.stealing = false and server.groups = 0, or sync.spare = 0")
        if self.consistency.whole and not isinstance(self.worker, Gradients):
            text = (
                f'workers of sync.name = "{self.worker.name}" write at their own time, and server.consistency = "bsp" takes clock by clock'
            )
            raise ConfigError(f"{text}; set server.consistency to tap, bap or ssp")
        if self.consistency.threshold and not isinstance(self.worker, Gradients):
            text = 'the significance filter of server.consistency = "asp" is for workers that write every gradient'
            raise ConfigError(f"{text}; set server.consistency to tap, bap or ssp")
        if self.compensation and (self.consistency.whole or not isinstance(self.worker, Gradients)):
            raise ConfigError("delay compensation is for late gradients; leave server.compensation out, or choose tap, bap or ssp")
        if self.warm and self.consistency.whole:
            raise ConfigError("bsp needs no warm start: leave server.warm out, or choose tap, bap or ssp")
        bound = self.consistency.bound
        if self.warm and bound is not None and self.warm > bound + 1:
            # The others have clock 0 meanwhile: worker 0 would wait for them, and they for it.
            text = f"server.warm is {self.warm}, but with server.bound = {bound} the first worker can take {bound + 1} steps alone"
            near = f"set server.warm to {bound + 1} or less, server.bound to {self.warm - 1} or more"
            raise ConfigError(f"{text}; {near}, or choose tap or bap")

    def __repr__(self) -> str:
        """Return what decides the bits, in the words by which checkpoints and records know a run: no ranks that only serve are 0 there."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.repr} | {"servers": self.servers or 0}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def recorded(self) -> bool:
        """Whether the order of arrival decides anything, and is kept."""
        return not self.consistency.whole or self.stealing or self.spare > 0

    @property
    def helps(self) -> int | None:
        """The bound within which workers help each other, or None where they do not, or have no bound.

        Between regions they do not: what a helper writes is not filtered, and only a region's own bound would tell whom it may help.
        """
        helping = self.stealing and not self.consistency.whole and not self.consistency.regions and isinstance(self.worker, Gradients)
        return self.consistency.bound if helping else None

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Running:
        """Return the synchroniser of one run, with all its memory.

        Raises:
            ConfigError: on every rank, for a model, a rule or a number of workers that does not fit.
        """
        for problem in self._misfits(arena, workers, rule):
            raise everywhere(ConfigError(problem))
        return Running(self, arena, nodes, workers, rule)

    def _misfits(self, arena: Arena, workers: int, rule: Rule) -> Iterator[str]:
        if namespace(arena.data) is not np:
            yield 'a parameter server keeps its numbers in host memory; set run.device = "cpu", or choose every-step'
        if self.groups > workers:
            yield f"server.groups is {self.groups} for {workers} workers; each group needs one: set it to {workers} or fewer"
        if self.spare >= workers:
            text = f"sync.spare is {self.spare}; of {workers} workers at least one must count"
            yield f"{text}: give {workers - 1} or fewer"
        regions, shards = self.consistency.regions, self.servers or workers
        if regions > min(self.groups or workers, shards):
            text = f"server.regions is {regions} for {self.groups or workers} writers and {shards} shards"
            yield f"{text}; each region needs one of both: set it to {min(self.groups or workers, shards)} or fewer"
        if rule.looks and not isinstance(self.worker, ElasticWorker):
            text = "lars, lamb and optimizer.clip look at whole vectors, of which a shard sees a part"
            yield f"{text}; set optimizer.name to sgd, adagrad or adamw and optimizer.clip = 0.0, or choose another sync.name"
        size = -(-arena.n // (self.servers or workers))
        if HEAD_BYTES + size * arena.dtype.itemsize >= 1 << 31:
            yield f"a shard of {size:,} numbers does not fit into a letter of 2 GiB; set server.ranks to a larger number"
