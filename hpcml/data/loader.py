"""Batches for the virtual workers of one rank, read ahead of the steps by one thread."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from hpcml.arrays.device import Device
from hpcml.arrays.feeds import feed
from hpcml.data.crew import Crew
from hpcml.data.dataset import ShardedDataset
from hpcml.data.rings import REMEMBERED_ROWS, Ring, Stopped
from hpcml.data.rows import Filled
from hpcml.data.sampler import Sampler
from hpcml.errors import ConfigError, DataError

AHEAD = 2
"""Steps that are ready beyond two windows."""

STOP_SECONDS = 10.0
"""How long a stopped epoch waits for its thread to come out of a read; a thread that hangs in one is left behind."""

HOST = Device()
"""Host memory."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one virtual worker at one step, possibly none.

    Args:
        worker: the virtual worker.
        x: (count, *row) features, float32 or float64, on the device.
        y: (count, *row) target, int64 or the dtype of x, on the device; None where the data has no target.
        rows: (count,) int64 global row numbers, in host memory.
        error: what is wrong with these rows, or None. It is not raised, so that all ranks can fail together
            at this step; the numbers of such a batch mean nothing.
        weights: (count,) of the dtype of x, on the device; None where all rows count alike.
        ids: the sum of the rows' ids, for the ledger.
        left_out: sum of ids and number of rows that a quarantine took out of this batch.
    """

    worker: int
    x: Any
    y: Any
    rows: np.ndarray
    error: DataError | None
    weights: Any = None
    ids: int = 0
    left_out: tuple[int, int] = (0, 0)


class Loader:
    """Reads the batches of some virtual workers ahead of the steps that need them.

    Daemon threads read; they never fork. The memory of two windows and of `ahead` + 1 steps for each worker is
    taken once, here, and reused: **a batch is valid until the next one is asked for**.
    The bits of a worker's batches do not depend on which other workers are hosted, on the first step asked for, nor on the threads.

    Args:
        dataset: where rows come from; it stays the caller's to close.
        sampler: which rows come when.
        workers: the virtual workers hosted here, each once.
        ahead: steps to read ahead beyond two windows, 1 or more.
        dtype: float32 or float64, for features and for floating targets; other targets are int64.
        device: where batches go. Copies to a GPU are begun by the consumer's thread, to which a device and its stream belong,
            one step ahead, so that they run beside the kernels of the step before.
        threads: how many read and decode, 1 or more.
        quarantine: leave out rows that cannot be read, and from the next epoch on their shards, instead of marking batches.

    Raises:
        ConfigError: for workers, ahead, dtype, threads or a sampler that do not fit.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        sampler: Sampler,
        workers: Sequence[int],
        ahead: int = AHEAD,
        dtype: Any = np.float32,
        device: Device = HOST,
        *,
        threads: int = 2,
        quarantine: bool = False,
    ) -> None:
        real = np.dtype(dtype)
        _refuse_misfits(dataset, sampler, workers, ahead, real, threads)
        self.workers, self.waited, self.quarantine = tuple(workers), 0.0, quarantine
        self.dead: frozenset[int] = frozenset()
        self._sampler, self._feed, self._crew = sampler, feed(device), Crew(threads)
        finite = np.zeros(dataset.rows, bool) if dataset.rows <= REMEMBERED_ROWS else None
        self._rings = [Ring(dataset, sampler, worker, real, ahead, finite, quarantine, self._feed.allocate) for worker in self.workers]
        self._thread: threading.Thread | None = None
        self._reading: _Reading | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the rings: all the memory that the loader holds."""
        return sum(ring.nbytes for ring in self._rings)

    @property
    def broken(self) -> dict[int, str]:
        """Shards that this epoch's quarantine found, by their position in the index: the least of the workers' first reasons."""
        found = sorted((shard, reason) for ring in self._rings for shard, reason in ring.broken.items())
        return dict(reversed(found))

    def batches(self, epoch: int, step: int = 0) -> Generator[list[Batch]]:
        """Yield, for each step from `step` to the end of the epoch, one batch for each hosted worker.

        Leaving the loop early ends the reading thread. `waited` grows by the seconds spent waiting for data.
        The rows of the shards in `dead`, as it is at this call, are left out.

        Args:
            epoch: 0 or more.
            step: the first step, 0 to steps (which yields nothing).

        Raises:
            ConfigError: for an epoch or step that does not exist, or while another epoch of this loader is being read.
            Exception: whatever went wrong on the reading thread, except errors of data, which are in the batches.
        """
        if epoch < 0 or not 0 <= step <= self._sampler.steps:
            raise ConfigError(f"epoch {epoch}, step {step}: expected epoch 0 or more, and a step from 0 to {self._sampler.steps}")
        return self._batches(epoch, step)

    def _batches(self, epoch: int, step: int) -> Generator[list[Batch]]:
        """Run the reading thread for as long as the generator lives."""
        if self._reading is not None or (self._thread is not None and self._thread.is_alive()):
            raise ConfigError("this loader is still reading another epoch; end or close that one first, they share memory")
        reading = self._reading = _Reading(step)
        thread = self._thread = threading.Thread(target=self._read, args=(epoch, step, reading), name="hpcml-loader", daemon=True)
        # A generator that outlives the program would leave the thread inside HDF5 while the interpreter is taken down.
        atexit.register(reading.end, thread)
        thread.start()
        steps: deque[Any] = deque()
        try:
            for number in range(step, self._sampler.steps):
                if not steps:
                    steps.append(self._send(self._next(reading)))
                if self._feed.looks_ahead and number + 1 < self._sampler.steps and not reading.ready.empty():
                    steps.append(self._send(self._next(reading)))  # its copies run beside the kernels of this step
                yield self._receive(steps.popleft())
                self._feed.release()
                reading.use_up(number)
        finally:
            self._feed.drain()
            reading.end(thread)
            self._reading = None
            atexit.unregister(reading.end)

    def _next(self, reading: _Reading) -> list[Filled] | BaseException:
        """Wait for the next step's rows, or for what ended the thread."""
        begin = time.perf_counter()
        if reading.ready.empty():
            self._crew.hasten()
        item: list[Filled] | BaseException = reading.ready.get()
        self.waited += time.perf_counter() - begin
        return item

    def _send(self, item: list[Filled] | BaseException) -> list[Batch] | BaseException:
        """Begin to put a step's rows where it wants them."""
        if isinstance(item, BaseException):
            return item
        arrays = [array for filled in item for array in (filled.rows.x, filled.rows.y, filled.rows.weights)]
        twins = iter(self._feed.start(arrays))
        return [
            Batch(worker, next(twins), next(twins), filled.rows.rows, filled.error, next(twins), filled.ids, filled.left_out)
            for worker, filled in zip(self.workers, item, strict=True)
        ]

    def _receive(self, item: list[Batch] | BaseException) -> list[Batch]:
        """Return a step's batches, there for what the caller's stream does next, or raise what ended the thread, at its step."""
        if isinstance(item, BaseException):
            raise item
        self._feed.arrive()
        return item

    def _read(self, epoch: int, step: int, reading: _Reading) -> None:
        """Make step after step ready: the body of the reading thread.

        The crew helps only while no step is ready: else it would take cores from the step, which costs it 1 to 2 %.
        """
        each = partial(self._crew.each, hurry=reading.ready.empty)
        try:
            for ring in self._rings:
                ring.begin(epoch, step, self.dead)
            for number in range(step, self._sampler.steps):
                for ring in self._rings:
                    while ring.needs(number):
                        reading.wait_for_room(ring)
                        ring.read_window(each, reading.check)
                reading.check()
                reading.ready.put([ring.take(number) for ring in self._rings])
        except Stopped:
            pass
        except BaseException as error:
            # Whatever it is, the consumer waits for it: a thread that dies in silence would hang the rank.
            reading.ready.put(error)
        finally:
            self._crew.dismiss()


