"""The numbers that a shard holds, and how a write changes them: dense or by rows, at once or clock by clock.

Letters: m numbers of a table, w the width of its rows, k rule states, V workers.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hpcml.arrays import Array, aligned
from hpcml.errors import ShapeError
from hpcml.optim import Rule, Scratch, apply, rate_at
from hpcml.sync.server.average import RowSum, TreeMean


class Updater(Protocol):
    """What a write does to a table; it may overwrite what was written, which then is the answer if one is asked for."""

    slots: int

    def write(self, table: Table, worker: int, values: Array, rows: np.ndarray | None) -> None:
        """Change the table by what a worker wrote; `values` may be overwritten."""


class Table:
    """A run of parameters with the updater's state beside it.

    Args:
        data: (m,) first values; copied.
        updater: what a write does.
        workers: V.
        whole: whether writes wait for APPLY, which makes them one weighted mean over a fixed tree of workers.
        width: numbers in a row, for writes by rows.
        summed: whether APPLY makes the writes their sum instead of their mean, and lets rows that nobody wrote rest.
    """

    def __init__(self, data: Array, updater: Updater, workers: int, whole: bool, width: int = 1, summed: bool = False) -> None:
        if len(data) % width:
            raise ShapeError(f"a table of {len(data)} numbers cannot have rows of {width}")
        self.data = aligned(len(data), data.dtype)
        self.data[:] = data
        self.slots = aligned((updater.slots, len(data)), data.dtype)
        self.workers, self.width, self.updater, self.writes = workers, width, updater, 0
        self.changed = np.zeros(len(data) // width, np.int64)
        self._mean = TreeMean(workers, len(data), data.dtype) if whole and not summed else None
        self._sum = RowSum(workers, len(data), data.dtype, self.flat) if whole and summed else None
        self._together = whole

    @property
    def step(self) -> int:
        """The step, from 0, that the newest write belongs to: V writes make one, and so does one APPLY."""
        return max(self.writes - 1, 0) // (1 if self._together else self.workers)

    def write(self, worker: int, values: Array, weight: float, rows: np.ndarray | None = None) -> None:
        """Take a worker's write: at once, or for the next APPLY.

        Args:
            worker: who wrote.
            values: (m,), or (len(rows) * w,); may be overwritten.
            weight: of a write that waits for APPLY.
            rows: (k,) rows that are written, ascending, each once; None for all.
        """
        if self._sum is not None:
            self._sum.put(worker, values, rows)
            return
        if self._mean is not None:
            self._mean.put(worker, values, weight, None if rows is None else self.flat(rows))
            return
        self.writes += 1
        self.updater.write(self, worker, values, rows)
        self._mark(rows)

    def apply(self) -> None:
        """Make the writes since the last call one: their mean by weight, or their sum; without weight nothing moves."""
        self.writes += 1
        if self._sum is not None:
            total, rows = self._sum.take()
            self.updater.write(self, 0, total, rows)
            self._mark(rows)
            return
        mean = self._mean.take() if self._mean is not None else None
        if mean is not None:
            self.updater.write(self, 0, mean, None)
            self._mark(None)

    def rows_since(self, writes: int) -> np.ndarray:
        """Return the rows that changed after so many writes, ascending."""
        return np.flatnonzero(self.changed > writes)

    def gather(self, rows: np.ndarray, out: Array) -> None:
        """Overwrite out (k * w,) with these rows."""
        np.take(self.data.reshape(-1, self.width), rows, axis=0, out=out.reshape(-1, self.width))

    def _mark(self, rows: np.ndarray | None) -> None:
        self.changed[slice(None) if rows is None else rows] = self.writes

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions of the numbers of some rows, in order."""
        return rows if self.width == 1 else (rows[:, None] * self.width + np.arange(self.width)).reshape(-1)


class RuleUpdater:
    """Moves a table by an optimizer's rule: a write is a gradient.

    Args:
        rule: one that needs no look at whole vectors, of which a shard sees a part.
        like: (m,) a vector like the table's.
        trained: how many of its numbers the rule moves; behind them are running statistics.
        compensation: lambda of DC-ASGD: the gradient g at parameters r becomes g + lambda g g (now - r); 0 for none.
        workers: V, each of which read other parameters.

    References:
        Zheng et al., Asynchronous stochastic gradient descent with delay compensation, ICML 2017.
    """

    def __init__(self, rule: Rule, like: Array, trained: int, workers: int = 0, compensation: float = 0.0) -> None:
        self.rule, self.slots, self.compensation = rule, rule.slots, compensation
        self._scratch = Scratch(like, [], trained)
        self.read = aligned((workers if compensation else 0, len(like)), like.dtype)

    def write(self, table: Table, worker: int, values: Array, rows: np.ndarray | None) -> None:
        """Change the table by a gradient."""
        if rows is not None:
            self._write_rows(table, worker, values, rows)
            return
        scratch = self._scratch
        if self.compensation:
            for part in scratch.spans(slice(0, scratch.trained)):
                part = slice(part.start, min(part.stop, scratch.trained))
                self._compensate(values[part], table.data[part], self.read[worker, part], scratch.memory[: part.stop - part.start])
        blocks = ((part, values[part]) for part in scratch.spans(slice(0, len(values))))
        apply(self.rule, table.data, blocks, table.slots, table.step, scratch)

    def _write_rows(self, table: Table, worker: int, values: Array, rows: np.ndarray) -> None:
        """Change some rows alone: the states of others rest, as if their gradient had not been taken."""
        flat = table.flat(rows)
        first = int(np.searchsorted(flat, self._scratch.trained))
        table.data[flat[first:]] -= values[first:]
        flat, values = flat[:first], values[:first]
        if not flat.size:
            return
        p, s, work = table.data[flat], table.slots[:, flat], np.empty_like(values)
        if self.compensation:
            self._compensate(values, p, self.read[worker, flat], work)
        self.rule.update(p, values, s, rate_at(self.rule, table.step), table.step, work)
        table.data[flat], table.slots[:, flat] = p, s

    def _compensate(self, g: Array, now: Array, read: Array, work: Array) -> None:
        np.subtract(now, read, out=work)
        work *= g
        work *= g
        work *= g.dtype.type(self.compensation)
        g += work


class Elastic:
    """Draws a worker and the table to each other: a write is a worker's parameters x, d = alpha (x - c), c += d, and x - d the answer.

    Their sum stays as it is, to rounding.

    References:
        Zhang, Choromanska and LeCun, Deep learning with elastic averaging SGD, NIPS 2015, algorithm 1.
    """

    slots = 0

    def __init__(self, alpha: float, like: Array) -> None:
        self.alpha = alpha
        self._scratch = Scratch(like, [])

    def write(self, table: Table, worker: int, values: Array, rows: np.ndarray | None) -> None:
        """Move table and values towards each other; values become the worker's new parameters."""
        for part in self._scratch.spans(slice(0, len(values))):
            d = self._scratch.memory[: part.stop - part.start]
            np.subtract(values[part], table.data[part], out=d)
            d *= d.dtype.type(self.alpha)
            table.data[part] += d
            values[part] -= d
