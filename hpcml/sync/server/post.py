"""A rank's letters beside its computation: taken between two gradients and while it waits; in a long gradient, by a thread.

MPI cannot wake anybody, so somebody must look. A rank that waits gives its core away at each look: it yields a few times, which finds an
answer soonest, then sleeps 50 us between looks. A rank that computes looks between its gradients, and leaves a thread to look once a
millisecond meanwhile: measured on two cores with four ranks, that costs 9 % of the computation; a look each 50 us would cost 34 %, and
a blocking probe, which spins, 51 %.
Only one of both threads is inside at a time, and between epochs there is no thread: MPI_THREAD_SERIALIZED is enough.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np

from hpcml.comm.mail import Mail
from hpcml.sync.server.letters import CONTROL, Field, head

SHORT, LONG = 50e-6, 1e-3
"""Seconds between two looks of a rank that waits, and of a thread beside one that computes."""

YIELDS = 20
"""Looks of a rank that waits before it begins to sleep between them."""


def counts(letter: np.ndarray) -> bool:
    """Return whether a letter belongs to the work, whose end the others find out about."""
    return int(head(letter)[Field.KIND]) not in CONTROL


class Post:
    """Hands letters to `take` as they come, and sends what is posted.

    Args:
        mail: the letter box.
        take: called with (sender, letter) of each letter, on either thread, one at a time.
        threaded: whether a thread beside the main one may call MPI; without it letters wait for the end of a gradient.
    """

    def __init__(self, mail: Mail, take: Callable[[int, np.ndarray], None], threaded: bool) -> None:
        self.mail, self._take, self._threaded = mail, take, threaded
        self.waited = 0.0
        self.sent = self.taken = 0
        self._inside = threading.RLock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start to take letters."""
        self._stop.clear()
        if self._threaded:
            self._thread = threading.Thread(target=self._run, name="hpcml-post", daemon=True)
            self._thread.start()

    def send(self, to: int, letter: np.ndarray, urgency: int = 0) -> None:
        """Post a letter; either thread may."""
        with self._inside:
            self.sent += counts(letter)
            self.mail.post(to, letter, urgency)

    def turn(self) -> bool:
        """Take all letters that are there; return whether there was one."""
        came = False
        with self._inside:
            while (found := self.mail.take()) is not None:
                came = True
                self.taken += counts(found[1])
                self._take(*found)
        if self._error is not None:
            raise self._error
        return came

    def wait(self, until: Callable[[], bool]) -> None:
        """Return when `until` holds, taking letters and giving the core away meanwhile."""
        begin, looks = time.perf_counter(), 0
        while not until():
            looks = 0 if self.turn() else looks + 1
            if 0 < looks <= YIELDS:
                os.sched_yield()
            elif looks:
                time.sleep(SHORT)
        self.waited += time.perf_counter() - begin

    def finish(self) -> None:
        """Return when all letters have left."""
        self.stop()
        while not self.mail.is_idle():
            time.sleep(SHORT)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            while not self._stop.wait(LONG):
                self.turn()
        except BaseException as error:  # the main thread must hear of it: a thread that dies in silence would hang the rank
            self._error = error
