"""Numbers that no rounding touches."""

from __future__ import annotations

from typing import Any

import numpy as np


def numbers(seed: int, shape: Any, dtype: Any = np.float64) -> np.ndarray:
    """Small whole numbers that every dtype holds and adds without rounding, different for each seed."""
    return np.random.default_rng(seed).integers(0, 20, shape).astype(dtype)
