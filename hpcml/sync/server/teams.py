"""Workers in groups: one leads, and is all that the server sees of its group; gradients inside are added over a fixed tree.

With as many groups as nodes this is the two-level store of MXNet: what crosses the network is combined inside the node first.

References:
    Mamidala et al., MXNET-MPI: embedding MPI parallelism in parameter server task model for scaling deep learning, 2018.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

import numpy as np

from hpcml.nn.arena import Arena
from hpcml.sync.server.average import TreeMean
from hpcml.sync.server.letters import HEAD_BYTES, Field, Kind, body, dense, head, weight, write_head
from hpcml.sync.server.post import Post

Waiting = Generator[Callable[[], bool], None, float]
"""Yields what must hold before it goes on, and returns the weight of the group's rows."""


class Team:
    """One worker's part in its group.

    Args:
        run: the workers of the group, the first of which leads.
        worker: this one.
        desks: the rank of each worker.
        arena: of the model.
        post: the rank's letters.
    """

    def __init__(self, run: range, worker: int, desks: list[int], arena: Arena, post: Post) -> None:
        self.run, self.worker, self.leads = run, worker, worker == run.start
        self._desks, self._arena, self._post = desks, arena, post
        self._mean = TreeMean(len(run), arena.n, arena.dtype) if self.leads and len(run) > 1 else None
        self._came: dict[int, np.ndarray] = {}
        self.models: deque[np.ndarray] = deque()

    def deliver(self, letter: np.ndarray) -> None:
        """Take a gradient from a member, or the parameters from the leader."""
        fields = head(letter)
        if int(fields[Field.KIND]) == Kind.GRADIENT:
            self._came[int(fields[Field.EXTRA])] = letter
        else:
            self.models.append(letter)

    def spread(self, view: np.ndarray | None) -> None:
        """Give the members the leader's parameters, or None: there is no more work in this epoch."""
        for member in self.run[1:]:
            letter = dense(self._post.mail, 0 if view is None else view.size, self._arena.dtype)
            write_head(letter, Kind.MODEL, member, extra=int(view is None))
            if view is not None:
                letter[HEAD_BYTES:].view(view.dtype)[:] = view
            self._post.send(self._desks[member], letter)

    def hold(self, grad: np.ndarray, rows: float) -> None:
        """Keep the leader's sum over its rows: others of its rank may use that memory while it waits."""
        if self._mean is not None:
            self._mean.put(0, grad, rows)

    def unite(self, grad: np.ndarray) -> Waiting:
        """Wait for the members; overwrite `grad` by the sum over the group's rows, and return their weight."""
        yield lambda: len(self._came) == len(self.run) - 1
        assert self._mean is not None
        for member, letter in self._came.items():
            self._mean.put(member - self.run.start, body(letter, self._arena.dtype), float(weight(letter)[0]))
            self._post.mail.give_back(letter)
        self._came.clear()
        total, rows = self._mean.take_sum()
        grad[:] = total
        return rows

    def report(self, grad: np.ndarray, rows: float) -> None:
        """Send a member's sum over its rows to the leader."""
        letter = dense(self._post.mail, grad.size, self._arena.dtype)
        write_head(letter, Kind.GRADIENT, self.run.start, extra=self.worker)
        weight(letter)[0] = rows
        letter[HEAD_BYTES:].view(grad.dtype)[:] = grad
        self._post.send(self._desks[self.run.start], letter)

    def receive(self, view: np.ndarray) -> bool:
        """Overwrite a member's copy by what has come from the leader; return False if that was the end of the epoch."""
        letter = self.models.popleft()
        more = not int(head(letter)[Field.EXTRA])
        if more:
            view[:] = body(letter, self._arena.dtype)
        self._post.mail.give_back(letter)
        return more
