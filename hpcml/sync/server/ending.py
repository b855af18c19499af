"""How a rank runs its workers, and how all ranks find out together that an epoch's work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from hpcml.sync.server.client import Program
from hpcml.sync.server.dealing import DESK
from hpcml.sync.server.letters import Field, Kind, note
from hpcml.sync.server.post import Post
from hpcml.sync.server.termination import Termination, Verdict


def drive(post: Post, programs: Iterable[Program]) -> None:
    """Run the workers of this rank in turn, each as far as it can without waiting; letters are taken in between."""
    waiting: list[tuple[Program, Callable[[], bool]]] = [(program, _now) for program in programs]
    while waiting:
        moved = False
        for entry in list(waiting):
            program, condition = entry
            if not condition():
                continue
            moved = True
            waiting.remove(entry)
            following = next(program, None)
            if following is not None:
                waiting.append((program, following))
            post.turn()
        if not moved:
            post.wait(lambda: any(condition() for _, condition in waiting))


def _now() -> bool:
    return True


class Ending:
    """One rank's part in the end of an epoch."""

    def __init__(self, post: Post) -> None:
        self._post, self._termination, self._over = post, Termination(post.mail.size), False

    def meet(self) -> None:
        """Return when the work of all ranks is done, and no letter of it is on its way; until then letters are taken."""
        self._report()
        self._post.wait(lambda: self._over)

    def take(self, kind: Kind, source: int, fields: np.ndarray) -> None:
        """Take one of the letters by which ranks find out."""
        if kind is Kind.COUNT:
            self._report()
        elif kind is Kind.IDLE:
            verdict = self._termination.report(source, int(fields[Field.CLOCK]), int(fields[Field.EXTRA]))
            if verdict is not Verdict.WAIT:
                for rank in range(self._post.mail.size):
                    self._post.send(rank, note(self._post.mail, Kind.END if verdict is Verdict.END else Kind.COUNT, 0))
        else:
            self._over = True

    def _report(self) -> None:
        """Tell the desk that this rank's workers are done, and how many letters it has sent and taken by now."""
        self._post.send(DESK, note(self._post.mail, Kind.IDLE, 0, clock=self._post.sent, extra=self._post.taken))
