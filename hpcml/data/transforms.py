"""What happens to rows between the files and the model: frozen values, applied batch by batch on the reading thread.

Letters: B rows. A transform maps x (B, *row) and y (B, *target) or None to new ones; it may overwrite what it is given.
Random ones draw from (seed, epoch, row) alone, so they do not depend on ranks, threads or batches. In evaluation there is no
epoch: then they do the fixed thing that their docstring names.
"""

from __future__ import annotations

import hashlib
import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from hpcml.data.ledger import mix
from hpcml.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers of some rows in one epoch.

    Args:
        seed: the experiment's.
        epoch: the epoch.
        rows: (B,) int64 global row numbers.
        turn: how many transforms of the same kind came before: two flips draw apart.
    """

    seed: int
    epoch: int
    rows: np.ndarray
    turn: int = 0

    def uniform(self, purpose: str, count: int) -> np.ndarray:
        """Return (B, count) float64 in [0, 1), the same for a row wherever it is drawn; about 10 ns each."""
        key = mix(np.array([self.seed, self.epoch, zlib.crc32(purpose.encode()) + (self.turn << 32)]))
        rows = mix(self.rows) ^ mix(key.cumsum()[-1:])
        numbers = mix((rows[:, None] + np.arange(count, dtype=np.uint64)).reshape(-1)).reshape(len(rows), count)
        return (numbers >> np.uint64(11)) * 2.0**-53

    def normal(self, purpose: str, count: int) -> np.ndarray:
        """Return (B, count) float64 of the standard normal distribution (Box and Muller)."""
        pairs = self.uniform(purpose, 2 * count)
        return np.sqrt(-2 * np.log1p(-pairs[:, :count])) * np.cos(2 * np.pi * pairs[:, count:])


class Transform(Protocol):
    """One change to a batch."""

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Return the row shapes after the change; ConfigError where it does not fit."""

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the changed batch; `draw` is None in evaluation."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Features rounded to another dtype, such as float16, and held in their own."""

    dtype: str

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Keep both."""
        return x, y

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Round x."""
        return x.astype(self.dtype).astype(x.dtype), y


@dataclass(frozen=True, slots=True)
class Scale:
    """Features times `by` plus `shift`."""

    by: float = 1.0
    shift: float = 0.0

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Keep both."""
        return x, y

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Scale x where it stands."""
        x *= x.dtype.type(self.by)
        x += x.dtype.type(self.shift)
        return x, y


@dataclass(frozen=True, slots=True)
class Standardise:
    """Features minus their mean, over their standard deviation; columns that never change become zero.

    Args:
        mean: (*row,) float64.
        deviation: (*row,) float64, 0 or more.
    """

    mean: np.ndarray = field(repr=False)
    deviation: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.mean.tobytes() + self.deviation.tobytes()).hexdigest()
        return f"Standardise({digest[:16]})"

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Keep both."""
        if self.mean.shape != x:
            raise ConfigError(f"standardise: the statistics are of rows of shape {self.mean.shape}, the rows have {x}; compute them again")
        return x, y

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Standardise x where it stands."""
        x -= self.mean.astype(x.dtype)
        x *= np.divide(1.0, self.deviation, out=np.zeros_like(self.deviation), where=self.deviation > 0).astype(x.dtype)
        return x, y


