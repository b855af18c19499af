"""An ensemble's members as one model to be judged, and how they are weighed.

Letters: V members, one a worker, or several of a cache; B rows, k outputs. Every rank holds all members while they are judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcml.arrays import Array, namespace, span, spans, to_host
from hpcml.comm.communicator import everywhere
from hpcml.errors import ConfigError
from hpcml.nn import Loss, Model, Workspace
from hpcml.sync.ensemble import Combine, Judgement
from hpcml.sync.reducers import TreeSum
from hpcml.sync.tree import hosts
from hpcml.train.evaluation import Judge, Reader, blocks

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer

JUDGED = 1024
"""Rows of each worker, at least, by which the other members are judged where their weights are learned."""


class Committee:
    """Predicts what a weighted sum of the members' predictions, or votes, means; stands where a model is only asked.

    Args:
        model: whose arena each member is put into in turn.
        loss: says what outputs mean.
        members: (n,) each.
        weights: (V,).
        combine: how.

    Raises:
        ConfigError: for anything but the mean where a row has several targets, and for votes where it has no class.
    """

    def __init__(self, model: Model, loss: Loss, members: Sequence[Array], weights: np.ndarray, combine: Combine) -> None:
        if combine.votes and not (loss.integer_target and loss.decide and model.outputs[-1] > 1):
            raise ConfigError(f'members vote for classes, which {loss.name} has not; set sync.combine = "mean"')
        if loss.each_position and combine.name != "mean":
            text = f'{loss.name} judges each position of a row, which sync.combine = "{combine.name}" cannot'
            raise ConfigError(f'{text}; set it to "mean"')
        self.arena, self.shape, self.outputs, self.context = model.arena, model.shape, model.outputs, model.context
        self.rows_at_once = model.rows_at_once
        self._model, self._loss, self._members, self._weights, self._votes = model, loss, members, weights, combine.votes

    def forward(self, x: Array) -> Array:
        """Return outputs (B, k) that mean what all members together predict."""
        total = sum(weight * self._share(outputs) for weight, outputs in zip(self._weights.tolist(), self._outputs(x), strict=True))
        if self._votes:  # as if the classes shared one vote more: a class without votes is unlikely, not impossible
            total = (total * len(self._members) + 1 / self.outputs[-1]) / (len(self._members) + 1)
        return self._loss.unlink(total).astype(self.arena.dtype)

    def shares(self, x: Array) -> np.ndarray:
        """Return what each member's outputs mean, (V, B, k) float64."""
        return np.array([to_host(self._loss.link(outputs)) for outputs in self._outputs(x)], np.float64)

    def losses(self, x: Array, y: Array, weights: Array | None, work: Workspace) -> np.ndarray:
        """Return each member's sum of losses over these rows, (V,) float64."""
        return np.array([float(self._loss(outputs, y, work, weights)[0]) for outputs in self._outputs(x)])

    def _outputs(self, x: Array) -> Iterator[Array]:
        """Yield each member's outputs, overwritten by the next one's."""
        before = self.arena.data
        for member in self._members:
            self.arena.point(data=member)
            yield self._model.forward(x)
        self.arena.point(data=before)

    def _share(self, outputs: Array) -> Array:
        if not self._votes or self._loss.decide is None:
            return self._loss.link(outputs)
        return namespace(outputs).eye(self.outputs[-1], dtype=outputs.dtype)[self._loss.decide(outputs)]


def judge_of(trainer: Trainer) -> Judge:
    """Return what predicts for a trainer: its model, or an ensemble's members together, weighed anew; every rank calls it."""
    members = trainer.sync.members()
    if members is None:
        return trainer.model
    models = gather(trainer, members.models, len(members.weights) // trainer.workers)
    try:
        committee = Committee(trainer.model, trainer.loss, models, members.weights, members.combine)
    except ConfigError as error:
        raise everywhere(error) from None
    if members.combine.weigh is not None:
        members.weights[:] = members.combine.weigh(judge(committee, trainer))
    return committee


def gather(trainer: Trainer, mine: dict[int, Sequence[Array]], each: int) -> list[Array]:
    """Return all workers' models, `each` a worker, in order, on every rank; hosted ones are not copied."""
    comm = trainer.nodes.order
    found = []
    for worker, host in enumerate(hosts(spans(trainer.workers, comm.size))):
        for model in mine.get(worker, [None] * each):
            found.append(trainer.model.arena.vector() if model is None else model)
            comm.broadcast(found[-1], host)
    return found


def judge(committee: Committee, trainer: Trainer) -> Judgement:
    """Return how the members do on each other's training rows, JUDGED or a window more of each worker's; every rank calls it.

    For stacking, what a worker's own member says of its rows is replaced by the mean of the others: it has seen them.
    """
    members, comm = trainer.workers, trainer.nodes.order
    reducer = TreeSum(comm, members, 0, members * (members + 3), np.float64)
    reader, work = Reader(trainer.data, trainer.model), Workspace()
    hosted = span(members, comm.size, comm.rank)
    trainer.model.context.evaluate()
    with comm.together():
        for worker in range(hosted.start, hosted.stop):
            sums = reducer.buffer()
            sums.fill(0)
            products, losses, rows, targets = _parts(sums, members)
            for first, last in _rows(trainer, worker):
                x, y, weights = reader.read(first, last)
                shares = committee.shares(x)
                others = [m for m in range(members) if m != worker] or [worker]
                shares[worker] = shares[others].mean(axis=0)
                flat = shares.reshape(members, -1)
                products += flat @ flat.T
                targets += flat @ _truth(to_host(y), shares.shape[1:], trainer.loss).reshape(-1)
                losses[others] += committee.losses(x, y, weights, work)[others]
                rows[others] += len(x) if weights is None else float(weights.sum())
            reducer.add()
    products, losses, rows, targets = _parts(reducer.finish(), members)
    return Judgement(losses / np.maximum(rows, 1), products, targets)


def _parts(sums: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (products (V, V), losses (V,), rows (V,), targets (V,)) as views."""
    products, rest = sums[: members * members].reshape(members, members), sums[members * members :].reshape(3, members)
    return products, rest[0], rest[1], rest[2]


def _rows(trainer: Trainer, worker: int) -> Iterator[tuple[int, int]]:
    """Yield runs of a worker's own rows, at most a block long, until JUDGED or more were named."""
    named = 0
    for k in range(trainer.sampler.windows(worker)):
        if named >= JUDGED:
            return
        for start, stop in trainer.sampler.window(0, worker, k).runs:
            named += stop - start
            yield from blocks(start, stop, trainer.model.rows_at_once)


def _truth(y: np.ndarray, shape: tuple[int, ...], loss: Loss) -> np.ndarray:
    """Return the targets in the shape of the shares: 1 for the right class and 0 elsewhere, or the numbers."""
    if loss.integer_target and shape[-1] > 1:
        return np.eye(shape[-1])[np.maximum(y, 0)] * (y >= 0)[..., None]  # a negative class is one that does not count
    return y.reshape(shape).astype(np.float64)
