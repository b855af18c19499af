"""A few threads that share out small jobs: reading and decoding leave Python's lock, so two are twice as fast as one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any


def always() -> bool:
    """Return True."""
    return True


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
        self._alone: _Work | None = None

    def each(self, function: Callable[[Any], None], items: Iterable[Any], hurry: Callable[[], bool] = always) -> None:
        """Call the function with every item, in no order, and return when all calls have ended.

        Args:
            function: what to do.
            items: what to do it with.
            hurry: asked by the calling thread before each of its items; it works alone until the first yes, or a `hasten`,
                and leaves the cores to others.

        Raises:
            BaseException: the first that a call raised; the items not yet begun are then left out.
        """
        work = self._alone = _Work(function, items)
        while work.items and self._alone is work:
            if len(work.items) > 1 and hurry():
                self.hasten()
            else:
                work.run_one()
        self._alone = None
        work.run()
        work.wait()

    def hasten(self) -> None:
        """Have the helpers join the work at which a thread is alone, if there is one: any thread may call this."""
        work, self._alone = self._alone, None
        if work is not None:
            self._enlist(work)

    def _enlist(self, work: _Work) -> None:
        """Give as many helpers as it has items to a work at which its own thread is."""
        helpers = min(self.threads - 1, len(work.items))
        while len(self._helpers) < helpers:
            helper = threading.Thread(target=self._help, name="hpcml-reader", daemon=True)
            self._helpers.append(helper)
            helper.start()
        for _ in range(helpers):
            self._jobs.put(work)

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
        while self.run_one():
            pass

    def run_one(self) -> bool:
        """Do an item and return True, or return False where none is left."""
        try:
            item = self.items.popleft()
        except IndexError:
            return False
        try:
            if self._error is None:
                self._function(item)
        except BaseException as error:
            self._error = self._error or error
        with self._changed:
            self._left -= 1
            if not self._left:
                self._changed.notify_all()
        return True

    def wait(self) -> None:
        """Return when every item is done, or raise what went wrong."""
        with self._changed:
            while self._left:
                self._changed.wait()
        if self._error is not None:
            raise self._error
