"""A few threads that share out small jobs: reading and decoding leave Python's lock, so two are twice as fast as one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any


class Crew:
    """Helpers of one thread, which works with them; they start at the first call that needs them.

    The helpers are daemons: one that hangs in a read of a dead file system does not keep the program from ending.

    Args:
        threads: how many work at a job, the calling thread among them; 1 or more.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: SimpleQueue[_Work | None] = SimpleQueue()
        self._helpers: list[threading.Thread] = []

    def each(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Call the function with every item, in no order, and return when all calls have ended.

        Raises:
            BaseException: the first that a call raised; the items not yet begun are then left out.
        """
        work = _Work(function, items)
        helpers = min(self.threads, len(work.items)) - 1
        while len(self._helpers) < min(helpers, self.threads - 1):
            helper = threading.Thread(target=self._help, name="hpcml-reader", daemon=True)
            self._helpers.append(helper)
            helper.start()
        for _ in range(helpers):
            self._jobs.put(work)
        work.run()
        work.wait()

    def dismiss(self) -> None:
        """Let the helpers end; a later call starts new ones."""
        for _ in self._helpers:
            self._jobs.put(None)
        self._helpers = []

    def _help(self) -> None:
        while (work := self._jobs.get()) is not None:
            work.run()


class _Work:
    """Items that are still to do, and the first thing that went wrong."""

    def __init__(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        self._function, self.items = function, deque(items)
        self._left = len(self.items)
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do items until none is left."""
        while True:
            try:
                item = self.items.popleft()
            except IndexError:
                return
            try:
                if self._error is None:
                    self._function(item)
            except BaseException as error:
                self._error = self._error or error
            with self._changed:
                self._left -= 1
                if not self._left:
                    self._changed.notify_all()

    def wait(self) -> None:
        """Return when every item is done, or raise what went wrong."""
        with self._changed:
            while self._left:
                self._changed.wait()
        if self._error is not None:
            raise self._error
