"""When workers with models of their own meet: descriptions, and what a run keeps of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hpcml.errors import ConfigError
from hpcml.nn.arena import Tail


class Meetings(Protocol):
    """Says at which steps the workers meet."""

    def is_due(self, step: int, state: np.ndarray) -> bool:
        """Return whether the workers meet after this step, counted from 0."""

    def note(self, step: int, sums: np.ndarray, state: np.ndarray) -> None:
        """Overwrite state (STATE,) float64, zero at first, after a meeting that brought these sums of tails."""


STATE = 3
"""Numbers that a run keeps for its meetings: equal on all ranks, and in every checkpoint."""


@dataclass(frozen=True, slots=True)
class Every:
    """Meet every so many steps."""

    steps: int

    def __post_init__(self) -> None:
        """Refuse a period below one step."""
        if self.steps < 1:
            raise ConfigError(f"sync.every is {self.steps}; models can be averaged every 1 or more steps")

    def is_due(self, step: int, state: np.ndarray) -> bool:
        """Return whether the workers meet after this step."""
        return (step + 1) % self.steps == 0

    def note(self, step: int, sums: np.ndarray, state: np.ndarray) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Once:
    """Never meet in the run: the mean that a run ends with is the only one (one-shot averaging).

    References:
        Zinkevich, Weimer, Smola and Li, Parallelized stochastic gradient descent, NIPS 2010.
    """

    def is_due(self, step: int, state: np.ndarray) -> bool:
        """Return False."""
        return False

    def note(self, step: int, sums: np.ndarray, state: np.ndarray) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Meet every `steps` steps at first and more often as the loss falls: the next period is ceil(sqrt(loss / first loss) steps).

    The losses are those of the rows used between two meetings; a period is at least 1 and at most `steps`.

    References:
        Wang and Joshi, Adaptive communication strategies to achieve the best error-runtime trade-off in local-update SGD, MLSys 2019.
    """

    steps: int

    def __post_init__(self) -> None:
        """Refuse a period below one step."""
        Every(self.steps)

    def is_due(self, step: int, state: np.ndarray) -> bool:
        """Return whether the period that the last meeting chose ends after this step."""
        return step + 1 >= (state[_NEXT] or self.steps)

    def note(self, step: int, sums: np.ndarray, state: np.ndarray) -> None:
        """Keep the first loss, and choose the next period by this one."""
        if sums[Tail.WEIGHT] > 0:
            loss = float(sums[Tail.LOSS] / sums[Tail.WEIGHT])
            state[_FIRST] = state[_FIRST] or loss
            share = math.sqrt(max(loss, 0.0) / state[_FIRST]) if loss < state[_FIRST] else 1.0
            state[_PERIOD] = min(max(math.ceil(share * self.steps), 1), self.steps)
        state[_NEXT] = step + 1 + (state[_PERIOD] or self.steps)


_NEXT, _PERIOD, _FIRST = range(STATE)
