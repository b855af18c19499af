"""Steps in which layers sum numbers over all virtual workers, as batch normalisation does where it is synchronised.

A worker that comes to such a layer waits there until all workers have come. A rank that hosts several gives each a copy of the model,
which shares its parameters, and a thread; one of them runs at a time, in the order of the workers, and the last, which is the main
thread, sums over the ranks. So products have the same shapes on any number of ranks, and with them the same bits, at the cost of
activations and a gradient for each hosted worker. Every step has the same number of meetings on every rank: who has no rows, or cannot
go on, brings zeros to those that are left.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextvars import copy_context

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.comm.communicator import Communicator
from hpcml.data import Batch
from hpcml.errors import ConfigError, ShapeError
from hpcml.nn import Model
from hpcml.nn.layers.chain import numbered, walk
from hpcml.nn.layers.layer import Layer
from hpcml.nn.layers.recompute import Recompute
from hpcml.sync import EveryStep
from hpcml.sync.reducers import TreeSum

Compute = Callable[[int, Batch], None]
"""(seat, batch): leaves in the arena of the seat's model what a worker's rows give; it may come to fewer meetings than there are."""


def exchanging(model: Model) -> list[Layer]:
    """Return the layers that sum numbers over all workers."""
    return [layer for _, layer in walk(numbered(model.layers)) if layer.exchanged]


def require_lockstep(model: Model, sync: object, micro_batch: int) -> None:
    """Raise ConfigError or ShapeError if layers sum over all workers and this run's workers do not take a step together."""
    if not exchanging(model):
        return
    text = "batch norm synchronised over all workers (model.synchronised)"
    if not isinstance(sync, EveryStep):
        raise ConfigError(
            f'{text} needs workers with one model that step together; set sync.name = "every-step", or model.synchronised = false'
        )
    if micro_batch:
        raise ConfigError(f"{text} needs all rows of a step at once, train.micro_batch is {micro_batch}; set it to 0")
    for path, layer in walk(numbered(model.layers)):
        if isinstance(layer, Recompute) and any(inner.exchanged for _, inner in walk(layer.children)):
            raise ShapeError(f"{path[:-1]} would make synchronised statistics again in backward; leave out Recompute, or synchronised")


class Lockstep:
    """The hosted workers of a rank, taken through their models from one meeting of all workers to the next."""

    def __init__(self, model: Model, comm: Communicator, workers: int, hosted: int) -> None:
        """Make a model for each of the `hosted` workers; one alone has the run's own.

        Args:
            model: its parameters are everybody's.
            comm: the ranks in the order in which they host the workers.
            workers: V.
            hosted: workers of this rank.
        """
        layers = exchanging(model)
        self.model, self._rounds = model, 2 * len(layers)
        self.models = [_twin(model) for _ in range(hosted)] if hosted > 1 else [model]
        xp, length = namespace(model.arena.data), max(layer.exchanged for layer in layers)
        self._reducer = TreeSum(comm, workers, length, 0, np.float64, xp)
        self._sums = xp.zeros((self._rounds, length), np.float64)
        self._nothing = xp.zeros(length, np.float64)
        self._turns = [threading.Semaphore(0) for _ in range(hosted)]
        self._met = [0] * hosted
        self._broken: BaseException | None = None
        for seat, of in enumerate(self.models):
            of.context.meet, of.context.recall = self._meeting(seat), self._recalling()

    def run(self, batches: list[Batch], compute: Compute) -> list[Array]:
        """Compute all hosted workers' gradients and return each one's vector, tail included, valid until the next step."""
        self._met[:] = [0] * len(self._met)
        for twin in self.models:
            twin.arena.point(data=self.model.arena.data)
        last = len(batches) - 1
        threads = [
            threading.Thread(target=copy_context().run, args=(self._sit, seat, batch, compute), daemon=True)
            for seat, batch in enumerate(batches[:last])
        ]
        for thread in threads:
            thread.start()
        self._turns[0].release()
        self._wait(last)
        self._take(last, batches[last], compute)
        for thread in threads:
            thread.join()
        return [model.arena.grad for model in self.models]

    def _sit(self, seat: int, batch: Batch, compute: Compute) -> None:
        """Take a worker through the step in a thread of its own; what breaks it is raised by the main thread."""
        self._wait(seat)
        try:
            self.model.arena.device.activate()
            self._take(seat, batch, compute)
        except BaseException as error:
            self._broken = error
        self._turns[seat + 1].release()

    def _take(self, seat: int, batch: Batch, compute: Compute) -> None:
        compute(seat, batch)
        while self._met[seat] < self._rounds:
            self._meet(seat, self._nothing)

    def _meeting(self, seat: int) -> Callable[[Array], None]:
        """Return what a worker's layers call: overwrite a vector with its sum over all workers."""

        def meet(vector: Array) -> None:
            self._meet(seat, vector)
            vector[...] = self._sums[self._met[seat] - 1][: len(vector)]

        return meet

    def _recalling(self) -> Callable[[Array], None]:
        """Return what a repeated forward's layers call instead: overwrite a vector with its sum of before, unless that is not finite."""
        at = 0

        def recall(vector: Array) -> None:
            nonlocal at
            total, at = self._sums[at][: len(vector)], (at + 1) % (self._rounds // 2)
            if bool(namespace(total).isfinite(total).all()):
                vector[...] = total

        return recall

    def _meet(self, seat: int, vector: Array) -> None:
        """Add a vector as this worker's, and return when all workers' have come."""
        buffer = self._reducer.buffer()
        buffer[: len(vector)] = vector
        buffer[len(vector) :] = 0
        self._reducer.add()
        self._met[seat] += 1
        if seat == len(self._turns) - 1:
            self._reducer.finish()
            for span, total in self._reducer.parts():
                self._sums[self._met[seat] - 1][span] = total
        self._turns[(seat + 1) % len(self._turns)].release()
        self._wait(seat)

    def _wait(self, seat: int) -> None:
        self._turns[seat].acquire()
        if self._broken is not None and seat == len(self._turns) - 1:
            raise self._broken


def _twin(model: Model) -> Model:
    """Return a copy of a model with activations and a gradient of its own; its parameters are to be pointed at the model's."""
    twin = copy.deepcopy(model, {id(model.context.fast): model.context.fast})  # kernels are code: one will do
    twin.arena.point(data=twin.arena.vector(), grad=twin.arena.vector(tail=True))
    return twin
