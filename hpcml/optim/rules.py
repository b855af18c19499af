"""How a mean gradient moves the parameters: arithmetic over blocks of flat vectors.

Letters: n parameters, k state vectors, m elements of a block. A rule is a frozen description; whoever owns parameters owns the (k, n) state
beside them, so one rule serves many replicas, any slice of a vector, and every checkpoint. `apply` in blocks.py goes over the blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hpcml.arrays import Array, kernels, namespace
from hpcml.optim.norms import norm
from hpcml.optim.rates import Constant, Rate

if TYPE_CHECKING:
    from hpcml.optim.blocks import Scratch

Look = list[tuple[slice, float, float]]
"""What a rule saw in whole vectors: (span, factor of the gradient there, factor of the rate there), in order, over all n."""


class Rule(Protocol):
    """Moves parameters by a gradient."""

    @property
    def rate(self) -> float | Rate:
        """Return the learning rate, fixed or by step."""

    @property
    def slots(self) -> int:
        """Return k: how many state vectors, zero at first, stand beside the parameters."""

    @property
    def looks(self) -> bool:
        """Return whether the rule must look at whole vectors before it moves a block."""

    def look(self, data: Array, grad: Array, state: Array, step: int, work: Scratch, scale: float = 1.0) -> Look:
        """Return what whole vectors say, which are not changed; the gradient to judge is `scale` times grad.

        Args:
            data: (n,) parameters.
            grad: (n,) gradient.
            state: (k, n), as the last step left it.
            step: number of the step, from 0.
            work: the span of each parameter, and memory.
            scale: what the gradient is going to be multiplied by.
        """

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite parameters p (m,), gradient g (m,), states s (k, m) and scratch (m,) by step number `step`, counted from 0."""


def rate_at(rule: Rule, step: int) -> float:
    """Return the rule's learning rate at a step."""
    return rule.rate(step) if isinstance(rule.rate, Rate) else Constant(float(rule.rate))(step)


class _Blind:
    """What rules share that need no look at whole vectors."""

    __slots__ = ()

    @property
    def looks(self) -> bool:
        """Return False."""
        return False

    def look(self, data: Array, grad: Array, state: Array, step: int, work: Scratch, scale: float = 1.0) -> Look:
        """Return one span with both factors 1."""
        return [(slice(0, len(data)), 1.0, 1.0)]


@dataclass(frozen=True, slots=True)
class SGD(_Blind):
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

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite a block by one step; see Rule."""
        v = s[0] if self.momentum else None
        kernels.sgd(p, g, v, scratch, rate=rate, momentum=self.momentum, nesterov=self.nesterov, decay=self.decay)


@dataclass(frozen=True, slots=True)
class AdamW(_Blind):
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

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite a block by one step; see Rule."""
        betas = (self.beta1, self.beta2)
        kernels.adamw(p, g, (s[0], s[1]), scratch, step, rate=rate, betas=betas, epsilon=self.epsilon, decay=self.decay)


