"""The road of a field in which some numbers stand for "no value", though nobody said what they shall become: such rows are refused."""

from __future__ import annotations

import numpy as np

from hpcml.data.checksums import Road
from hpcml.data.conventions import is_fill
from hpcml.data.roads import Landing, Runs, Scratch, deliver, with_places
from hpcml.data.storage import Stored
from hpcml.errors import DataError


class Refusing:
    """A road whose rows are looked at once they have come: a pass over them for each number that stands for none.

    Args:
        road: brings the rows.
        stored: how the field lies in the file, with the numbers that stand for no value.
        where: names file and field, for messages.
        shape: of a row.
        unit: what the number in an error counts.
    """

    def __init__(self, road: Road, stored: Stored, where: str, shape: tuple[int, ...], unit: str) -> None:
        self.road, self.stored, self.where, self.shape, self.unit = road, stored, where, shape, unit
        self.dtype = np.dtype(stored.dtype)
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing.

        Raises:
            DataError: for a row with a number that stands for no value.
            OSError, ValueError: as the road raises them.
        """
        for start, stop, part in with_places(runs, place):
            if np.can_cast(self.dtype, landing.array.dtype):
                self.road.read([(start, stop)], landing, part, scratch)
                self._refuse(landing.array[part], start)
                continue
            # Narrower floats would round a neighbour of such a number to it, or it to another.
            count = stop - start
            exact = scratch("exact", count * self.row_bytes).view(self.dtype).reshape(count, *self.shape)
            self.road.read([(start, stop)], Landing(exact), slice(0, count), scratch)
            self._refuse(exact, start)
            deliver(exact, landing.array, part, self.stored)

    def announce(self, start: int, count: int) -> None:
        """Tell the system that rows will be read soon."""
        self.road.announce(start, count)

    def _refuse(self, values: np.ndarray, start: int) -> None:
        """Raise DataError for the first number of rows (n, *row), from row `start` on, that stands for no value."""
        bad = is_fill(values, self.stored.fills, self.stored.valid)
        if not bad.any():
            return
        at = int(bad.argmax())
        row, number = start + at // (values.size // len(values)), values.reshape(-1)[at]
        text = f"{self.where}, {self.unit} {row}: has {number:.17g}, which stands for no value (_FillValue, valid_range, or by its writer)"
        raise DataError(
            f"{text}; leave such rows out, set data.cf = true and data.fill, or data.cf = false to take the numbers as they stand"
        )
