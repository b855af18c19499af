"""Work that goes on beside the step: an MPI library makes no progress unless somebody calls it, so a thread does.

While the thread works the main thread computes and calls no MPI, so MPI_THREAD_SERIALIZED is enough.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Job = tuple[Callable[[Any], None], Any]


class Progress:
    """Runs jobs in the order in which they were started: on a thread of its own, or at once where threads may not call MPI."""

    def __init__(self, threaded: bool) -> None:
        """Start the thread, if there is to be one."""
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._open = 0
        self._threaded = threaded
        if threaded:
            threading.Thread(target=_work, args=(self._jobs, self._done), name="hpcml-progress", daemon=True).start()
            weakref.finalize(self, self._jobs.put, None)  # the thread ends with the last user

    def start(self, job: Callable[[Any], None], argument: Any) -> None:
        """Run job(argument) after those started before."""
        if not self._threaded:
            job(argument)
            return
        self._open += 1
        self._jobs.put((job, argument))

    def wait(self) -> None:
        """Return when all started jobs are done; raise what one of them raised."""
        while self._open:
            self._open -= 1
            error = self._done.get()
            if error is not None:
                raise error


def _work(jobs: SimpleQueue[Job | None], done: SimpleQueue[BaseException | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job[0](job[1])
        except BaseException as error:  # whoever waits must hear of it: a thread that dies in silence would hang the rank
            done.put(error)
        else:
            done.put(None)
        del job  # the jobs' owner may go as soon as they are done