@dataclass(frozen=True, slots=True)
class OneHot:
    """Whole-number targets (B,) as rows (B, classes) of one 1 and zeros."""

    classes: int

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Give targets, where there are any, a row of `classes` numbers."""
        if y is None:
            return x, None
        if self.classes < 1:
            raise ConfigError(f"one-hot needs the number of classes, got {self.classes}")
        if y != ():
            raise ConfigError(f"one-hot takes one whole number a row as target, the targets have shape {y}")
        return x, (self.classes,)

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Make y; a class outside 0 to classes - 1 becomes a row of NaN, which is refused."""
        if y is None:
            return x, None
        rows = (y[:, None] == np.arange(self.classes)).astype(x.dtype)
        rows[(y < 0) | (y >= self.classes)] = np.nan
        return x, rows


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of the last two axes of the features, at a random place; in evaluation the middle."""

    height: int
    width: int

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Shorten the last two axes."""
        if len(x) < 2 or self.height > x[-2] or self.width > x[-1] or min(self.height, self.width) < 1:
            raise ConfigError(f"crop to {self.height} x {self.width} does not fit rows of shape {x}")
        return (*x[:-2], self.height, self.width), y

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Cut x."""
        room = np.array([x.shape[-2] - self.height, x.shape[-1] - self.width])
        places = np.tile(room // 2, (len(x), 1)) if draw is None else (draw.uniform("crop", 2) * (room + 1)).astype(np.int64)
        out = np.empty((*x.shape[:-2], self.height, self.width), x.dtype)
        for row, (top, left) in enumerate(places.tolist()):
            out[row] = x[row, ..., top : top + self.height, left : left + self.width]
        return out, y


@dataclass(frozen=True, slots=True)
class Flip:
    """Features turned round along an axis of the row with some probability; never in evaluation."""

    axis: int = -1
    probability: float = 0.5

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Keep both."""
        if not -len(x) <= self.axis < len(x):
            raise ConfigError(f"flip: rows of shape {x} have no axis {self.axis}")
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"flip: probability is {self.probability}; it must lie between 0 and 1")
        return x, y

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Turn some rows of x."""
        if draw is not None:
            chosen = draw.uniform("flip", 1)[:, 0] < self.probability
            x[chosen] = np.flip(x[chosen], self.axis if self.axis < 0 else self.axis + 1)
        return x, y


@dataclass(frozen=True, slots=True)
class Noise:
    """Normal noise of standard deviation `deviation` added to the features; none in evaluation."""

    deviation: float

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Keep both."""
        if not 0 <= self.deviation < np.inf:
            raise ConfigError(f"noise: deviation is {self.deviation}; it must be 0 or more")
        return x, y

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Add to x where it stands."""
        if draw is not None and len(x):
            x += (self.deviation * draw.normal("noise", x[0].size)).astype(x.dtype).reshape(x.shape)
        return x, y


@dataclass(frozen=True, slots=True)
class Function:
    """A user's own function of a batch, function(x, y, draw) -> (x, y), named "package.module:function".

    For the same bits on any number of ranks a row's result may depend on that row and on `draw` alone.
    """

    name: str

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Ask the function itself, with one row of zeros."""
        new_x, new_y = self.load()(np.zeros((1, *x), np.float32), None if y is None else np.zeros((1, *y), np.int64), None)
        return tuple(new_x.shape[1:]), None if new_y is None else tuple(new_y.shape[1:])

    def apply(self, x: np.ndarray, y: np.ndarray | None, draw: Draw | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Call the function."""
        new_x, new_y = self.load()(x, y, draw)
        return new_x, new_y

    def load(self) -> Callable[..., Any]:
        """Return the function; ConfigError where it cannot be imported."""
        module, _, name = self.name.partition(":")
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"transform function {self.name!r} cannot be imported ({error}); give 'package.module:function'") from error
        return function


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Transforms one after the other.

    Args:
        steps: in order.
        seed: of the random ones.
    """

    steps: Sequence[Transform]
    seed: int = 0

    def shapes(self, x: Shape, y: Shape | None) -> tuple[Shape, Shape | None]:
        """Return the row shapes after all steps."""
        for step in self.steps:
            x, y = step.shapes(x, y)
        return x, y

    def apply(
        self, x: np.ndarray, y: np.ndarray | None, rows: np.ndarray | None = None, epoch: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the changed batch, x of the same dtype; without rows and epoch, as in evaluation."""
        draw = None if rows is None or epoch is None else Draw(self.seed, epoch, rows)
        kind, count, turns = x.dtype, len(x), Counter[type]()
        for step in self.steps:
            x, y = step.apply(x, y, None if draw is None else replace(draw, turn=turns[type(step)]))
            turns[type(step)] += 1
            if len(x) != count or (y is not None and len(y) != count):
                found = f"{len(x)} rows" if y is None else f"{len(x)} rows of features and {len(y)} of the target"
                raise ConfigError(f"transform {step} was given {count} rows and returned {found}; each row must stay one row")
        return x.astype(kind, copy=False), y