class _Reading:
    """What the reading thread of one epoch and its consumer share: ready steps, how many are used up, the wish to stop."""

    def __init__(self, step: int) -> None:
        self.ready: SimpleQueue[Any] = SimpleQueue()
        self._used, self._wanted, self._stop = step, 0, False
        self._changed = threading.Condition()

    def use_up(self, step: int) -> None:
        """Give the memory of a step back; the reading thread is woken only where that is what it waits for."""
        with self._changed:
            self._used = step + 1
            if self._used >= self._wanted:
                self._changed.notify_all()

    def wait_for_room(self, ring: Ring) -> None:
        """Return when the ring's next window has room; raise Stopped when nobody wants it."""
        with self._changed:
            self._wanted = ring.room_at()
            while not self._stop and self._used < self._wanted:
                self._changed.wait()
        self.check()

    def check(self) -> None:
        """Raise Stopped when nobody wants more batches."""
        if self._stop:
            raise Stopped

    def end(self, thread: threading.Thread) -> None:
        """Make the thread come to its end, and wait for that a limited time."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        thread.join(STOP_SECONDS)


def _refuse_misfits(
    dataset: ShardedDataset, sampler: Sampler, workers: Sequence[int], ahead: int, real: np.dtype[Any], threads: int
) -> None:
    """Refuse arguments that cannot make a loader."""
    if sampler.rows != dataset.rows:
        raise ConfigError(f"the sampler was made for {sampler.rows} rows, the data set has {dataset.rows}; make it from dataset.shard_rows")
    if len(set(workers)) != len(workers) or any(not 0 <= worker < sampler.workers for worker in workers):
        raise ConfigError(f"workers {list(workers)}, expected each of 0 to {sampler.workers - 1} at most once")
    if ahead < 1 or threads < 1:
        raise ConfigError(f"ahead is {ahead} and threads {threads}, expected 1 or more of each")
    if real not in (np.float32, np.float64):
        raise ConfigError(f"dtype {real}, expected float32 or float64")
