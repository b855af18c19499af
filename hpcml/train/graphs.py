"""Worker's passes recorded once and launched again as a whole: on a device the host then gives one graph instead of hundreds of kernels.

A pass is Python from the rows to the finished gradient. Rows of a new shape go through it eagerly a few times, in which memory grows
and kernels are compiled; then it is recorded, which runs nothing; from then on it is launched. A recording does what was done once,
with the same numbers at the same addresses. So rows are copied into memory of its own, what layers draw on the host is drawn anew
before each launch, and what else decides the numbers must be as it was, or the pass is recorded again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hpcml.arrays import Array
from hpcml.arrays.device import address
from hpcml.arrays.graph import DeviceRecorder, Launch, Recorder, straight_products
from hpcml.data import Batch
from hpcml.errors import ConfigError, HpcmlError
from hpcml.nn import Model, Workspace
from hpcml.nn.draws import Draws
from hpcml.nn.layers.chain import numbered, walk

WARM_UP = 2
"""Eager passes over rows of a shape before they are recorded."""

MOST = 16
"""Shapes that are recorded; rows of others go through eagerly. A shard's end or a quarantine makes few, rows of any length many."""

NOTE = "train.graph:"
"""How a note begins that tells why passes are not recorded."""

Compute = Callable[[Batch], HpcmlError | None]
"""Leaves in the arena what a worker's rows give, and returns what was wrong."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """One recorded pass, and what keeps its memory."""

    frozen: tuple[object, ...]
    rows: Batch
    draws: Draws
    launch: Launch
    held: list[Array]

    def fill(self, batch: Batch) -> None:
        """Copy rows to where the recording reads them."""
        for place, new in ((self.rows.x, batch.x), (self.rows.y, batch.y), (self.rows.weights, batch.weights)):
            if place is not None:
                place[...] = new


class Graphs:
    """The recorded passes of one model."""

    def __init__(self, recorder: Recorder, model: Model, notes: list[str]) -> None:
        """Start with none.

        Args:
            recorder: of the model's device.
            model: whose passes they are.
            notes: to which is added why passes cannot be recorded, if they cannot.
        """
        self._recorder, self._model, self._notes = recorder, model, notes
        self._met: dict[tuple[object, ...], int] = {}
        self._recorded: dict[tuple[object, ...], _Recording] = {}
        self._refused = False

    def run(self, batch: Batch, step: int, frozen: tuple[object, ...], compute: Compute, work: Workspace) -> HpcmlError | None:
        """Leave in the arena what `compute` makes of a worker's rows, by a recording of it where there is one.

        Args:
            batch: of one worker, with rows.
            step: number of the step.
            frozen: what decides the numbers beside rows, draws and parameters; a recording serves where it is equal.
            compute: reads no number of the device and tells nobody of parts that are done.
            work: memory that compute uses beside the model's.
        """
        if self._refused:
            return compute(batch)
        arena, context = self._model.arena, self._model.context
        shape = (*(_form(x) for x in (batch.x, batch.y, batch.weights)), address(arena.data), address(arena.grad))
        held = self._recorded.get(shape)
        if held is None or held.frozen != frozen:
            held = self._record(shape, batch, frozen, compute, work)
        if held is None:
            return compute(batch)
        held.fill(batch)
        held.draws.renew(context, step, batch.worker)
        held.launch()
        return None

    def _record(
        self, shape: tuple[object, ...], batch: Batch, frozen: tuple[object, ...], compute: Compute, work: Workspace
    ) -> _Recording | None:
        """Record a pass over rows of this shape, if it is time to and can be done.

        One that is replaced is not in flight: what was frozen changes only after the host has read a sum that it gave.
        """
        met = self._met[shape] = self._met.get(shape, 0) + 1
        if met <= WARM_UP or (shape not in self._recorded and len(self._recorded) == MOST):
            return None
        context, place = self._model.context, Workspace()
        rows = replace(batch, **{name: _like(place, name, getattr(batch, name)) for name in ("x", "y", "weights")})
        context.draws = draws = Draws()
        try:
            launch = self._recorder.record(lambda: _require_none(compute(rows)))
        except Exception as error:  # whatever it is, an eager pass does without, or shows it where it belongs
            self._refused = True
            text = f"a pass cannot be captured ({type(error).__name__}: {error})"
            self._notes.append(f"{NOTE} kernels are launched one by one, since {text}; set it to false, or leave out what needs that")
            return None
        finally:
            context.draws = None
        layers = [layer for _, layer in walk(numbered(self._model.layers))]
        kept = [*work, *context.scratch, *(x for layer in layers for x in layer.work)]
        self._recorded[shape] = _Recording(frozen, rows, draws, launch, kept)
        return self._recorded[shape]


def _form(x: Array) -> tuple[object, ...] | None:
    """Return shape and dtype of x, or None."""
    return None if x is None else (x.shape, x.dtype.str)


def _like(place: Workspace, name: str, x: Array) -> Any:
    """Return memory like x on its device, or None."""
    return None if x is None else place.take(name, x.shape, x)


def _require_none(error: HpcmlError | None) -> None:
    if error is not None:
        raise error


def graphs_of(asked: bool, model: Model, late: bool, notes: list[str]) -> Graphs | None:
    """Return what records the passes of a model, where that is asked for.

    Args:
        asked: whether it is.
        model: on the run's device; its products go by calls that can be captured from now on, so that recorded and eager passes agree.
        late: whether the host reads nothing within a pass.
        notes: see Graphs.

    Raises:
        ConfigError: on a CPU, or where the host must read numbers on the way.
    """
    if not asked:
        return None
    index = model.arena.device.index
    if index is None:
        text = "train.graph = true captures what a GPU is given, and this run computes on the CPU, where a call costs a microsecond"
        raise ConfigError(f'{text}; leave it out, or set run.device = "gpu"')
    if not late:
        text = "train.graph = true needs passes within which the host reads nothing"
        raise ConfigError(f'{text}: set sync.name = "every-step", and model.synchronised = false; or leave it out')
    model.context.multiply = straight_products(index).multiply
    return Graphs(DeviceRecorder(index), model, notes)
