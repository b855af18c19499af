"""What a pass over a model is told beside its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays import Array, namespace, stream
from hpcml.arrays.products import Multiply
from hpcml.errors import DeviceError
from hpcml.nn.draws import Draw, Draws
from hpcml.nn.precision import Precision
from hpcml.nn.workspace import Scratch


class Context:
    """One object that all layers of a model share: training or evaluation, and where the pass stands in the run.

    Random numbers come from (seed, step, worker, part) and the layer alone, so they do not depend on the ranks.
    """

    __slots__ = (
        "_step",
        "draws",
        "fast",
        "finish",
        "keep",
        "late",
        "meet",
        "multiply",
        "part",
        "precision",
        "recall",
        "scratch",
        "seed",
        "training",
        "weight",
        "weights",
        "worker",
    )

    def __init__(self) -> None:
        """Start in evaluation."""
        self.training, self.late, self.scratch = False, False, Scratch()
        self.seed = self._step = self.worker = self.part = 0
        self.draws: Draws | None = None
        """Of a pass that is being recorded; None in any other."""
        self.multiply: Multiply | None = None
        """How products on a device call cuBLAS; None where CuPy does."""
        self.weight: Any = None
        self.fast: Any = None
        """The fused functions of `arrays/fast.py`; None where all goes by numpy."""
        self.precision: Precision | None = None
        """To what operands of products are rounded in training; None where they are taken as they are."""
        self.weights: Array = None
        """(B,) by which the rows of a pass of training count; None where all count alike. For layers that learn by a rule of their own."""
        self.keep: Array = None
        """(B, T) where a position holds a token, not padding; set by the embedding, read by attention; None where all do."""
        self.finish: Any = _nobody_listens
        """Called with a layer when its backward is done: from then on its gradients may leave."""
        self.meet: Callable[[Array], None] = alone
        """Overwrites a float64 vector with its sum over all workers; set by the trainer where a layer exchanges."""
        self.recall: Callable[[Array], None] = alone
        """Overwrites it with the sum that `meet` gave in this forward, when that is repeated; leaves it where the sum is not finite."""

    def train(
        self, *, seed: int, step: int, worker: int, part: int = 0, weight: Any = None, weights: Array = None, late: bool = False
    ) -> None:
        """Let the next forward be one of training.

        Args:
            seed: of the run.
            step: number of the step, from 0.
            worker: the virtual worker whose rows come.
            part: number of the micro-batch within the worker's rows.
            weight: what the rows weigh together, a number or one on a device; left out, their number.
            weights: (B,) what each weighs; left out, all alike.
            late: rows that cannot be used are to make the loss no number, without a word to the host.
        """
        self.training, self.seed, self._step, self.worker, self.part = True, seed, step, worker, part
        self.weight, self.weights, self.late = weight, weights, late

    def evaluate(self) -> None:
        """Let the next forward be one of evaluation: nothing random, running statistics instead of the batch's."""
        self.training = False

    @property
    def taken(self) -> bool:
        """Return whether a model has made this its own."""
        return self.finish is not _nobody_listens

    @property
    def step(self) -> int:
        """The number of the step, from 0.

        Raises:
            DeviceError: in a pass that is recorded, which would keep the number of this one.
        """
        if self.draws is not None:
            raise DeviceError("a layer asks for the number of the step, or draws numbers, outside of Context.fresh")
        return self._step

    def random(self, purpose: str, layer: int) -> np.random.Generator:
        """Return the random numbers of layer number `layer` in this pass, the same on any rank and in a pass that is repeated."""
        return stream(self.seed, purpose, self.step, self.worker, self.part, layer)

    def fresh(self, draw: Draw, like: Array) -> Array:
        """Return what `draw` gives on the host, on the device of `like`; a pass that is recorded draws anew whenever it is launched."""
        if self.draws is not None:
            return self.draws.add(self, draw, like)
        drawn = draw()
        return drawn if namespace(like) is np else namespace(like).asarray(drawn)

    def weigh(self, rows: int) -> Any:
        """Return what the `rows` of this pass weigh together."""
        return float(rows) if self.weight is None else self.weight


def alone(vector: Array) -> None:
    """Do nothing: there is one worker, and its numbers are the sum."""


def _nobody_listens(layer: Any) -> None:
    """Do nothing: the layer stands in no model, or nobody waits for its gradients."""
