"""What becomes of the mean of the models: a second optimizer, whose gradient is minus the mean drift.

Letters: a the anchor where all models began, d their mean drift from it, V workers. The plain average is SGD with rate 1: a - 1 (-d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hpcml.errors import ConfigError
from hpcml.optim import SGD, Rule


class Outer(Protocol):
    """Describes the step from one anchor to the next."""

    def at(self, workers: int) -> OuterRule:
        """Return the rule for a run of so many workers."""


@dataclass(frozen=True, slots=True)
class OuterRule:
    """Any rule as the outer optimizer: SGD(1.0) is the plain average; SGD(0.7, 0.9, nesterov=True) over AdamW is DiLoCo's.

    Args:
        rule: takes minus the mean drift as its gradient, once a meeting; its rate is asked for by the number of the meeting.
        resets: whether the workers' own optimizer state is zeroed at each meeting.
        paced: whether drift and rate are counted in units of the workers' own rate at that step, as SlowMo does.

    References:
        Douillard et al., DiLoCo: distributed low-communication training of language models, 2023.
    """

    rule: Rule
    resets: bool = False
    paced: bool = False

    def at(self, workers: int) -> OuterRule:
        """Return itself."""
        return self


AVERAGE = OuterRule(SGD(1.0))
"""All models become their mean."""


@dataclass(frozen=True, slots=True)
class BlockMomentum:
    """Blockwise model-update filtering (BMUF): D = momentum D + gain d; the model moves by D, the next start looks ahead by momentum D.

    Left out, the momentum is 1 - 1/V: the long-run gain, gain / (1 - momentum), is then V, as if the V workers' updates were added.

    References:
        Chen and Huo, Scalable training of deep learning machines by incremental block training with intra-block parallel
        optimization and blockwise model-update filtering, ICASSP 2016. In their notation W_g = W + momentum D; from one W_g to the next
        that is SGD with Nesterov momentum on -d.
    """

    momentum: float | None = None
    gain: float = 1.0
    nesterov: bool = True

    def __post_init__(self) -> None:
        """Refuse a momentum that would grow without end."""
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ConfigError(
                f"sync.outer_momentum is {self.momentum} with block-momentum; it must be 0 or more and below 1 (left out: 1 - 1/workers)"
            )

    def at(self, workers: int) -> OuterRule:
        """Return SGD with this momentum; with momentum 0 there is nothing to look ahead by."""
        momentum = 1 - 1 / workers if self.momentum is None else self.momentum
        return OuterRule(SGD(self.gain, momentum, nesterov=self.nesterov and momentum > 0), resets=True)


def slow_momentum(rate: float = 1.0, momentum: float = 0.5) -> OuterRule:
    """Return SlowMo: u = momentum u - d / r; the anchor moves by -rate r u, where r is the workers' own rate.

    References:
        Wang, Tantia, Ballas and Rabbat, SlowMo: improving communication-efficient distributed SGD with slow momentum, ICLR 2020.
    """
    return OuterRule(SGD(rate, momentum), paced=True)
