"""Batches for the virtual workers of one rank, read ahead of the steps by one thread."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from hpcml.data.dataset import ShardedDataset
from hpcml.data.sampler import Sampler
from hpcml.data.slabs import Rows, Stopped, WorkerReader
from hpcml.errors import ConfigError, DataError

STOP_SECONDS = 10.0
"""How long a stopped epoch waits for its thread to come out of a read; a thread that hangs in one is left behind."""


def identity(array: np.ndarray) -> Any:
    """Return the host array itself: the place of a batch that stays in host memory."""
    return array


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one virtual worker at one step, possibly none.

    Args:
        worker: the virtual worker.
        x: (count, *row) features, float32 or float64, where `place` put them.
        y: (count, *row) target, int64 or the dtype of x, where `place` put it; None where the data has no target.
        rows: (count,) int64 global row numbers, in host memory.
        error: what is wrong with these rows, or None. It is not raised, so that all ranks can fail together
            at this step; the numbers of such a batch mean nothing.
    """

    worker: int
    x: Any
    y: Any
    rows: np.ndarray
    error: DataError | None


class Loader:
    """Reads the batches of some virtual workers ahead of the steps that need them.

    One daemon thread reads; it never forks. The memory of `ahead` + 1 steps and of two windows for each worker is
    taken once, here, and reused: **a batch is valid until the next one is asked for**.
    The bits of a worker's batches do not depend on which other workers are hosted, nor on the first step asked for.

    Args:
        dataset: where rows come from; it stays the caller's to close.
        sampler: which rows come when.
        workers: the virtual workers hosted here, each once.
        ahead: steps to read ahead, 1 or more.
        dtype: float32 or float64, for features and for floating targets; other targets are int64.
        place: moves a host array to the device. It is called on the consumer's thread: a device and its stream
            belong to a thread, and a copy made there is in order with the kernels that use it. The cost: that copy
            is not hidden behind the step.

    Raises:
        ConfigError: for workers, ahead, dtype or a sampler that do not fit.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        sampler: Sampler,
        workers: Sequence[int],
        ahead: int = 2,
        dtype: Any = np.float32,
        place: Callable[[np.ndarray], Any] = identity,
    ) -> None:
        real = np.dtype(dtype)
        _refuse_misfits(dataset, sampler, workers, ahead, real)
        self.workers, self.waited = tuple(workers), 0.0
        self._sampler, self._place = sampler, place
        self._readers = [WorkerReader(dataset, sampler, worker, real) for worker in self.workers]
        most = [max(sampler.count(0, worker), sampler.count(sampler.steps - 1, worker)) for worker in self.workers]
        self._ring = [[Rows.empty(dataset, count, real) for count in most] for _ in range(ahead + 1)]
        self._thread: threading.Thread | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the ring and the windows: all the memory that the loader holds."""
        return sum(reader.nbytes for reader in self._readers) + sum(rows.nbytes for slot in self._ring for rows in slot)

    def batches(self, epoch: int, step: int = 0) -> Generator[list[Batch]]:
        """Yield, for each step from `step` to the end of the epoch, one batch for each hosted worker.

        Leaving the loop early ends the reading thread. `waited` grows by the seconds spent waiting for data.

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
        if self._thread is not None and self._thread.is_alive():
            raise ConfigError("this loader is still reading another epoch; end or close that one first, they share memory")
        reading = _Reading(range(len(self._ring)))
        thread = self._thread = threading.Thread(target=self._read, args=(epoch, step, reading), name="hpcml-loader", daemon=True)
        # A generator that outlives the program would leave the thread inside HDF5 while the interpreter is taken down.
        atexit.register(reading.end, thread)
        thread.start()
        try:
            for _ in range(step, self._sampler.steps):
                slot, filled, errors = self._next(reading)
                yield [self._batch(*parts) for parts in zip(self.workers, filled, errors, strict=True)]
                reading.free.put(slot)
        finally:
            reading.end(thread)
            atexit.unregister(reading.end)

    def _next(self, reading: _Reading) -> tuple[int, list[Rows], list[DataError | None]]:
        """Wait for the next step's rows, or raise what ended the thread."""
        begin = time.perf_counter()
        item = reading.ready.get()
        self.waited += time.perf_counter() - begin
        if isinstance(item, BaseException):
            raise item
        slot, filled, errors = item
        return slot, filled, errors

    def _batch(self, worker: int, rows: Rows, error: DataError | None) -> Batch:
        """Put one worker's rows where the step wants them."""
        y = None if rows.y is None else self._place(rows.y)
        return Batch(worker, self._place(rows.x), y, rows.rows, error)

    def _read(self, epoch: int, step: int, reading: _Reading) -> None:
        """Fill slot after slot: the body of the reading thread."""
        try:
            for reader in self._readers:
                reader.forget()
            for number in range(step, self._sampler.steps):
                slot = reading.free.get()
                if slot is None:
                    return
                counts = [self._sampler.count(number, worker) for worker in self.workers]
                filled = [rows.part(0, count) for rows, count in zip(self._ring[slot], counts, strict=True)]
                errors = [reader.fill(epoch, number, rows, reading.stop) for reader, rows in zip(self._readers, filled, strict=True)]
                reading.ready.put((slot, filled, errors))
        except Stopped:
            return
        except BaseException as error:
            # Whatever it is, the consumer waits for it: a thread that dies in silence would hang the rank.
            reading.ready.put(error)


class _Reading:
    """What the reading thread of one epoch and its consumer share: free slots, ready slots, and the wish to stop."""

    def __init__(self, slots: range) -> None:
        self.free: SimpleQueue[int | None] = SimpleQueue()
        self.ready: SimpleQueue[Any] = SimpleQueue()
        self.stop = threading.Event()
        for slot in slots:
            self.free.put(slot)

    def end(self, thread: threading.Thread) -> None:
        """Make the thread come to its end, and wait for that a limited time."""
        self.stop.set()
        self.free.put(None)
        thread.join(STOP_SECONDS)


def _refuse_misfits(dataset: ShardedDataset, sampler: Sampler, workers: Sequence[int], ahead: int, real: np.dtype[Any]) -> None:
    """Refuse arguments that cannot make a loader."""
    if sampler.rows != dataset.rows:
        raise ConfigError(f"the sampler was made for {sampler.rows} rows, the data set has {dataset.rows}; make it from dataset.shard_rows")
    if len(set(workers)) != len(workers) or any(not 0 <= worker < sampler.workers for worker in workers):
        raise ConfigError(f"workers {list(workers)}, expected each of 0 to {sampler.workers - 1} at most once")
    if ahead < 1:
        raise ConfigError(f"ahead is {ahead}, expected 1 or more steps")
    if real not in (np.float32, np.float64):
        raise ConfigError(f"dtype {real}, expected float32 or float64")
