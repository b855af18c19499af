"""Rows on their way from the files to the steps: each is read straight into its place in the batch that will use it.

A worker has a ring of batches, long enough for two windows: while the steps use one window, the next is read into the places
of batches already used. Nothing is gathered or copied in between.
Cost: about 2 * window * block rows of memory for each worker that a rank hosts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays.memory import ALIGNMENT, aligned
from hpcml.data.dataset import Lanes, ShardedDataset
from hpcml.data.ledger import mix
from hpcml.data.roads import SCATTER_BYTES
from hpcml.data.rows import Allocate, Filled, Rows, all_finite
from hpcml.data.sampler import Sampler
from hpcml.data.sizing import file_row_bytes
from hpcml.data.storage import CONTIGUOUS
from hpcml.data.windows import BYTES_AT_ONCE, Piece, WindowPlan, compact, group_pieces
from hpcml.errors import DataError, ShardError

PIECE_BYTES = 1 << 20
"""A run longer than this is read in pieces: then threads share it."""

REMEMBERED_ROWS = 1 << 26
"""Up to so many rows a loader remembers, in a byte each, which it found to be finite: a look costs about as much as the read,
and a file that changes is refused, so that later epochs need not look again."""

SURE = 8
"""After so many pieces that were in the system's memory, one of each group is announced until one is not: an announcement costs a
fifth of a read from memory."""

NAMED_ROWS = 3
"""How many bad rows an error names; it counts the others."""


class Stopped(Exception):
    """The consumer wants no more batches: the reading thread unwinds, and nobody is told."""


Each = Callable[[Callable[[Any], None], list[Any]], None]
"""Calls a function with each of some items, perhaps on several threads."""


class Ring:
    """The batches of one virtual worker, in the order of its steps.

    Args:
        dataset: where rows come from.
        sampler: which rows come when.
        worker: the virtual worker.
        real: dtype of floating fields.
        ahead: steps that are ready beyond two windows.
        finite: (rows,) bool, the rows known to be finite, which all rings of a loader share; None to look each time.
        quarantine: leave rows that cannot be read out of their batches, instead of marking these with the error.
        allocate: gives zeroed memory on a cache line for the batches.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        sampler: Sampler,
        worker: int,
        real: np.dtype[Any],
        ahead: int,
        finite: np.ndarray | None = None,
        quarantine: bool = False,
        allocate: Allocate = aligned,
    ) -> None:
        self._finite = finite
        self.worker, self._dataset, self._sampler, self._quarantine = worker, dataset, sampler, quarantine
        self._count, total = sampler.count(0, worker), sampler.total(worker)
        # Every batch begins on a cache line: the bits of a product may depend on it.
        grain = ALIGNMENT // math.gcd(ALIGNMENT, math.prod(dataset.index.x.shape) * real.itemsize)
        self._most = -(-max(self._count, sampler.count(sampler.steps - 1, worker)) // grain) * grain
        self._slots = min(sampler.steps, 2 * -(-min(sampler.window_rows, total) // self._count) + 1 + ahead)
        self._memory = Rows.empty(dataset, self._slots * self._most, real, allocate)
        self._lanes = Lanes([(dataset.index.x, self._memory.x), (dataset.index.y, self._memory.y), (dataset.weights, self._memory.weights)])
        # Rows that are longer in memory than in the file would be read in pieces too short for a disk.
        self._piece = max(1, PIECE_BYTES // max(1, min(self._memory.x[:1].nbytes, file_row_bytes(dataset.index))))
        # Chunks take so long to decode that Python does not count, and few long groups would leave a thread without work.
        roads = {stored.road for shard in dataset.index.shards for _, stored in shard.fields}
        self._at_once = BYTES_AT_ONCE // max(1, self._memory.x[:1].nbytes) if roads == {CONTIGUOUS} else 0
        if sampler.shuffle == "none":
            self._piece = max(1, min(self._piece, self._count))  # windows hold several batches: a failure should not cover them all
        self._flat = list(self._memory.x.reshape(len(self._memory.x), -1))
        self._is_real = np.dtype(dataset.index.x.dtype).kind == "f"
        self._ids = np.zeros(self._slots, np.uint64)
        self._lost = np.zeros(self._slots * self._most, bool)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._memory.nbytes

    def begin(self, epoch: int, step: int, dead: frozenset[int] = frozenset()) -> None:
        """Forget what the ring held; the steps from this one on come next, without the rows of dead shards."""
        self._epoch, self._dead = epoch, dead
        self._looks = self._is_real and (self._finite is None or not self._finite.all())
        self._next = self._sampler.positions(step, self.worker)[0] // self._sampler.window_rows
        self._failures: dict[int, DataError] = {}
        self._suspects: set[int] = set()
        self._plans: list[WindowPlan] = []  # of the next window and the one behind it
        self._there = 0
        self.broken: dict[int, str] = {}

    def needs(self, step: int) -> bool:
        """Return whether a window must be read before this step is complete."""
        start, stop = self._sampler.positions(step, self.worker)
        return stop > start and stop > self._next * self._sampler.window_rows

    def last_step(self) -> int:
        """Return the last step that the next window has rows of: it may be read when step last_step - slots is used up."""
        stop = min((self._next + 1) * self._sampler.window_rows, self._sampler.total(self.worker))
        return min((stop - 1) // self._count, self._sampler.steps - 1)

    def room_at(self) -> int:
        """Return how many steps of the epoch must be used up before the next window can be read."""
        return self.last_step() - self._slots + 1

    def read_window(self, each: Each, check: Callable[[], None]) -> None:
        """Read the next window, each row to its place.

        Args:
            each: shares the pieces out.
            check: called before each piece; raises Stopped when nobody wants it any more.
        """
        k, self._next = self._next, self._next + 1
        if not self._plans:
            self._plans = [*self._prepare(k), *self._prepare(k + 1)]
            self._announce(self._plans[0].groups)
        plan = self._plans.pop(0)
        later = self._plans[0].groups if self._plans else []
        self._memory.rows[plan.flat] = plan.window.rows
        fresh, slots, sums = plan.ids
        self._ids[fresh] = 0
        self._ids[slots] += sums
        if self._quarantine:
            self._lost[plan.flat] = False
            for first, last in plan.dead:
                self._lost[plan.place[first:last]] = True
        failures: list[tuple[int, int, DataError]] = []
        suspects: list[tuple[int, int]] = []

        def read(i: int | None) -> None:
            check()
            if i is None:
                self._plans += self._prepare(k + 2)
                return
            # A disk is at its speed with a window of reads at once, and loses it where they come in bursts.
            self._announce(later[i : None if i == len(plan.groups) - 1 else i + 1])
            self._read(plan.groups[i], plan.place, failures, suspects)

        each(read, [None, *range(len(plan.groups))])
        if failures or suspects:
            self._note(plan, sorted(failures, key=lambda failure: failure[0]), suspects)

    def _read(
        self, group: list[Piece], place: np.ndarray, failures: list[tuple[int, int, DataError]], suspects: list[tuple[int, int]]
    ) -> None:
        """Read pieces that follow one another in file order, and note which positions failed or look wrong."""
        first, last = group[0][2], group[-1][2] + group[-1][1] - group[-1][0]
        try:
            self._dataset.scatter([(start, stop) for start, stop, _ in group], self._lanes, compact(place[first:last]))
        except DataError as error:
            if len(group) == 1:
                failures.append((first, last, error))
                return
            for piece in group:  # one by one, so that only what cannot be read fails, under its own name
                self._read([piece], place, failures, suspects)
            return
        if self._looks:
            for start, stop, at in group:
                if self._finite is None or not self._finite[start:stop].all():
                    self._look(start, stop, at, place, suspects)

    def _note(self, plan: WindowPlan, failures: list[tuple[int, int, DataError]], suspects: list[tuple[int, int]]) -> None:
        """Note which steps, or which rows where there is a quarantine, have something wrong: by positions in file order."""
        steps, rows = plan.steps[plan.window.in_file], plan.window.rows[plan.window.in_file]
        for first, last in suspects:
            self._suspects.update(steps[first:last].tolist())
        for first, last, error in failures:
            if self._quarantine and isinstance(error, ShardError):
                self._lost[plan.place[first:last]] = True
                self.broken.setdefault(self._dataset.shard_of(int(rows[first])), str(error))
                continue
            for step in np.unique(steps[first:last]).tolist():
                self._failures.setdefault(step, error)

    def _announce(self, groups: list[list[Piece]]) -> None:
        """Have the disk begin with groups of pieces. Nearly free where they are in memory: then one of each group is asked for."""
        for group in groups:
            for start, stop, _ in group[:1] if self._there >= SURE else group:
                before = self._dataset.hints
                self._dataset.announce(start, stop)
                self._there = self._there + 1 if self._dataset.hints == before else 0

    def _prepare(self, k: int) -> list[WindowPlan]:
        """Return the plan of a window, or nothing where the epoch has no such one."""
        if k >= self._sampler.windows(self.worker):
            return []
        window = self._sampler.window(self._epoch, self.worker, k)
        pieces = [piece for run in window.runs for piece in self._dataset.pieces(*run, self._piece)]
        groups, dead = group_pieces(pieces, self._at_once, lambda row: bool(self._dead) and self._dataset.shard_of(row) in self._dead)
        begin = k * self._sampler.window_rows
        steps, flat = self._places(begin, len(window.rows))
        return [WindowPlan(window, groups, dead, steps, flat, flat[window.in_file], self._sum_ids(window.rows, steps, begin))]

    def take(self, step: int) -> Filled:
        """Return the rows of a step whose windows were all read."""
        count, slot = self._sampler.count(step, self.worker), step % self._slots
        first = slot * self._most
        rows = self._memory.part(first, first + count)
        ids, left_out = int(self._ids[slot]) if count else 0, (0, 0)
        lost = self._lost[first : first + count]
        if self._quarantine and lost.any():
            gone = mix(rows.rows[lost])
            left_out = int(gone.sum()), len(gone)
            ids = (ids - left_out[0]) % (1 << 64)
            rows = rows.keep(~lost)
        where = f"epoch {self._epoch}, step {step}, worker {self.worker}"
        failure = self._failures.pop(step, None)
        if failure is not None:
            error = type(failure)(f"{where}: {failure}")
            error.__cause__ = failure
            return Filled(rows, ids, error)
        wrong = self._wrong_values(where, rows, step in self._suspects)
        return Filled(rows if wrong else self._transformed(rows), ids, wrong, left_out)

    def _transformed(self, rows: Rows) -> Rows:
        """Return the rows as the transforms make them, in memory of their own."""
        transforms = self._dataset.transforms
        if transforms is None:
            return rows
        made, y = transforms.apply(rows.x, rows.y, rows.rows, self._epoch)
        x = aligned(made.shape, made.dtype)
        x[...] = made
        return Rows(x, y, rows.weights, rows.rows)

    def _places(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return step and place in memory of `count` positions of the worker's sequence from `start` on."""
        position = np.arange(start, start + count)
        # The last step, though smaller, can give one worker a row more than a full step does: hence the minimum.
        step = np.minimum(position // self._count, self._sampler.steps - 1)
        return step, step % self._slots * self._most + position - step * self._count

    def _sum_ids(self, rows: np.ndarray, steps: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the slots of steps that begin in a window, the slots of all its steps, and for each of these the sum of its rows' ids."""
        begins = np.flatnonzero(np.diff(steps, prepend=-1))
        first = steps[begins]
        slots = first % self._slots
        return slots[first * self._count >= start], slots, np.add.reduceat(mix(rows), begins)

    def _look(self, start: int, stop: int, at: int, place: np.ndarray, suspects: list[tuple[int, int]]) -> None:
        """Note rows just read as finite, or their places as suspect, by the sum of their squares."""
        rows = place[at : at + stop - start]
        with np.errstate(over="ignore", invalid="ignore"):
            if self._flat[0].nbytes < SCATTER_BYTES:
                flat = self._memory.x[rows].reshape(-1)
                total = flat @ flat
            else:
                total = sum([np.dot(row, row) for row in map(self._flat.__getitem__, rows.tolist())])
        if not np.isfinite(total):
            suspects.append((at, at + stop - start))
        elif self._finite is not None:
            self._finite[start:stop] = True

    def _wrong_values(self, where: str, out: Rows, look_at_x: bool) -> DataError | None:
        """Return an error that names the first rows with NaN or infinity, or with a negative weight, or None."""
        data = self._dataset
        for field, values in ((data.index.x if look_at_x else None, out.x), (data.index.y, out.y), (data.weights, out.weights)):
            if field is None or values is None or np.dtype(field.dtype).kind != "f" or all_finite(values):
                continue
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            named = [data.locate(row) for row in np.sort(out.rows[bad])[:NAMED_ROWS].tolist()]
            places = ", ".join(f"{path} row {row}" for path, row in named)
            more = f" and {len(bad) - len(named)} more" if len(bad) > len(named) else ""
            return DataError(
                f"{where}: field {field.name!r} has NaN or infinity in {len(bad)} of {len(values)} rows: {places}{more};"
                f" correct them or leave them out (numbers are held as {values.dtype})"
            )
        if out.weights is not None and out.weights.size and out.weights.min() < 0 and data.weights is not None:
            path, row = data.locate(int(out.rows[out.weights.argmin()]))
            return DataError(f"{where}: field {data.weights.name!r} is {out.weights.min()} at {path} row {row}; weights are 0 or more")
        return None
