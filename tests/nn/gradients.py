"""Finite differences: what every gradient is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays import to_host

STEP = 1e-5
"""The error of a central difference is STEP^2 from the curve and 1e-16 / STEP from rounding: about 1e-10 and 1e-11."""


def central_differences(value: Callable[[], Any], x: Any) -> np.ndarray:
    """Return the slope of value() with respect to x, element by element; x is left as it was."""
    assert x.flags.c_contiguous, "a copy would not change what value() reads"
    flat, slope = x.reshape(-1), np.zeros(x.size)
    for k in range(flat.size):
        kept = float(flat[k])
        flat[k] = kept + STEP
        above = float(value())
        flat[k] = kept - STEP
        slope[k] = (above - float(value())) / (2 * STEP)
        flat[k] = kept
    return slope.reshape(x.shape)


def assert_slopes_equal(found: Any, expected: np.ndarray) -> None:
    """Compare to 1e-6 of the largest slope."""
    np.testing.assert_allclose(to_host(found), expected, rtol=1e-6, atol=1e-6 * max(1e-3, float(np.abs(expected).max(initial=0))))
