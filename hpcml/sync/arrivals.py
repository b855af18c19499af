"""In which order the workers of a step come: drawn, or as recorded, so that a run which counts the first ones only can be repeated."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hpcml.arrays.seeds import stream
from hpcml.errors import ConfigError


class Arrivals(Protocol):
    """Knows the order of each step's workers."""

    def order(self, step: int, workers: int) -> list[int]:
        """Return all workers, the first to come first."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A new random order at every step, a function of seed and step; `slow` workers come last, as a straggler does.

    Args:
        seed: of the orders.
        slow: workers behind all others at every step, the slowest last.
    """

    seed: int = 0
    slow: tuple[int, ...] = ()

    def order(self, step: int, workers: int) -> list[int]:
        """Return all workers, the first to come first.

        Raises:
            ConfigError: for a slow worker that does not exist.
        """
        if not set(self.slow) <= set(range(workers)):
            raise ConfigError(f"slow workers {list(self.slow)}, there are workers 0 to {workers - 1}; name some of these")
        drawn = stream(self.seed, "arrivals", step).permutation(workers).tolist()
        return [worker for worker in drawn if worker not in self.slow] + list(self.slow)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The orders of a record, step by step; two records of the same digest are the same.

    Args:
        orders: for each step all workers, the first to come first.
    """

    orders: tuple[tuple[int, ...], ...] = field(repr=False)
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Take the digest of the orders."""
        object.__setattr__(self, "digest", hashlib.sha256(repr(self.orders).encode()).hexdigest()[:16])

    @classmethod
    def read(cls, path: Path) -> Recorded:
        """Return the record in a file of one JSON list a line, such as [2, 0, 1].

        Raises:
            ConfigError: if it cannot be read, naming the line.
        """
        orders = []
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: no readable record of arrivals ({error})") from error
        for number, line in enumerate(lines, 1):
            try:
                orders.append(tuple(int(worker) for worker in json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path}: line {number} is no list of workers such as [2, 0, 1]: {line[:60]!r}") from error
        return cls(tuple(orders))

    def order(self, step: int, workers: int) -> list[int]:
        """Return all workers, the first to come first.

        Raises:
            ConfigError: if the record ends before this step, or its step is not of these workers.
        """
        if step >= len(self.orders):
            raise ConfigError(f"the record of arrivals has {len(self.orders)} steps, step {step} is asked for; record a longer run")
        found = list(self.orders[step])
        if sorted(found) != list(range(workers)):
            raise ConfigError(f"step {step} of the record of arrivals is {found}; it must name each of {workers} workers once")
        return found
