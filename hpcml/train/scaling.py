"""The scale of a run's slopes: halved when a gradient overflows float16, doubled after many steps without.

A worker finds overflow in its own gradient and says it in the tail, as it says faults; so all ranks leave out the same steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.comm.communicator import everywhere
from hpcml.errors import ConfigError, NumericsError
from hpcml.nn import Scaling, Tail
from hpcml.sync import EveryStep

REMEDY = 'lower optimizer.rate, or set train.precision = "bfloat16", whose range is that of float32'


class Scaler:
    """A loss scale over the steps of a run; the same numbers on every rank, since it follows the sums of the tails alone."""

    def __init__(self, scaling: Scaling) -> None:
        """Begin with the first scale."""
        self.scaling, self.scale, self.good, self.skipped = scaling, scaling.first, 0, 0

    def unscale(self, grad: Array, tail: Array) -> None:
        """Overwrite a gradient of scaled slopes with the true one, and its tail's faults with 1 where a number is not finite.

        The host waits for neither on a device. Running statistics are no slopes, and must not be among the gradient.
        """
        xp = namespace(grad)
        grad *= 1 / self.scale
        if grad.size:
            tail[Tail.FAULTS :] = ~(xp.isfinite(grad.max()) & xp.isfinite(grad.min()))

    def follow(self, sums: np.ndarray, where: str, notes: list[str]) -> np.ndarray:
        """Return the sums by which to update, zeros for a step that is left out, after taking its overflow out of `sums`.

        Args:
            sums: of the tails over all workers; the only faults among them are overflows.
            where: the position in words.
            notes: to which a step left out is added.

        Raises:
            NumericsError: on every rank, where gradients overflow however small their scale.
        """
        if not sums[Tail.FAULTS]:
            self.good += 1
            if self.good == self.scaling.patience:
                self.scale, self.good = self.scale * 2, 0
            return sums
        if self.scale < 1:
            text = (
                f"gradients of {int(sums[Tail.FAULTS])} workers are not finite in float16, though the loss scale is down to {self.scale:g}"
            )
            raise everywhere(NumericsError(f"{where}: {text}; {REMEDY}"))
        sums[Tail.FAULTS] = 0
        self.scale, self.good, self.skipped = self.scale / 2, 0, self.skipped + 1
        notes.append(f"{where}: left out, since a gradient overflowed float16; the loss scale is now {self.scale:g}")
        return np.zeros_like(sums)

    def state(self) -> dict[str, float]:
        """Return plain numbers that restore this scaler exactly."""
        return {"scale": self.scale, "good_steps": self.good, "skipped_steps": self.skipped}

    def restore(self, saved: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.scale, self.good, self.skipped = saved["scale"], int(saved["good_steps"]), int(saved["skipped_steps"])


def scaler_of(precision: Any, plan: Any) -> Scaler | None:
    """Return the scaler that a model's precision calls for, or None.

    Raises:
        ConfigError: where workers would have moved before an overflow is known to all.
    """
    if precision is None or precision.scaling is None:
        return None
    if not isinstance(plan, EveryStep):
        text = "float16 (train.precision) leaves out steps of all workers at once, which only every-step can"
        raise ConfigError(f'{text}; set train.precision = "bfloat16", or sync.name = "every-step"')
    return Scaler(precision.scaling)
