"""What layers draw on the host in a pass that is recorded: drawn anew before each launch, into memory that the recording reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hpcml.arrays import Array, aligned, namespace

if TYPE_CHECKING:
    from hpcml.nn.context import Context

Draw = Callable[[], np.ndarray]
"""Draws numbers of the pass that the context tells, always of one shape and dtype."""


class Draws:
    """The draws of one recorded pass, in order, each with its part of the rows and its memory on the device."""

    def __init__(self) -> None:
        """Start empty."""
        self._made: list[tuple[int, Draw, Array]] = []

    def add(self, context: Context, draw: Draw, like: Array) -> Array:
        """Return memory on the device of `like` that will hold what `draw` gives whenever `renew` was called."""
        held, context.draws = context.draws, None
        try:
            drawn = draw()  # to learn its shape: what is recorded now runs later, after `renew`
        finally:
            context.draws = held
        xp = namespace(like)
        place = aligned(drawn.shape, drawn.dtype) if xp is np else xp.empty(drawn.shape, drawn.dtype)
        self._made.append((context.part, draw, place))
        return place

    def renew(self, context: Context, step: int, worker: int) -> None:
        """Draw everything for a step and a worker; the host waits for no device."""
        for part, draw, place in self._made:
            context.train(seed=context.seed, step=step, worker=worker, part=part)
            drawn = draw()
            place[...] = drawn if namespace(place) is np else namespace(place).asarray(drawn)
