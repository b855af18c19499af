"""What the values may be that layers, losses and models are made from: a line for each, and one way to say what is wrong.

Each function returns the value that it was given, or raises ShapeError with what it belongs to, what came and what was expected.
A bool is no number here: `Dense(True)` is a slip, not a layer of one unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcml.arrays import namespace
from hpcml.errors import ShapeError


def whole(what: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Raises:
        ShapeError: if it is none.
    """
    if not is_whole(value) or value < least:
        raise ShapeError(f"{what} is {value!r}; it must be a whole number of at least {least}")
    return int(value)


def wholes(what: str, values: Any, least: int = 1, fewest: int = 1) -> tuple[int, ...]:
    """Return one or more whole numbers of at least `least`, as a tuple.

    Raises:
        ShapeError: if they are none, or fewer than `fewest`.
    """
    listed = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes))
    if not listed or len(values) < fewest or not all(is_whole(value) and value >= least for value in values):
        raise ShapeError(f"{what} are {values!r}; give a list, such as [16, 32], of whole numbers of at least {least}")
    return tuple(int(value) for value in values)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def array(what: str, x: Any, kinds: str = "f") -> None:
    """Raise ShapeError unless x is an array, of NumPy or CuPy, whose dtype is of one of these kinds.

    Args:
        what: what x is, in the message, plural.
        x: anything.
        kinds: letters of numpy's dtype.kind: f floating-point, i and u whole numbers, b bool.

    Raises:
        ShapeError: if it is none; of a masked array too, whose masked numbers would count.
    """
    try:
        namespace(x)
    except TypeError:
        raise ShapeError(f"{what} came as {type(x).__name__}; give an array of NumPy or CuPy, such as numpy.asarray makes") from None
    if hasattr(x, "mask"):
        raise ShapeError(f"{what} came as a masked array, whose masked numbers would count; fill it, or leave these rows out")
    if x.dtype.kind not in kinds:
        expected = " or ".join(word for letter, word in _KINDS.items() if letter in kinds)
        like = "numpy.float32" if "f" in kinds else "numpy.int64"
        raise ShapeError(f"{what} came as {x.dtype}; give {expected}, such as x.astype({like})")


_KINDS = {"f": "floating-point numbers", "i": "whole numbers"}


def part(what: str, value: Any) -> float:
    """Return a share or probability, 0 or more and below 1.

    Raises:
        ShapeError: if it is none.
    """
    return _number(what, value, "0 or more and below 1", _is_number(value) and 0 <= value < 1)


def small(what: str, value: Any) -> float:
    """Return a number above 0 and below 1, such as what is added before a division.

    Raises:
        ShapeError: if it is none.
    """
    return _number(what, value, "above 0 and below 1", _is_number(value) and 0 < value < 1)


def positive(what: str, value: Any) -> float:
    """Return a finite number above 0.

    Raises:
        ShapeError: if it is none.
    """
    return _number(what, value, "a finite number above 0", _is_number(value) and value > 0)


def weight(what: str, value: Any) -> float:
    """Return a finite number of 0 or more.

    Raises:
        ShapeError: if it is none.
    """
    return _number(what, value, "a finite number of 0 or more", _is_number(value) and value >= 0)


def weights(what: str, values: Any, count: int | None = None) -> tuple[float, ...]:
    """Return finite numbers of 0 or more, `count` of them if that is given.

    Raises:
        ShapeError: if they are none, or others in number.
    """
    listed = isinstance(values, (Sequence, np.ndarray)) and len(values) == (count or max(1, len(values)))
    if not listed or not all(_is_number(value) and value >= 0 for value in values):
        raise ShapeError(f"{what} are {values!r}; give {count or 'one for each class: a list of'} finite numbers of 0 or more")
    return tuple(values)


def flag(what: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        ShapeError: for anything else: a word such as "no" would count as True.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ShapeError(f"{what} is {value!r}; it must be True or False")
    return bool(value)


def _is_number(value: Any) -> bool:
    return (is_whole(value) or isinstance(value, (float, np.floating))) and math.isfinite(value)


def _number(what: str, value: Any, expected: str, fits: bool) -> float:
    if not fits:
        raise ShapeError(f"{what} is {value!r}; it must be {expected}")
    return float(value)
