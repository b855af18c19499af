"""Which rows each virtual worker sees at each step: arithmetic on integers, no files, no ranks.

Letters: N rows in all, V workers, B rows in a full batch; W = window * block rows in a window.

- An epoch has ceil(N / B) steps. Step s has min(B, N - s * B) rows, cut over the workers by `spans`.
- The order of an epoch is a pure function of (seed, epoch, shard rows, V, B, block, window, shuffle).
- For shuffles other than "none": the rows, in an order that depends on the shuffle, are cut into V consecutive runs,
  one a worker; step s takes the next `count(s, worker)` rows of each run. So a byte of a shard is read about once an epoch.

Memory: two int64 arrays of N / block entries for the current epoch ("global": N entries), and one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hpcml.arrays.seeds import stream
from hpcml.arrays.spans import span
from hpcml.errors import ConfigError

UNMIXED_BATCHES = 8
"""Batches that are read at once where nothing is mixed, if a window of blocks is no smaller."""

Numbers = npt.NDArray[np.int64]
"""Row numbers, positions in a sequence of rows, or block numbers."""

SHUFFLES = ("none", "block", "window", "global")
"""From none to full: file order; blocks of rows permuted; rows also shuffled inside windows; one permutation of all rows."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of one worker's rows: what to read, and in which order to use it.

    Args:
        rows: (n,) int64 global row numbers in the order of use.
        runs: (start, stop) pairs of global rows, ascending and apart: read one after the other they are the slab.
        in_file: (n,) int64 positions in the order of use: ``rows[in_file]`` is the slab.
    """

    rows: Numbers
    runs: list[tuple[int, int]]
    in_file: Numbers


@dataclass(frozen=True, slots=True)
class _Plan:
    """The permuted units of one epoch (blocks, or rows for "global"), and the position where each ends."""

    epoch: int
    units: Numbers
    ends: Numbers


class Sampler:
    """The rows of each worker and step, a pure function of seed and epoch that anybody may ask in any order.

    Args:
        shard_rows: rows of each shard, in order.
        batch: rows of the global batch, V <= batch <= N.
        workers: V, 1 or more.
        seed: the experiment's seed, 0 or more.
        shuffle: one of SHUFFLES.
        block: rows that stay together on their way from the file, 1 or more; a block never crosses a shard.
            `sizing.choose_block` finds a good number.
        window: blocks that are held in memory and mixed, 1 or more.
        own: workers keep their rows: which are whose, and in which windows, is the same in every epoch.

    Raises:
        ConfigError: for numbers that do not fit together, naming both.
    """

    def __init__(
        self,
        shard_rows: Sequence[int],
        batch: int,
        workers: int,
        seed: int,
        shuffle: str = "window",
        block: int = 32,
        window: int = 64,
        own: bool = False,
    ) -> None:
        self._edges = np.concatenate([[0], np.cumsum(np.asarray(shard_rows, np.int64))]).astype(np.int64)
        self.rows = int(self._edges[-1])
        self.batch, self.workers, self.seed, self.shuffle = batch, workers, seed, shuffle
        self.block, self.window_rows = block, block * window
        self.own = own
        self._again = partial(Sampler, shard_rows, batch, seed=seed, shuffle=shuffle, block=block, window=window, own=own)
        self._refuse_misfits(window)
        if shuffle == "none":
            # Nothing is mixed, so that a window is only what is read at once: a few batches, since each window costs about 0.3 ms.
            share = -(-batch // workers)
            self.window_rows = max(block, share, min(UNMIXED_BATCHES * share, self.window_rows))
        self.steps = -(-self.rows // batch)
        self._first_block = np.concatenate([[0], np.cumsum(-(-np.diff(self._edges) // block))]).astype(np.int64)
        self._starts = np.cumsum([0, *(self.total(worker) for worker in range(workers))])
        self._plan: _Plan | None = None

    def among(self, workers: int) -> Sampler:
        """Return the sampler that deals the same rows, in batches of the same size, to another number of workers."""
        return self._again(workers=workers)

    def step_rows(self, step: int) -> int:
        """Return B_s, the rows of one step over all workers.

        Raises:
            ConfigError: if step is outside 0..steps-1.
        """
        if not 0 <= step < self.steps:
            raise ConfigError(f"step {step} does not exist, an epoch has steps 0 to {self.steps - 1}")
        return min(self.batch, self.rows - step * self.batch)

    def count(self, step: int, worker: int) -> int:
        """Return the rows of one worker at one step; may be 0 at the last step."""
        self._check_worker(worker)
        part = span(self.step_rows(step), self.workers, worker)
        return int(part.stop - part.start)

    def total(self, worker: int) -> int:
        """Return the rows of one worker in an epoch."""
        return (self.steps - 1) * self.count(0, worker) + self.count(self.steps - 1, worker)

    def positions(self, step: int, worker: int) -> tuple[int, int]:
        """Return (start, stop) of a step in the worker's own sequence of `total(worker)` rows."""
        start = step * self.count(0, worker)
        return start, start + self.count(step, worker)

    def windows(self, worker: int) -> int:
        """Return the number of windows of one worker in an epoch."""
        return -(-self.total(worker) // self.window_rows)

    def rows_of(self, epoch: int, worker: int, step: int) -> Numbers:
        """Return the global rows of one worker at one step, (count,) int64, in the order of the batch."""
        start, stop = self.positions(step, worker)
        if start == stop:
            return np.empty(0, np.int64)
        first = start // self.window_rows
        parts = [self._window_rows(epoch, worker, k) for k in range(first, -(-stop // self.window_rows))]
        offset = first * self.window_rows
        return np.concatenate(parts)[start - offset : stop - offset]

    def window(self, epoch: int, worker: int, k: int) -> Window:
        """Return the k-th window of a worker: positions k * W to (k + 1) * W - 1 of its sequence, the last one shorter.

        Raises:
            ConfigError: if k is outside 0..windows(worker)-1.
        """
        rows = self._window_rows(epoch, worker, k)
        in_file = rows.argsort()
        slab = rows[in_file]
        breaks = np.flatnonzero(np.diff(slab) != 1) + 1
        starts = slab[np.concatenate([[0], breaks])].tolist()
        lasts = slab[np.concatenate([breaks, [len(slab)]]) - 1].tolist()
        runs = [(start, last + 1) for start, last in zip(starts, lasts, strict=True)]
        return Window(rows, runs, in_file)

    def _window_rows(self, epoch: int, worker: int, k: int) -> Numbers:
        """Return the rows of a window in the order of use."""
        if not 0 <= k < self.windows(worker):
            raise ConfigError(f"window {k} does not exist, worker {worker} has windows 0 to {self.windows(worker) - 1}")
        start = k * self.window_rows
        stop = min(start + self.window_rows, self.total(worker))
        if self.shuffle == "none":
            return self._in_file_order(worker, np.arange(start, stop))
        first = int(self._starts[worker])
        rows = self._permuted(epoch, first + start, first + stop)
        if self.shuffle == "window":
            stream(self.seed, "window", epoch, worker, k).shuffle(rows)
        return rows

    def _in_file_order(self, worker: int, local: Numbers) -> Numbers:
        """Return the rows at positions of a worker's sequence when batch s is rows s * B onward, cut over the workers."""
        # The last step, though smaller, can give one worker a row more than a full step does: hence the minimum.
        step = np.minimum(local // self.count(0, worker), self.steps - 1)
        full = span(self.batch, self.workers, worker).start
        short = span(self.step_rows(self.steps - 1), self.workers, worker).start
        offset = np.where(step < self.steps - 1, full, short)
        return step * self.batch + offset + local - step * self.count(0, worker)

    def _permuted(self, epoch: int, start: int, stop: int) -> Numbers:
        """Return the rows at positions start to stop-1 of the epoch's permuted sequence; start < stop."""
        plan = self._planned(0 if self.own else epoch)
        if self.shuffle == "global":
            return plan.units[start:stop].copy()  # the caller's own, to shuffle
        # Block by block, then row by row: a search for each row would take most of a window's time.
        before, at = np.searchsorted(plan.ends, [start, stop - 1], side="right").tolist()
        ends = plan.ends[before : at + 1]
        _, last = self._bounds(plan.units[before : at + 1])
        rows: Numbers = np.repeat(last - ends, np.diff(np.minimum(ends, stop), prepend=start))
        rows += np.arange(start, stop)
        return rows

    def _planned(self, epoch: int) -> _Plan:
        """Return the plan of an epoch, kept until another epoch is asked for."""
        plan = self._plan  # read once: another thread may replace it
        if plan is None or plan.epoch != epoch:
            if self.shuffle == "global":
                plan = _Plan(epoch, stream(self.seed, "rows", epoch).permutation(self.rows), np.empty(0, np.int64))
            else:
                units = stream(self.seed, "blocks", epoch).permutation(int(self._first_block[-1]))
                start, stop = self._bounds(units)
                plan = _Plan(epoch, units, np.cumsum(stop - start))
            self._plan = plan
        return plan

    def _bounds(self, block: Numbers) -> tuple[Numbers, Numbers]:
        """Return the first row of each block, and the row after its last."""
        shard = np.searchsorted(self._first_block, block, side="right") - 1
        start = self._edges[shard] + (block - self._first_block[shard]) * self.block
        return start, np.minimum(start + self.block, self._edges[shard + 1])

    def _check_worker(self, worker: int) -> None:
        """Refuse a worker that does not exist."""
        if not 0 <= worker < self.workers:
            raise ConfigError(f"worker {worker} does not exist, there are workers 0 to {self.workers - 1}")

    def _refuse_misfits(self, window: int) -> None:
        """Refuse numbers that cannot make an epoch."""
        if self.workers < 1:
            raise ConfigError(f"{self.workers} virtual workers, expected 1 or more")
        if self.batch < self.workers:
            raise ConfigError(f"a batch of {self.batch} rows is smaller than {self.workers} virtual workers; give each at least one row")
        if self.batch > self.rows:
            raise ConfigError(f"a batch of {self.batch} rows is larger than the data of {self.rows} rows; choose a smaller batch")
        if self.shuffle not in SHUFFLES:
            raise ConfigError(f"unknown shuffle {self.shuffle!r}; choose one of {', '.join(SHUFFLES)}")
        if self.block < 1 or window < 1:
            raise ConfigError(f"block {self.block} and window {window}, expected each to be 1 or more")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}, expected 0 or more")
