"""L-BFGS without vectors at the coordinator: each rank holds its slice of every vector, and only scalars decide the direction.

The direction is a combination of the 2m + 1 vectors s_0..s_{m-1}, y_0..y_{m-1}, g, whose coefficients follow from their dot products
alone. So an iteration costs 6m new dots on slices, one small all-reduce, and one pass over the slice.
Letters: n parameters, m pairs of history, P ranks; b = 2m + 1 basis vectors.

References:
    Dean et al., Large scale distributed deep networks, NIPS 2012, section 4.2 (Sandblaster);
    Chen, Wang and Zhou, Large-scale L-BFGS using MapReduce, NIPS 2014 (the vector-free recursion).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from hpcml.comm.communicator import Communicator, everywhere
from hpcml.errors import ConfigError, NumericsError

Gradient = Callable[[np.ndarray, np.ndarray], float]
"""Called by all ranks together with (slice of the parameters, slice of the gradient to overwrite); returns the loss, equal on all ranks."""


Dots = Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], np.ndarray]
"""Called by all ranks together with their slices of pairs of vectors; returns the dot products of the whole ones, equal on all ranks."""


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where a search ended.

    Args:
        loss: there.
        slope: the largest absolute entry of the gradient there.
        iterations: directions that were taken.
        evaluations: calls of the gradient.
        converged: whether the slope is within the tolerance.
    """

    loss: float
    slope: float
    iterations: int
    evaluations: int
    converged: bool


def direction(products: np.ndarray, pairs: int) -> np.ndarray:
    """Return the coefficients (2 k + 1,) of the L-BFGS direction in the basis s_0..s_{k-1}, y_0..y_{k-1}, g, oldest pair first.

    Args:
        products: (2 k + 1, 2 k + 1) dot products of the basis.
        pairs: k, 0 or more.
    """
    k = pairs
    delta, alpha = np.zeros(2 * k + 1), np.zeros(k)
    delta[2 * k] = -1.0
    for i in range(k - 1, -1, -1):
        alpha[i] = delta @ products[:, i] / products[i, k + i]
        delta[k + i] -= alpha[i]
    if k:
        delta *= products[k - 1, 2 * k - 1] / products[2 * k - 1, 2 * k - 1]
    for i in range(k):
        beta = delta @ products[:, k + i] / products[i, k + i]
        delta[i] += alpha[i] - beta
    return delta


class VectorFree:
    """The history of one rank: slices of the last m steps and gradient changes, and the dots of all ranks' slices.

    Args:
        dots: of all ranks' slices.
        numbers: of this rank's slice; ranks may hold different numbers, also none.
        memory: m, 1 or more.
    """

    def __init__(self, dots: Dots, numbers: int, memory: int) -> None:
        if memory < 1:
            raise everywhere(ConfigError(f"sync.memory is {memory}; L-BFGS keeps 1 pair or more (10 is usual)"))
        self._dots, self.memory, self._pairs = dots, memory, np.zeros(1, np.int64)
        self.steps, self.changes = np.zeros((memory, numbers)), np.zeros((memory, numbers))
        """The slices of the pairs (m, numbers), oldest first: with `state` what restores the history."""
        self._products = np.zeros((2 * memory + 1, 2 * memory + 1))

    @property
    def pairs(self) -> int:
        """Pairs that it has, at most its memory."""
        return int(self._pairs[0])

    def forget(self) -> None:
        """Drop all pairs: the next direction is straight down."""
        self._pairs[0] = 0

    def state(self) -> dict[str, np.ndarray]:
        """Return what all ranks hold alike; its own memory, not copies."""
        return {"products": self._products, "pairs": self._pairs}

    def push(self, step: np.ndarray, change: np.ndarray) -> bool:
        """Add a step s and the change y of the gradient along it, instead of the oldest pair; return whether s y was positive.

        Without positive curvature the pair is left out: the direction would not lead down.
        """
        if self._dots([(step, change)])[0] <= 0:
            return False
        m = self.memory
        if self.pairs == m:
            for history in (self.steps, self.changes):
                for i in range(m - 1):  # all at once would take a copy of the whole
                    history[i] = history[i + 1]
            for first in (0, m):
                run = slice(first, first + m - 1), slice(first + 1, first + m)
                self._products[run[0]] = self._products[run[1]]
                self._products[:, run[0]] = self._products[:, run[1]]
        else:
            self._pairs += 1
        self.steps[self.pairs - 1], self.changes[self.pairs - 1] = step, change
        for place, vector in ((self.pairs - 1, step), (m + self.pairs - 1, change)):
            self._enter(place, vector, vector)
        return True

    def find(self, gradient: np.ndarray, out: np.ndarray) -> float:
        """Overwrite `out` by the slice of the direction for this slice of the gradient; return their dot product, below 0."""
        self._enter(2 * self.memory, gradient, gradient)
        k, m = self.pairs, self.memory
        used = [*range(k), *range(m, m + k), 2 * m]
        products = self._products[np.ix_(used, used)]
        delta = direction(products, k)
        np.multiply(gradient, delta[-1], out=out)
        for i in range(k):
            out += delta[i] * self.steps[i]
            out += delta[k + i] * self.changes[i]
        return float(delta @ products[:, -1])

    def _enter(self, place: int, vector: np.ndarray, gradient: np.ndarray) -> None:
        """Overwrite the products of one basis vector with all: the new dots of an iteration."""
        m = self.memory
        dots = self._dots([(row, vector) for row in (*self.steps, *self.changes, gradient)])
        if place < 2 * m:
            dots[2 * m] = self._products[2 * m, place]
        self._products[place, :] = dots
        self._products[:, place] = dots


