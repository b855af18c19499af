"""A rank's letters beside its computation: taken between two gradients and while it waits; in a long gradient, by a thread.

A rank that waits looks a few times, giving its core away between two looks, which finds an answer soonest; then it sleeps until its bell
rings. A rank that computes looks between its gradients; meanwhile a thread sleeps until the bell rings, and then rests a millisecond, so
that many letters cost little more than one. Both look now and then without a ring; what is found so is counted, and there is hardly any.
Where a rank cannot be rung by all others, for some are on other machines, waiting is looking, and the thread looks once a millisecond.
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

REST = 1e-3
"""Seconds between two looks of the thread beside a rank that computes, whatever comes."""

LOOKS = 4
"""Looks in vain after which the thread takes a ring as answered: MPI's first look may only fetch what its second one finds."""

YIELDS = 20
"""Looks of a rank that waits before it goes to sleep."""


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
        """Keep the box; `unrung` will count the letters that were found without a ring."""
        self.mail, self._take, self._threaded = mail, take, threaded
        self.waited = 0.0
        self.sent = self.taken = self.unrung = 0
        self._inside, self._waits = threading.RLock(), False
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
        begin, looks, bell, rung = time.perf_counter(), 0, self.mail.bell, True
        self._waits = True
        bell.deafen(True)
        while not until():
            if self.turn():
                self.unrung += not rung
                looks, rung = 0, True
                continue
            looks += 1
            pause = self.mail.pause if looks > YIELDS else 0.0
            if not pause:
                os.sched_yield()
            else:
                rung = bell.wait(pause)
                looks = 0 if rung else looks
        self._waits = False
        bell.deafen(False)
        self.waited += time.perf_counter() - begin

    def finish(self) -> None:
        """Return when all letters have left."""
        self.stop()
        while not self.mail.is_idle():
            self.mail.bell.wait(self.mail.pause)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._wake()
            self._thread.join()
            self._thread = None

    def _wake(self) -> None:
        """Let this rank's other thread look at what this one has done."""
        self.mail.bell.ring(self.mail.bell.name)

    def _answer(self, looks: int) -> bool:
        """Take letters until so many looks, one after the other, found none; return whether there was one."""
        vain, came = 0, False
        while vain < looks:
            vain = 0 if self.turn() else vain + 1
            came |= not vain
        return came

    def _run(self) -> None:
        try:
            while not self._stop.wait(REST):
                pause = self.mail.pause
                rung = self.mail.bell.wait_beside(pause or REST)
                if rung or not self._waits:
                    came = self._answer(LOOKS if rung else 1)
                    self.unrung += came and pause > 0 and not rung
                    if self._waits:  # what the main thread waits for may have come with these letters
                        self._wake()
        except BaseException as error:  # the main thread must hear of it: a thread that dies in silence would hang the rank
            self._error = error
            self._wake()
