"""One worker's part of a step: its rows become a gradient and a tail, or one fault and zeros.

Letters: n parameters. A worker's rows may go through the model in micro-batches, whose gradients are added: memory for activations is
that of one micro-batch, the sum is that of all rows but for rounding.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.data import Batch, ShardedDataset
from hpcml.errors import DataError, HpcmlError, NumericsError, TargetError
from hpcml.nn import Loss, Model, Tail, Workspace
from hpcml.nn.model import ignore
from hpcml.train.graphs import Graphs
from hpcml.train.scaling import REMEDY, Scaler

Ready = Callable[[slice], None]


def _unheard(batch: Batch) -> None:
    """Do nothing with the news that rows were used."""


class Differentiator:
    """Makes gradients of batches with one model and one loss, in memory that is taken once."""

    def __init__(
        self,
        model: Model,
        loss: Loss,
        data: ShardedDataset,
        seed: int,
        micro_batch: int = 0,
        scaler: Scaler | None = None,
        *,
        late: bool = False,
        graphs: Graphs | None = None,
    ) -> None:
        """Prepare for the rows of a data set.

        Args:
            model: its arena is where gradients go.
            loss: of predictions and targets.
            data: says where a bad row lies.
            seed: of random numbers inside the model.
            micro_batch: rows that go through the model at a time; 0: all of a worker's.
            scaler: multiplies slopes and divides gradients; None: neither.
            late: the host reads nothing of a device: a loss that is no number counts as a fault there, and `explain` says why.
            graphs: records passes and launches them again; None: each pass is Python.
        """
        self.model, self.loss, self.data, self.seed, self.micro_batch = model, loss, data, seed, micro_batch
        self._work, self.late = Workspace(late=late), late
        tail = np.zeros(len(Tail), model.arena.dtype)
        self._tail: Array = model.arena.device.place(tail) if late else tail
        self._sum: Array = None
        self.scaler, self.graphs = scaler, graphs

    def run(
        self, batch: Batch, step: int, where: str, ready: Ready, used: Callable[[Batch], None], *, left_out: bool = False
    ) -> HpcmlError | None:
        """Leave in the arena the sums over this worker's rows: gradient, weight, loss, hits; return what was wrong, if anything.

        The tail is written before the last backward: from then on parts of the vector may be on their way to other nodes.

        Args:
            batch: of one worker, possibly without rows.
            step: number of the step.
            where: the position in words, for messages.
            ready: called with each span of the gradient that is final.
            used: called with the batch if its rows could be used.
            left_out: whether the step goes on without these rows: no forward, zeros.
        """
        if self.graphs is None or batch.error is not None or left_out or not len(batch.rows):
            return self._pass(batch, step, where, ready, used, left_out)
        frozen = (self.seed, self.micro_batch, self.model.context.precision, None if self.scaler is None else self.scaler.scale)
        fault = self.graphs.run(batch, step, frozen, lambda rows: self._pass(rows, step, where, ignore, _unheard, False), self._work)
        if fault is None:
            used(batch)
        ready(slice(0, self.model.arena.n))  # a graph is launched as a whole, so nothing can leave before
        return fault

    def _pass(self, batch: Batch, step: int, where: str, ready: Ready, used: Callable[[Batch], None], left_out: bool) -> HpcmlError | None:
        """Do what `run` says, kernel by kernel."""
        arena, slope, fault = self.model.arena, None, None
        self._tail[:] = 0
        try:
            if batch.error is not None:
                raise batch.error
            if len(batch.rows) and not left_out:
                slope = self._last_slope(batch, step, where)
            if self.late:
                self._tail[Tail.FAULTS :] = ~namespace(self._tail).isfinite(self._tail[Tail.LOSS : Tail.LOSS + 1])
            used(batch)
        except (DataError, NumericsError) as error:
            fault, slope = error, None
            self._tail[:] = 0
            self._tail[Tail.FAULTS] = 1
        arena.tail[...] = arena.device.place(self._tail)
        if slope is None:
            arena.grad[: arena.n] = 0
        else:
            told = ready if self.scaler is None else ignore  # an overflow is known, and told, when the gradient is whole
            self.model.backward(slope, ready=told if len(batch.rows) <= self._most(batch) else self._adding(told))
            if self.scaler is not None:
                self.scaler.unscale(arena.grad[: arena.trained], arena.tail)
        return fault

    def explain(self, batch: Batch, step: int, where: str) -> HpcmlError | None:
        """Return what is wrong with a worker's rows, which `run` found without a word, or None; waits for the device.

        The parameters must be those of `run`; the gradient is overwritten.
        """
        if batch.error is not None or not len(batch.rows):
            return batch.error
        self.late = self._work.late = False
        try:
            self._last_slope(batch, step, where)
        except (DataError, NumericsError) as error:
            return error
        finally:
            self.late = self._work.late = True
        return None

    def _most(self, batch: Batch) -> int:
        """Return how many of the batch's rows go through the model at a time."""
        return self.micro_batch or len(batch.rows)

    def _last_slope(self, batch: Batch, step: int, where: str) -> Array:
        """Sum all micro-batches but the last, and return the slope of the last one's predictions."""
        arena, most = self.model.arena, self._most(batch)
        starts = range(0, len(batch.rows), most)
        for part, first in enumerate(starts):
            slope = self._judge(batch, slice(first, min(first + most, len(batch.rows))), part, step, where)
            if part == len(starts) - 1:
                break
            self.model.backward(slope)
            if self._sum is None:
                self._sum = arena.vector()
            if part:
                self._sum += arena.grad[: arena.n]
            else:
                self._sum[...] = arena.grad[: arena.n]
        return slope

    def _adding(self, ready: Ready) -> Ready:
        """Return a listener that adds the earlier micro-batches to each span before it passes it on."""

        def add(span: slice) -> None:
            self.model.arena.grad[span] += self._sum[span]
            ready(span)

        return add

    def _judge(self, batch: Batch, rows: slice, part: int, step: int, where: str) -> Array:
        """Add weight, loss and hits of some rows to the tail and return the slope of their predictions."""
        x, y = batch.x[rows], batch.y[rows]
        weights = None if batch.weights is None else batch.weights[rows]
        weight = len(x) if weights is None else weights.sum() if self.late else float(weights.sum())
        self.model.context.train(seed=self.seed, step=step, worker=batch.worker, part=part, weight=weight, weights=weights, late=self.late)
        try:
            prediction = self.model.forward(x)
            hits = 0.0 if self.loss.hits is None else self.loss.hits(prediction, y)
            value, slope = self.loss(prediction, y, self._work, weights)
        except TargetError as error:
            path, row = self.data.locate(int(batch.rows[rows.start + error.row]))
            raise DataError(f"{where}, worker {batch.worker}: {error} (first at {path} row {row})") from None
        if not self.late and not math.isfinite(value):
            raise self._not_finite(batch, float(value), rows, f"{where}, worker {batch.worker}")
        for kind, amount in ((Tail.ROWS, len(x)), (Tail.WEIGHT, weight), (Tail.LOSS, value), (Tail.HITS, hits)):
            self._tail[kind : kind + 1] += amount if self.late else float(amount)
        if self.scaler is not None:
            slope *= self.scaler.scale
        return slope

    def _not_finite(self, batch: Batch, value: float, rows: slice, where: str) -> NumericsError:
        """Return an error that names the rows whose own loss is not finite, and the first layer that gave such a number.

        A second look at the rows is no meeting: layers that sum over all workers are told the sums of the first one, but for those that
        are not finite; there a worker goes on by itself, so that only who made such numbers meets them again, and where they were made.
        """
        context, bad = self.model.context, list[str]()
        meet, seen = context.meet, _Sums(context.recall)
        context.meet = seen.recall
        layer = self.model.first_not_finite(batch.x[rows])
        sums, place = seen.count, seen.first
        if place is None:
            place = sums + math.isfinite(self.loss(self.model.forward(batch.x[rows]), batch.y[rows], self._work)[0])
        for k in range(rows.start, rows.stop):
            row = slice(k, k + 1)
            if not math.isfinite(self.loss(self.model.forward(batch.x[row]), batch.y[row], self._work)[0]):
                bad.append("{} row {}".format(*self.data.locate(int(batch.rows[k]))))
        context.meet = meet
        shown = f"rows: {', '.join(bad[:3])}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else "") if bad else "no single row's loss"
        elsewhere = "though every layer's output is finite" + (" with the batch statistics of these rows alone" if sums else "")
        first = f"first in the output of {layer}" if layer else elsewhere
        remedy = "lower optimizer.rate, or set optimizer.clip" if self.scaler is None else REMEDY
        text = f"the loss is {value} over {rows.stop - rows.start} rows, not finite for {shown}, {first}; {remedy}"
        return NumericsError(f"{where}: {text}", place=place)


class _Sums:
    """Which of the vectors that a forward brings to its sums over all workers is the first that is not finite."""

    def __init__(self, recall: Callable[[Array], None]) -> None:
        self._recall, self.count = recall, 0
        self.first: int | None = None

    def recall(self, vector: Array) -> None:
        """Note a vector and overwrite it with its sum of before; see Context.recall."""
        if self.first is None and not bool(namespace(vector).isfinite(vector).all()):
            self.first = self.count
        self.count += 1
        self._recall(vector)


def cause(one: HpcmlError | None, other: HpcmlError | None) -> HpcmlError | None:
    """Return which of two workers' errors is the cause: the first, unless the other's numbers stopped being finite earlier in the model."""
    if isinstance(one, NumericsError) and other is not None and place_of(other) < place_of(one):
        return other
    return one or other


def place_of(error: HpcmlError | None) -> int:
    """Return how early in the model an error arose: rows that cannot be used before everything else, no error behind it."""
    if error is None:
        return sys.maxsize
    return error.place if isinstance(error, NumericsError) else -1
