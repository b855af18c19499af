"""Parameters that all ranks hold alike, and the rule that moves them: each rank moves the part that it owns."""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.arrays import Array
from hpcml.nn.arena import Arena
from hpcml.optim import Look, Rule, Scratch, apply
from hpcml.sync.reducers import Part, Reducer


class SharedModel:
    """One model of all workers with its optimizer state, in memory that the reducer gives."""

    def __init__(self, arena: Arena, rule: Rule, reducer: Reducer) -> None:
        """Begin with the arena's parameters; whoever makes the reducer asks for `vectors(rule)` vectors."""
        self.rule, self._reducer = rule, reducer
        self.data, self.slots = reducer.vector(), reducer.vector(rule.slots)
        self._mean = reducer.vector() if rule.looks else None
        self._scratch, self._trained = Scratch(arena.data, arena.parts(), arena.trained), slice(0, arena.trained)
        self.data[:] = arena.data
        reducer.settle()

    @staticmethod
    def vectors(rule: Rule) -> int:
        """Return how many vectors of the reducer a model under this rule takes."""
        return 1 + rule.slots + rule.looks

    def move(self, blocks: Iterator[Part], step: int, pace: float = 1.0) -> None:
        """Move the owned part by blocks of a mean gradient, which are overwritten; `settle` shows the others' parts.

        Args:
            blocks: (span, mean gradient there) over the part that this rank owns.
            step: number of the step, from 0.
            pace: the gradient is divided and the rate multiplied by it, as if both were counted in units of this rate.
        """
        look: Look | None = None
        if self._mean is not None:
            blocks, look = self._look(blocks, self._mean, step)
        elif pace != 1.0:
            look = [(self._trained, 1.0, 1.0)]
        if pace != 1.0 and look is not None:
            look = [(span, scale / pace, factor * pace) for span, scale, factor in look]
        apply(self.rule, self.data, blocks, self.slots, step, self._scratch, look)

    def adopt(self, data: Array, slots: Array) -> None:
        """Overwrite parameters (n,) and optimizer state (k, n) with these, on every rank alike."""
        self.data[:], self.slots[:] = data, slots
        self._reducer.settle()

    def spans(self, whole: slice) -> Iterator[slice]:
        """Yield spans of at most one block that together are `whole`."""
        return self._scratch.spans(whole)

    def _look(self, blocks: Iterator[Part], mean: Array, step: int) -> tuple[Iterator[Part], Look]:
        """Return the owned blocks and what the rule saw in whole vectors: each rank first shows its part of the mean to all."""
        for span, g in blocks:
            mean[span] = g
        self._reducer.settle()
        trained = self._trained
        look = self.rule.look(self.data[trained], mean[trained], self.slots[:, trained], step, self._scratch)
        self._reducer.settle()  # nobody moves a parameter that another still looks at
        return ((span, mean[span]) for part in self._reducer.owned for span in self._scratch.spans(part)), look
