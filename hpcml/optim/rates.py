"""Learning rates as pure functions of the step, counted from 0.

A rate is called with the number of a step and returns a float. They compose: ``Warmup(Cosine(0.4, steps=1000), steps=50)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Rate(ABC):
    """A learning rate for every step."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the rate of this step."""


@dataclass(frozen=True, slots=True)
class Constant(Rate):
    """The same rate at every step."""

    value: float

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        return self.value


@dataclass(frozen=True, slots=True)
class Steps(Rate):
    """A rate multiplied by `factor` after every `every` steps."""

    value: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        return self.value * self.factor ** (step // self.every)


@dataclass(frozen=True, slots=True)
class Cosine(Rate):
    """Half a cosine from `value` at step 0 down to `floor` at step `steps`, and `floor` from there on.

    References:
        Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017 (one period).
    """

    value: float
    steps: int
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        done = min(step / self.steps, 1.0)
        return self.floor + (self.value - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class Warmup(Rate):
    """A rate that climbs in a straight line over its first `steps` steps, then is the inner rate from its own start.

    References:
        Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017.
    """

    then: Rate
    steps: int

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        if step < self.steps:
            return self.then(0) * (step + 1) / self.steps
        return self.then(step - self.steps)


def linear_scaling(rate: float, batch: int, base_batch: int) -> float:
    """Return the rate for a batch `batch / base_batch` times the one that `rate` was found for, by the linear scaling rule.

    References:
        Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017.
    """
    return rate * batch / base_batch
