"""The significance filter of approximate synchronous parallel: which entries of an owed update are worth sending.

An entry is significant if its update is larger than v / sqrt(t) of its value, at clock t from 1; what is not, is kept and added up.

References:
    Hsieh et al., Gaia: geo-distributed machine learning approaching LAN speeds, NSDI 2017, section 4.1.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array

TINY = 1e-8
"""Added to a value's size: an entry of value zero would find every update significant."""


def significant(owed: Array, values: Array, scale: float, threshold: float, clock: int) -> np.ndarray:
    """Return the positions (k,) int64, ascending, of significant entries.

    Args:
        owed: (m,) summed gradients that were not sent yet.
        values: (m,) parameters.
        scale: what a gradient is multiplied by to become an update.
        threshold: v.
        clock: t, from 1.
    """
    return np.flatnonzero(np.abs(owed) * abs(scale) > threshold / clock**0.5 * (np.abs(values) + TINY))
