"""What is read together for a window of rows, and where each row goes: arithmetic, no files.

Pieces are cut from the start of a run, whoever reads: a failure then covers the same rows in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hpcml.data.sampler import Window

PIECES_AT_ONCE, BYTES_AT_ONCE = 8, 1 << 21
"""Pieces that a thread reads at once, unless they have more bytes: beside the reads, eight cost hardly more Python than one.
Stopping waits for so many at most."""

Piece = tuple[int, int, int]
"""First row, the row after the last one, and the position of the first among the window's rows in file order."""


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What is read for a window, known before there is room for it.

    Args:
        window: its rows.
        groups: pieces that are read at once.
        dead: (first, last) positions in file order of rows that are left out.
        steps: (rows,) int64, the step of each row in the order of use.
        flat: (rows,) int64, the place of each row in the order of use.
        place: (rows,) int64, the same in file order.
        ids: slots of the ring that begin anew, slots that the window has rows of, and the sum of these rows' ids in each.
    """

    window: Window
    groups: list[list[Piece]]
    dead: list[tuple[int, int]]
    steps: np.ndarray
    flat: np.ndarray
    place: np.ndarray
    ids: tuple[np.ndarray, np.ndarray, np.ndarray]


def group_pieces(
    pieces: Iterable[tuple[int, int]], rows: int, is_dead: Callable[[int], bool]
) -> tuple[list[list[Piece]], list[tuple[int, int]]]:
    """Return the pieces in groups that follow one another in the files, and the positions of dead ones.

    Args:
        pieces: (start, stop) rows, ascending.
        rows: of a group at most, unless one piece has more; 0: each piece alone.
        is_dead: whether the piece that begins with a row is left out.
    """
    groups, dead, at, left = list[list[Piece]](), list[tuple[int, int]](), 0, 0
    for start, stop in pieces:
        count = stop - start
        if is_dead(start):
            dead.append((at, at + count))
            left = 0
        else:
            if left < count or len(groups[-1]) == PIECES_AT_ONCE:
                groups.append([])
                left = rows
            groups[-1].append((start, stop, at))
            left -= count
        at += count
    return groups, dead


def compact(place: np.ndarray) -> slice | np.ndarray:
    """Return places that follow one another as a slice, others as they are."""
    first, last = int(place[0]), int(place[-1])
    if last - first == len(place) - 1 and (len(place) < 3 or bool((np.diff(place) == 1).all())):
        return slice(first, last + 1)
    return place
