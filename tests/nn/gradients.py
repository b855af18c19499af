"""Finite differences: what every gradient is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.nn.checking import differences as central_differences

__all__ = ["assert_slopes_equal", "central_differences"]


def assert_slopes_equal(found: Any, expected: np.ndarray) -> None:
    """Compare to 1e-6 of the largest slope."""
    np.testing.assert_allclose(to_host(found), expected, rtol=1e-6, atol=1e-6 * max(1e-3, float(np.abs(expected).max(initial=0))))
