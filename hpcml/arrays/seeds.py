"""One seed, many independent streams of random numbers, each found by purpose and place."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """Return the random numbers of one purpose at one place, the same in every run and on every rank.

    Args:
        seed: the experiment's seed, 0 or more.
        purpose: a short fixed word, such as "order" or "init".
        where: whole numbers that say where: epoch, step, worker; 0 or more and below 2^32. One purpose always gives as many:
            to numpy (3,) and (3, 0) are one place.

    Returns:
        A fresh generator: ``stream(7, "order", 3)`` always starts at the same number.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *where])
