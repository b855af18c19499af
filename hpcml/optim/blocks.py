"""A rule over flat vectors, block by block: on the CPU one pass over memory, on a device one block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from hpcml.arrays import Array, aligned, namespace
from hpcml.arrays.memory import BLOCK
from hpcml.optim.rules import Look, Rule, rate_at

LINE = 1 << 14
"""Elements whose squares are added in the array's own precision; three lines stay in a core's second-level cache."""


class Scratch:
    """What rules need beside the vectors, made once: one block of memory, and the span of each parameter.

    Behind `trained` elements the vectors may hold running statistics: no rule moves them, their mean gradient is taken from them.
    """

    def __init__(self, like: Array, parts: Sequence[slice], trained: int | None = None) -> None:
        """Allocate for vectors like `like` (n,) whose parameters lie at `parts`, the first `trained` elements; left out, all."""
        self.parts, self.n = list(parts), len(like)
        self.trained = self.n if trained is None else trained
        self.step = BLOCK if namespace(like) is np else max(self.n, 1)
        size = min(self.step, max(self.n, 1))
        self.memory = aligned(size, like.dtype) if namespace(like) is np else namespace(like).zeros(size, like.dtype)

    @cached_property
    def spare(self) -> Array:
        """Memory for rules that work out whole vectors in their look, (3, line), made when it is first asked for."""
        size = min(LINE, max(self.n, 1)) if namespace(self.memory) is np else max(self.n, 1)
        return namespace(self.memory).zeros((3, size), self.memory.dtype)

    def lines(self, part: slice) -> Iterator[slice]:
        """Yield spans that fit into `spare` and together are `part`: always the same ones, since norms depend on where they are cut."""
        size = self.spare.shape[1]
        for first in range(part.start, part.stop, size):
            yield slice(first, min(first + size, part.stop))

    def spans(self, whole: slice) -> Iterator[slice]:
        """Yield spans of at most one block that together are `whole`."""
        for first in range(whole.start, whole.stop, self.step):
            yield slice(first, min(first + self.step, whole.stop))


def apply(
    rule: Rule, data: Array, blocks: Iterable[tuple[slice, Array]], state: Array, step: int, work: Scratch, look: Look | None = None
) -> None:
    """Move parameters by a rule, over the blocks of the gradient that are given.

    Args:
        rule: how.
        data: (n,) parameters; overwritten within the blocks' spans.
        blocks: (span, gradient there), each at most one block long; the gradients are overwritten.
        state: (k, n); overwritten within the spans.
        step: number of the step, from 0.
        work: scratch for vectors of this length.
        look: what the rule saw in whole vectors, for rules that look.
    """
    rate = rate_at(rule, step)
    for span, g in blocks:
        if span.stop > work.trained:
            span, g = _take_statistics(data, span, g, work.trained)
        if look is None:
            rule.update(data[span], g, state[:, span], rate, step, work.memory[: len(g)])
            continue
        for first, stop, scale, factor in _within(look, span):
            part = g[first - span.start : stop - span.start]
            if scale != 1.0:
                part *= scale
            rule.update(data[first:stop], part, state[:, first:stop], rate * factor, step, work.memory[: len(part)])


def apply_whole(rule: Rule, data: Array, grad: Array, state: Array, step: int, work: Scratch) -> None:
    """Move all n numbers by a whole gradient (n,), looking at both first where the rule does; overwrites data, state and grad."""
    trained = slice(0, work.trained)
    look = rule.look(data[trained], grad[trained], state[:, trained], step, work) if rule.looks else None
    apply(rule, data, ((span, grad[span]) for span in work.spans(slice(0, work.n))), state, step, work, look)


def _take_statistics(data: Array, span: slice, g: Array, trained: int) -> tuple[slice, Array]:
    """Overwrite the running statistics of a block, and return the part of it that a rule moves."""
    first = max(span.start, trained)
    data[first : span.stop] -= g[first - span.start :]
    kept = slice(span.start, max(span.start, trained))
    return kept, g[: kept.stop - kept.start]


def _within(look: Look, span: slice) -> Iterator[tuple[int, int, float, float]]:
    """Yield (first, stop, scale, factor) of what a rule saw inside one span."""
    for part, scale, factor in look:
        first, stop = max(part.start, span.start), min(part.stop, span.stop)
        if first < stop:
            yield first, stop, scale, factor
