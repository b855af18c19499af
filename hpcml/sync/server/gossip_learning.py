"""Gossip learning: models walk from worker to worker at random, merge where they meet, and learn from each worker's rows.

No server, no rounds, no waiting: a worker merges what has come, takes a step, and sends its model to somebody, unless that one has not
taken the last yet. Letters: n parameters, V workers, k rule states.

References:
    Ormandi, Hegedus and Jelasity, Gossip learning with linear models on fully distributed data, 2013 (CreateModelMU).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hpcml.arrays import namespace
from hpcml.comm.communicator import everywhere
from hpcml.errors import ConfigError
from hpcml.nn.arena import Arena
from hpcml.optim import Rule
from hpcml.sync.ensemble import COMBINES, Combine
from hpcml.sync.nodes import Nodes
from hpcml.sync.server.walking import Walking
from hpcml.sync.synchroniser import ExactTree, Sum


@dataclass(frozen=True, slots=True)
class GossipLearning:
    """Let models walk between workers, each of which merges those that come with the last one it saw, and trains them on its rows.

    Args:
        seed: of the walks.
        replay: the folder of a run whose recorded order of arrival this one follows; empty to go as it comes.
        cache: the last models made by each worker that all predict together; 0: the mean of all workers' models predicts.
        combine: how they do, all weighing alike.
        stealing: whether a worker whose rows of an epoch are used up takes over those of the lane of which fewest were dealt.
    """

    servers: ClassVar[int | None] = None
    recorded: ClassVar[bool] = True
    seed: int = 0
    replay: str = field(default="", repr=False)
    sum: Sum = field(default_factory=ExactTree, repr=False)
    cache: int = 0
    combine: Combine = COMBINES["vote"]
    # Who took which portion stands in the record: a run stays the same run without this.
    stealing: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.cache < 0:
            raise ConfigError(f"server.cache is {self.cache}; it is the number of models that each worker keeps, 0 or more")
        if self.combine.weigh is not None:
            raise ConfigError(
                f'sync.combine = "{self.combine.name}" weighs members by their rows, which models that walk have not; '
                'choose "vote" or "mean"'
            )

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Walking:
        """Return the synchroniser of one run, with all its memory.

        Raises:
            ConfigError: on every rank, for a model or a number of workers that does not fit.
        """
        for problem in _misfits(arena, workers):
            raise everywhere(ConfigError(problem))
        return Walking(self, arena, nodes, workers, rule)


def _misfits(arena: Arena, workers: int) -> Iterator[str]:
    if namespace(arena.data) is not np:
        yield 'models that walk lie in host memory; set run.device = "cpu", or choose sync.name = "gossip"'
    if workers < 2:
        yield "gossip learning needs somebody to talk to: set train.virtual_workers to 2 or more, or choose every-step"
