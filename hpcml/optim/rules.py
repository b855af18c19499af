"""How a mean gradient moves the parameters: rules over flat vectors, each in one pass over memory on the CPU.

Letters: n parameters, k state vectors. A rule is a frozen description; whoever owns parameters owns the (k, n) state beside them,
so that one rule can serve many replicas, any slice of a vector, and every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hpcml.arrays import Array, aligned, namespace
from hpcml.optim.norms import norm
from hpcml.optim.rates import Constant, Rate

BLOCK = 1 << 15
"""Elements worked on at a time on the CPU: parameters, gradient, two states and scratch stay in a core's own cache."""


class Rule(Protocol):
    """Moves parameters by a gradient."""

    @property
    def rate(self) -> float | Rate:
        """Return the learning rate, fixed or by step."""

    @property
    def slots(self) -> int:
        """Return k: how many state vectors, zero at first, stand beside the parameters."""

    def update(self, data: Array, grad: Array, state: Array, step: int, work: Scratch) -> None:
        """Overwrite data (n,), state (k, n) and, as scratch, grad (n,) by the rule's step number `step`, counted from 0."""


class Scratch:
    """What a rule needs beside the vectors: the spans of the parameters, and one block of scratch memory."""

    def __init__(self, like: Array, parts: Sequence[slice]) -> None:
        """Allocate scratch for vectors like `like` (n,), whose parameters lie at `parts`."""
        self.parts = list(parts)
        self.n = len(like)
        self._step = BLOCK if namespace(like) is np else max(self.n, 1)
        size = min(self._step, max(self.n, 1))
        self.memory = aligned(size, like.dtype) if namespace(like) is np else namespace(like).zeros(size, like.dtype)

    def blocks(self, span: slice | None = None) -> Iterator[tuple[slice, Array]]:
        """Yield (span, scratch of its length) that together cover the whole vector, or one span of it."""
        start, stop = (0, self.n) if span is None else (span.start, span.stop)
        for first in range(start, stop, self._step):
            last = min(first + self._step, stop)
            yield slice(first, last), self.memory[: last - first]


def _rate(rate: float | Rate) -> Rate:
    return rate if isinstance(rate, Rate) else Constant(float(rate))


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent: v = momentum v + g, p = p - rate v; with Nesterov, p = p - rate (g + momentum v).

    Weight decay adds decay * p to the gradient (the L2 penalty), as PyTorch's SGD does.

    References:
        Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in deep learning, ICML 2013.
    """

    rate: float | Rate
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    slots: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Count the state vectors: one with momentum."""
        object.__setattr__(self, "slots", 1 if self.momentum else 0)

    def update(self, data: Array, grad: Array, state: Array, step: int, work: Scratch) -> None:
        """Overwrite data, state and grad by one step; see Rule."""
        rate = _rate(self.rate)(step)
        xp = namespace(data)
        for span, scratch in work.blocks():
            p, g = data[span], grad[span]
            if self.decay:
                xp.multiply(p, self.decay, out=scratch)
                g += scratch
            if self.momentum:
                v = state[0][span]
                v *= self.momentum
                v += g
                if self.nesterov:
                    xp.multiply(v, self.momentum, out=scratch)
                    g += scratch
                else:
                    g = v
            xp.multiply(g, rate, out=scratch)
            p -= scratch


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with bias correction and decoupled weight decay: p = p (1 - rate decay) - rate m' / (sqrt(v') + epsilon).

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, algorithm 2.
    """

    rate: float | Rate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.01
    slots: int = field(init=False, default=2)

    def update(self, data: Array, grad: Array, state: Array, step: int, work: Scratch) -> None:
        """Overwrite data, state and grad by one step; see Rule."""
        rate = _rate(self.rate)(step)
        xp = namespace(data)
        first = 1 - self.beta1 ** (step + 1)
        root = (1 - self.beta2 ** (step + 1)) ** 0.5
        for span, scratch in work.blocks():
            p, g, m, v = data[span], grad[span], state[0][span], state[1][span]
            p *= 1 - rate * self.decay
            m *= self.beta1
            xp.multiply(g, 1 - self.beta1, out=scratch)
            m += scratch
            xp.multiply(g, g, out=g)
            g *= 1 - self.beta2
            v *= self.beta2
            v += g
            xp.sqrt(v, out=scratch)
            scratch /= root
            scratch += self.epsilon
            xp.divide(m, scratch, out=scratch)
            scratch *= rate / first
            p -= scratch


@dataclass(frozen=True, slots=True)
class LARS:
    """Momentum with a rate for each parameter array in proportion to its norm, for large batches.

    local = trust |p| / (|g| + decay |p|); v = momentum v + rate local (g + decay p); p = p - v. Where |p| or |g| is zero, local is 1.

    References:
        You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017.
    """

    rate: float | Rate
    momentum: float = 0.9
    decay: float = 0.0
    trust: float = 0.001
    slots: int = field(init=False, default=1)

    def update(self, data: Array, grad: Array, state: Array, step: int, work: Scratch) -> None:
        """Overwrite data, state and grad by one step; see Rule."""
        rate = _rate(self.rate)(step)
        xp = namespace(data)
        for part in work.parts:
            size, slope = norm(data[part]), norm(grad[part])
            local = self.trust * size / (slope + self.decay * size) if size > 0 and slope > 0 else 1.0
            for span, scratch in work.blocks(part):
                p, g, v = data[span], grad[span], state[0][span]
                xp.multiply(p, self.decay, out=scratch)
                g += scratch
                g *= rate * local
                v *= self.momentum
                v += g
                p -= v


@dataclass(frozen=True, slots=True)
class Clipped:
    """A rule whose gradient is first scaled down to a global norm, where it is longer.

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """

    rule: Rule
    norm: float
    slots: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Take over the rule's state vectors."""
        object.__setattr__(self, "slots", self.rule.slots)

    @property
    def rate(self) -> float | Rate:
        """Return the inner rule's rate."""
        return self.rule.rate

    def update(self, data: Array, grad: Array, state: Array, step: int, work: Scratch) -> None:
        """Scale grad to at most the norm, then apply the rule; see Rule."""
        length = norm(grad)
        if length > self.norm:
            scale = self.norm / length
            for span, _ in work.blocks():
                grad[span] *= scale
        self.rule.update(data, grad, state, step, work)