@dataclass(frozen=True, slots=True)
class AdaGrad(_Blind):
    """A rate for each parameter that falls with the squares seen: s = s + g g, p = p - rate g / (sqrt(s) + epsilon).

    References:
        Duchi, Hazan and Singer, Adaptive subgradient methods for online learning and stochastic optimization, JMLR 2011.
    """

    rate: float | Rate
    epsilon: float = 1e-10
    decay: float = 0.0
    slots: int = field(init=False, default=1)

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite a block by one step; see Rule."""
        kernels.adagrad(p, g, s[0], scratch, rate=rate, epsilon=self.epsilon, decay=self.decay)


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

    @property
    def looks(self) -> bool:
        """Return True: the norms are those of whole parameter arrays."""
        return True

    def look(self, data: Array, grad: Array, state: Array, step: int, work: Scratch, scale: float = 1.0) -> Look:
        """Return each parameter's span with its local rate."""
        return [(part, 1.0, self._local(norm(data[part]), scale * norm(grad[part]))) for part in work.parts]

    def _local(self, size: float, slope: float) -> float:
        return self.trust * size / (slope + self.decay * size) if size > 0 and slope > 0 else 1.0

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite a block by one step; see Rule."""
        kernels.lars(p, g, s[0], scratch, rate=rate, momentum=self.momentum, decay=self.decay)


@dataclass(frozen=True, slots=True)
class LAMB:
    """Adam with a rate for each parameter array in proportion to its norm, for large batches.

    d = m' / (sqrt(v') + epsilon) + decay p, with Adam's corrected means m' and v'; p = p - rate (|p| / |d|) d.
    Where |p| or |d| is zero, their ratio is 1.

    References:
        You et al., Large batch optimization for deep learning: training BERT in 76 minutes, ICLR 2020, algorithm 2.
    """

    rate: float | Rate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    decay: float = 0.01
    slots: int = field(init=False, default=2)

    @property
    def looks(self) -> bool:
        """Return True: the norms are those of whole parameter arrays."""
        return True

    def look(self, data: Array, grad: Array, state: Array, step: int, work: Scratch, scale: float = 1.0) -> Look:
        """Return each parameter's span with the ratio of its norm to its step's; every rank works that out for all n."""
        found: Look = []
        for part in work.parts:
            squares = sum(self._squares(data[at], grad[at], state[:, at], step, work.spare, scale) for at in work.lines(part))
            size, slope = norm(data[part]), math.sqrt(squares)
            found.append((part, 1.0, size / slope if size > 0 and 0 < slope < math.inf else 1.0))
        return found

    def _squares(self, p: Array, g: Array, s: Array, step: int, spare: Array, scale: float) -> float:
        """Return the sum of squares of d over one line, float64; spare (3, line) is overwritten."""
        mean, square, term = (row[: len(p)] for row in spare)
        xp = namespace(p)
        xp.multiply(s[0], self.beta1, out=mean)
        xp.multiply(g, (1 - self.beta1) * scale, out=term)
        mean += term
        xp.multiply(s[1], self.beta2, out=square)
        xp.multiply(g, g, out=term)
        term *= (1 - self.beta2) * scale * scale
        square += term
        xp.sqrt(square, out=square)
        square /= math.sqrt(1 - self.beta2 ** (step + 1))
        square += self.epsilon
        mean /= square
        mean /= 1 - self.beta1 ** (step + 1)
        xp.multiply(p, self.decay, out=term)
        mean += term
        return float(mean @ mean)

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite a block by one step, which is Adam's at this array's rate; see Rule."""
        betas = (self.beta1, self.beta2)
        kernels.adamw(p, g, (s[0], s[1]), scratch, step, rate=rate, betas=betas, epsilon=self.epsilon, decay=self.decay)


@dataclass(frozen=True, slots=True)
class Clipped:
    """A rule whose gradient is first scaled down to a global norm, where it is longer.

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """

    rule: Rule
    norm: float

    @property
    def slots(self) -> int:
        """Return the inner rule's."""
        return self.rule.slots

    @property
    def rate(self) -> float | Rate:
        """Return the inner rule's."""
        return self.rule.rate

    @property
    def looks(self) -> bool:
        """Return True: the norm is that of the whole gradient."""
        return True

    def look(self, data: Array, grad: Array, state: Array, step: int, work: Scratch, scale: float = 1.0) -> Look:
        """Return the inner rule's spans with the gradient scaled to at most the norm."""
        length = scale * norm(grad)
        shorter = self.norm / length if length > self.norm else 1.0
        inside = self.rule.look(data, grad, state, step, work, scale * shorter)
        return [(part, shorter * inner, rate) for part, inner, rate in inside]

    def update(self, p: Array, g: Array, s: Array, rate: float, step: int, scratch: Array) -> None:
        """Overwrite a block by one step of the inner rule, whose gradient is scaled already; see Rule."""
        self.rule.update(p, g, s, rate, step, scratch)