def over_ranks(comm: Communicator) -> Dots:
    """Return dot products over any slices, one a rank, equal to those of whole vectors to rounding."""

    def dots(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        found = np.array([x @ y for x, y in pairs])
        comm.all_reduce(found)
        return found

    return dots


def minimise(
    comm: Communicator, gradient: Gradient, x: np.ndarray, *, memory: int = 10, tolerance: float = 1e-6, iterations: int = 200
) -> Minimum:
    """Overwrite x, this rank's slice of the parameters, by a minimum of a smooth function, over all ranks' slices together.

    A step satisfies the strong Wolfe conditions: with them curvature is positive, and L-BFGS converges on convex functions.

    Args:
        comm: all ranks.
        gradient: loss and gradient; see Gradient.
        x: (slice,) float64; where the search begins.
        memory: m pairs.
        tolerance: of the largest absolute entry of the gradient.
        iterations: at most so many directions.

    Raises:
        NumericsError: on every rank, if the loss is not finite where the search begins.
        ConfigError: on every rank, without memory.
    """
    history, search = VectorFree(over_ranks(comm), len(x), memory), _Line(comm, gradient, x)
    if not np.isfinite(search.loss):
        raise everywhere(NumericsError(f"the loss is {search.loss} where L-BFGS begins; begin elsewhere, or scale the data"))
    way, done = np.empty_like(x), 0
    while search.slope > tolerance and done < iterations:
        downhill = history.find(search.gradient, way)
        first = min(1.0, 1.0 / max(np.sqrt(-downhill), 1e-300)) if not history.pairs else 1.0
        before_x, before_g = x.copy(), search.gradient.copy()
        if not search.go(way, downhill, first):
            break
        done += 1
        history.push(x - before_x, search.gradient - before_g)
    return Minimum(search.loss, search.slope, done, search.evaluations, search.slope <= tolerance)


class Verdict(Enum):
    """What a point along a line is: taken, not yet good enough, or the last of too many."""

    TAKEN, ON, GIVEN_UP = range(3)


class Bracket:
    """The search along a line for a point with less loss and less slope, by numbers alone (the strong Wolfe conditions).

    Args:
        rounding: share of the loss that is noise: near a minimum the slope alone says where down is.
        tries: points that are looked at, at most.

    References:
        Nocedal and Wright, Numerical optimization, 2006, algorithms 3.5 and 3.6.
    """

    LESS_LOSS, LESS_SLOPE = 1e-4, 0.9

    def __init__(self, rounding: float, tries: int) -> None:
        self._rounding, self._most = rounding, tries
        self.numbers = np.zeros(6)
        """Loss and slope at the beginning, the longest step known to be too short, the shortest too long, the step, tries done."""

    @property
    def start(self) -> float:
        """The loss where the line begins."""
        return float(self.numbers[0])

    @property
    def step(self) -> float:
        """How far to look next, in lengths of the direction."""
        return float(self.numbers[4])

    def begin(self, start: float, downhill: float, first: float) -> None:
        """Begin a line at this loss and slope, with this step."""
        self.numbers[:] = start, downhill, 0.0, np.inf, first, 0

    def judge(self, loss: float, slope: float) -> Verdict:
        """Return what the point at the step is, with its loss and its slope along the line, and choose the next step."""
        start, downhill, low, high, step, tries = self.numbers.tolist()
        if not loss <= start + self.LESS_LOSS * step * downhill + self._rounding * abs(start):
            high = step
        elif slope < self.LESS_SLOPE * downhill:
            low = step
        elif slope > -self.LESS_SLOPE * downhill:
            high = step
        else:
            return Verdict.TAKEN
        if tries + 1 >= self._most:
            return Verdict.TAKEN if loss < start else Verdict.GIVEN_UP
        self.numbers[2:] = low, high, 2 * step if np.isinf(high) else (low + high) / 2, tries + 1
        return Verdict.ON


class _Line:
    """The function along a line, which a bracket searches."""

    def __init__(self, comm: Communicator, gradient: Gradient, x: np.ndarray) -> None:
        self._comm, self._function, self._x = comm, gradient, x
        self.gradient, self.evaluations = np.zeros_like(x), 0
        self._begin, self._bracket = np.empty_like(x), Bracket(256 * float(np.finfo(np.float64).eps), tries=40)
        self.loss, self.slope = 0.0, 0.0
        self._look()

    def _look(self) -> float:
        """Evaluate at x, and return the loss."""
        self.loss = self._function(self._x, self.gradient)
        self.evaluations += 1
        largest = np.array([np.abs(self.gradient).max(initial=0.0)])
        everyone = np.zeros((self._comm.size, 1))
        self._comm.all_gather(largest, everyone)
        self.slope = float(everyone.max())
        return self.loss

    def go(self, way: np.ndarray, downhill: float, first: float) -> bool:
        """Move x along `way`; return whether the loss fell, else x stays."""
        self._begin[:] = self._x
        self._bracket.begin(self.loss, downhill, first)
        verdict = Verdict.ON
        while verdict is Verdict.ON:
            np.multiply(way, self._bracket.step, out=self._x)
            self._x += self._begin
            loss = self._look()
            dots = np.array([self.gradient @ way])
            self._comm.all_reduce(dots)
            verdict = self._bracket.judge(loss, float(dots[0]))
        if verdict is Verdict.TAKEN:
            return True
        self._x[:] = self._begin
        self._look()
        return False
